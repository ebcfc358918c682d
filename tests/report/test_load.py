"""Results of several contents under one name: they are told apart everywhere, and never pooled or paired."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posenet_store.errors import DamageWarning
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.images.sources import load_image_set
from posenet_store.report.load import load_runs
from posenet_store.report.run import open_run
from posenet_store.report.table import our_lines
from posenet_store.specs import StoreSpec, Tap, unit
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.runs import cell, cli, constant, digest, write
from tests.support.small import built_store, tiny_backbone, write_images


def flip(path: Path) -> None:
    """Change the last byte of a file: of the JSON files, its final brace."""
    data = path.read_bytes().rstrip()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("part", ["cells", "heads", "scores"])
def test_damaged_cells_are_named_and_never_shown(tmp_path: Path, part: str) -> None:
    cells = [cell(constant(spc), seed=seed) for seed, spc in enumerate((0.5, 0.7))]
    run, copy = write(tmp_path / "run", cells), write(tmp_path / "copy", cells)
    (damaged,) = (run / part).glob(f"{cells[1].result.id}.*")
    flip(damaged)
    with pytest.warns(DamageWarning, match=damaged.name) as caught:
        assert open_run(run).results == [cells[0].result]
    assert len(caught) == 1
    commands: list[list[str | Path]] = [
        ["table", run],
        ["table", run, "--by", "target"],
        ["report", run, "--out", tmp_path / "page.html"],
    ]
    for command in commands:
        result = cli(*command)
        assert (result.exit_code, result.stderr.count(f"damaged: {damaged}")) == (0, 1), result.output
        assert ".600" not in result.stdout
    assert ".600" not in (tmp_path / "page.html").read_text()
    with pytest.warns(DamageWarning):
        loaded = load_runs([run, copy])
    assert loaded.folders[cells[1].result.id] == copy
    np.testing.assert_equal(loaded.open_archive().array(cells[1].result.id, "spc/held-out"), [0.7] * 4)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over two stores of one folder, of which an image was replaced between the builds."""
    root = tmp_path_factory.mktemp("identity")
    folder = write_images(root / "myset", 40)
    for seed in (0, 1):
        built_store(root / "stores", load_image_set(str(folder)), tiny_backbone())
        shutil.copy(write_images(root / f"other{seed}", 1, seed=9 + seed) / "image000.png", folder / "image003.png")
    stores = list_stores(root / "stores")[0]
    assert len(stores) == 2
    spec = SweepSpec("twice", train=("myset",), targets=("H",), protocols=("ridge",))
    plan = plan_sweep(spec, stores, root / "stores")
    assert not run_sweep(spec, plan, root / "run", scheduler="inline").failures
    return root


def read_json(*words: str | Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(cli(*words, "--json").stdout)
    return rows


def test_a_folder_whose_images_changed_is_two_image_sets(rebuilt: Path) -> None:
    names = {f"myset-{store.spec.images_sha256[:8]}" for store in list_stores(rebuilt / "stores")[0]}
    assert {row["images"] for row in read_json("table", rebuilt / "run", "--by", "images")} == names
    ours = [row for row in read_json("table", rebuilt / "run") if row["numbers"] == "ours: ridge"]
    assert {row["network"].split(" on ")[1] for row in ours} == names
    assert {row["spc_spread"] for row in ours} == {None}  # exact heads have no seeds
    assert {result.labels.images for result in open_run(rebuilt / "run").results} == names


def test_the_older_store_of_a_folder_is_noted(rebuilt: Path) -> None:
    first, second = list_stores(rebuilt / "stores")[0]
    stderr = cli("stores", "--stores", rebuilt / "stores").stderr
    assert "note: " in stderr and first.path.name in stderr and second.path.name in stderr
    notes = json.loads((rebuilt / "run" / "run.json").read_text())["notes"]
    assert any("'myset'" in note and first.path.name in note and second.path.name in note for note in notes)


def test_names_that_are_one_thing_stay_as_they_are(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [cell(constant(0.5), network=name) for name in ("a", "b", "a-padding-none")])
    assert [result.labels.network for result in load_runs([run]).results] == ["a", "b", "a-padding-none"]


def test_a_network_without_padding_keeps_its_name_though_its_taps_are_smaller() -> None:
    tap = Tap("f1", "0", (8, 16, 16))
    padded = StoreSpec(
        "vgg16", "hed", "w", "report", (tap,), unit(32), "images", "i", 40, "native", "float16", 8, padding="zeros"
    )
    unpadded = replace(padded, padding="none", taps=(replace(tap, shape=(8, 14, 14)),))
    assert Labels.of(padded).network_sha256 == Labels.of(unpadded).network_sha256
    assert Labels.of(padded).network_sha256 != Labels.of(replace(padded, weights_sha256="v")).network_sha256
    assert Labels.of(padded).network_sha256 != Labels.of(replace(padded, preprocess=unit(64))).network_sha256


def test_two_files_of_weights_are_two_networks_whatever_their_names(tmp_path: Path) -> None:
    own = "vgg16-own-padding-none"
    cells = [cell(constant(0.5), own), cell(constant(0.7), own, contents={"network": "retrained"})]
    lines = our_lines(load_runs([write(tmp_path / "run", cells)]).results)
    assert [line.network for line in lines] == [f"vgg16-own-{digest(n)[:8]}-padding-none" for n in ("vgg16-own", "retrained")]
    assert lines[0].labels.unpadded_network == f"vgg16-own-{digest('vgg16-own')[:8]}"


def test_stores_of_one_set_in_other_precision_are_no_seeds(tmp_path: Path) -> None:
    half, full = cell(constant(0.5), store="0123456789"), cell(constant(0.7), store="abcdef0123")
    runs = [write(tmp_path / name, [partner]) for name, partner in (("half", half), ("full", full))]
    lines = our_lines(load_runs(runs).results)
    assert [line.labels.images for line in lines] == ["duts-te-01234567", "duts-te-abcdef01"]
    other_input = cell(constant(0.7), store="abcdef0123", input="full:f5")
    assert {r.labels.images for r in load_runs([write(tmp_path / "c", [half, other_input])]).results} == {"duts-te"}


@pytest.mark.parametrize("changes", [{"value_range": (0.0, 255.0)}, {"normalise": True}, {"held_out": 30}])
def test_cells_that_differ_in_more_than_seeds_are_not_pooled(changes: dict[str, Any]) -> None:
    cells = [cell(constant(spc), **of).result for spc, of in ((0.5, {}), (0.7, changes))]
    (name,) = changes
    assert [f"{name} " in line.source for line in our_lines(cells)] == [True, True]


def test_a_test_column_of_other_images_is_another_column(tmp_path: Path) -> None:
    columns = dict(constant(0.5)) | dict(constant(0.6, test="photos"))
    other = dict(constant(0.5)) | dict(constant(0.9, test="photos"))
    first = write(tmp_path / "first", [cell(columns, protocol=RidgeProtocol())])
    second = write(tmp_path / "second", [cell(other, protocol=RidgeProtocol(), contents={"photos": "new"})])
    names = [f"photos-{digest(f'4 of {content}')[:8]}" for content in ("photos", "new")]
    loaded = load_runs([first, second])
    for (run, results), name, spc in zip(loaded.results_of.items(), names, (0.6, 0.9), strict=True):
        assert list(results[0].scores) == ["held-out", name]
        array = loaded.open_archive(run).array(results[0].id, f"spc/{name}")
        assert array is not None and array.mean() == pytest.approx(spc)
    refused = cli("compare", first, second, "--test", names[0])
    assert refused.exit_code == 2 and "not on both sides" in refused.stderr
