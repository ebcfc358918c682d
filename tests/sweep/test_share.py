"""Workers share a pass: its heads and scores are those of one worker to the last bit, and what is lost is one step."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.store.chunking import count_row_bytes
from posenet_store.sweep import run as running
from posenet_store.sweep import share
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import RunFiles
from posenet_store.sweep.run import SweepResult, run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.runs import cli
from tests.support.small import built_store, folder, tiny_backbone, write_images

SPEC = SweepSpec(
    title="t", train=("photos",), tests=("probes",), protocols=("ridge",), inputs=("full", "full:f2"), kernels=(1, 3),
    recipes=(RidgeProtocol(lambdas=(1e-6, 1e-2)),),
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = tmp_path_factory.mktemp("share")
    for images in (str(write_images(lab / "photos", 43)), "probes"):
        built_store(lab / "stores", load_image_set(images), tiny_backbone(), dtype="float16")
    return lab / "stores"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every exact pass is shared, by a single worker that is this process."""
    monkeypatch.setattr(share, "SHARED_BYTES", 0)
    monkeypatch.setattr(running, "starts_workers", lambda scheduler, workers: True)


def swept(root: Path, run: Path, spec: SweepSpec = SPEC, keep: bool = False, **options: object) -> SweepResult:
    plan = plan_sweep(spec, list_stores(root)[0], root, keep)
    return run_sweep(spec, plan, run, **({"scheduler": "inline"} | options))  # type: ignore[arg-type]


def list_numbers(run: Path) -> dict[str, object]:
    """Bytes of all heads and scores, and the records without times."""
    arrays = {path: load_file(path) for path in run.glob("*/*.safetensors")}
    files: dict[str, object] = {
        f"{path.parent.name}/{path.stem}/{name}": array.tobytes()
        for path, named in arrays.items()
        for name, array in named.items()
    }
    for path in run.glob("cells/*.json"):
        record = json.loads(path.read_text())
        files[path.name] = {name: record[name] for name in ("scores", "fit", "tests")}
    return files


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, object]:
    run = root.parent / "alone"
    assert swept(root, run).now == 20
    return list_numbers(run)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("keep", [False, True])
def test_steps_give_the_same_to_the_last_bit(root: Path, tmp_path: Path, alone: dict[str, object], keep: bool) -> None:
    stores = tmp_path / "stores"
    stores.symlink_to(root)
    outcome = swept(stores, tmp_path / "run", keep=keep)
    assert (outcome.now, outcome.failures, len(outcome.passes)) == (20, (), 1)
    assert list_numbers(tmp_path / "run") == alone
    assert not RunFiles(tmp_path / "run").parts.exists()
    assert (root / "moments").exists() == keep


@pytest.mark.usefixtures("shared")
def test_kept_sums_are_not_summed_again(tmp_path: Path, root: Path) -> None:
    """The tally of what is read: all images, then those that test only."""
    (entry,) = (entry for entry in list_stores(root)[0] if entry.spec.images == "photos")
    size, tested = count_row_bytes(entry.spec, ["f1", "f2", "f3"]), 9 + 3  # held out, and the probes
    spec = replace(SPEC, tests=())
    swept(root, tmp_path / "first", spec, keep=True)
    (again,) = swept(root, tmp_path / "second", spec, keep=True).passes
    assert (again.read.bytes, again.read.images) == (tested * size, tested)
    assert list_numbers(tmp_path / "first") == list_numbers(tmp_path / "second")


@pytest.mark.usefixtures("shared")
def test_a_failing_step_fails_its_pass_once(tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    images = load_image_set(str(write_images(tmp_path / "photos", 33)))
    broken, _ = (built_store(stores, images, tiny_backbone(seed)) for seed in range(2))
    next(folder(broken).glob("data.zarr/f1/c.0.0.0.0")).unlink()
    outcome = swept(stores, tmp_path / "run", replace(SPEC, tests=()))
    assert (outcome.now, len(outcome.failures), len(outcome.passes)) == (20, 1, 1)
    assert folder(broken).name in outcome.failures[0]


@pytest.mark.usefixtures("shared")
def test_sums_that_cannot_be_kept_are_summed_where_they_are_needed(
    tmp_path: Path, root: Path, alone: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MomentCache, "save", lambda self, subject, tensors: None)
    assert swept(root, tmp_path / "run").failures == ()
    assert list_numbers(tmp_path / "run") == alone


def test_small_passes_and_steps_of_gradients_are_not_shared(root: Path) -> None:
    specs = {entry.spec.fingerprint: entry.spec for entry in list_stores(root)[0]}
    large = {name: replace(spec, rows=10**6) for name, spec in specs.items()}
    for protocol, grown, count in (("ridge", specs, 0), ("ridge", large, 20), ("report-2020", large, 0)):
        spec = replace(SPEC, protocols=(protocol,), recipes=(), holdout=0, inputs=("full",))
        (task,) = plan_sweep(spec, list_stores(root)[0], root).passes
        assert len(share.list_spans(replace(task, train_rows=grown[task.store].rows, cells=()), grown[task.store])) == count


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(share, "SHARED_BYTES", 0)
    yield


@pytest.mark.system
@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_to_the_last_bit(
    root: Path, tmp_path: Path, alone: dict[str, object], workers: int
) -> None:
    assert swept(root, tmp_path / "run", scheduler="local", workers=workers).now == 20
    assert list_numbers(tmp_path / "run") == alone


def test_a_plan_says_in_how_many_spans_workers_share_a_pass(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "SHARED_BYTES", 0)
    (tmp_path / "s.toml").write_text('train = ["photos"]\nprotocols = ["ridge"]\ninputs = ["full"]\nkernels = [1]\n')
    words = ("sweep", tmp_path / "s.toml", "--stores", root, "--plan", "--json", "--no-keep-moments")
    for more, spans in (((), 0), (("--workers", "2"), 16)):
        (task,) = json.loads(cli(*words, *more).stdout)["passes"]
        assert task["spans"] == spans
