"""Every family of timm that the documentation lists: stages, tokens and position embeddings, and a sweep over all."""

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from posenet_store.backbones.load import check_backbone, load_backbone
from posenet_store.cli import main
from posenet_store.errors import UsageError
from posenet_store.specs import BackboneSpec
from tests.support.small import write_images
from tests.support.timm_networks import (
    NAMES,
    ROWS,
    assert_stages_equal,
    find_size,
    make_pixels,
    make_plain_network,
    make_spec,
)

SWEEP = 'targets = ["H"]\nprotocols = ["ridge"]\nseeds = [0]\n'


@pytest.mark.parametrize(("name", "count", "first", "last", "aside", "positions"), ROWS, ids=NAMES)
def test_a_row_of_the_table_is_what_timm_returns(
    name: str, count: str, first: str, last: str, aside: str, positions: str
) -> None:
    backbone, size = load_backbone(make_spec(name)), find_size(name)
    images = make_pixels(size)
    assert_stages_equal(backbone.features(images), make_plain_network(name, size), backbone.inputs(images))
    channels = [tap.shape[0] for tap in backbone.taps]
    assert (len(channels), channels[0], channels[-1]) == (int(count), int(first), int(last))
    tokens = ", ".join(f"{number} {token}" for token, number in Counter(backbone.form.prefix).items())
    assert (tokens or "none") == aside
    if positions == "yes":
        check_backbone(make_spec(name, positions="zero"))
    else:
        with pytest.raises(UsageError, match="no position embedding"):
            check_backbone(make_spec(name, positions="zero"))


def test_stages_that_timm_computes_outside_of_their_modules_are_refused() -> None:
    with pytest.raises(UsageError, match=r"stage blocks.0 outside of that module.*--taps"):
        load_backbone(BackboneSpec("timm:hiera_tiny_224", "random:0", device="cpu"))


def test_a_sweep_runs_on_a_store_of_each(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 40)
    stores = ("--stores", str(tmp_path / "stores"))
    for name in NAMES:
        network = ("--backbone", f"timm:{name}", "--weights", "random:0", "--size", str(find_size(name)), "--device", "cpu")
        words = ("--images", str(images), "--layout", "aligned", "--dtype", "float32", "--no-probes")
        built = CliRunner().invoke(main, ["build-store", *network, *words, *stores])
        assert built.exit_code == 0, built.output
        assert ":" not in Path(built.stdout.splitlines()[-1]).name
    (tmp_path / "sweep.toml").write_text(SWEEP)
    run = ("--run", str(tmp_path / "run"), "--scheduler", "inline")
    ran = CliRunner().invoke(main, ["sweep", str(tmp_path / "sweep.toml"), *run, *stores])
    assert ran.exit_code == 0, ran.output
    table = CliRunner().invoke(main, ["table", str(tmp_path / "run"), "--json"])
    networks = {row["network"].partition(".")[0] for row in json.loads(table.stdout)}
    assert networks == {"best constant", *(f"timm:{name}" for name in NAMES)}
