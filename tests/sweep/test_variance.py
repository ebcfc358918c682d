"""Position variance of a store: against numpy on its features, from kept sums without reading, and in a run."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import posenet_store
from posenet_store.errors import StoreError, UsageError
from posenet_store.heads.position_variance import SpanMaps, estimate_position_shares
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spans import cut_into_spans
from posenet_store.sweep.spec import SweepSpec
from posenet_store.sweep.variance import compute_variance
from posenet_store.sweep.variance_results import name_variance_file, read_variances
from tests.support.small import built_store, folder, tiny_backbone, write_images

RIDGE = SweepSpec(
    title="t",
    train=("photos",),
    targets=("H",),
    kernels=(1,),
    protocols=("ridge",),
    inputs=("full",),
    tests=(),
    variance=True,
    holdout=0.05,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A store of 40 images whose first tap, 32x32, is finer than the grid."""
    root = tmp_path_factory.mktemp("stores")
    images = load_image_set(str(write_images(root.parent / "photos", 40)))
    return built_store(root / "stores", images, tiny_backbone(size=64), "native", "float16", 7)


def test_it_is_that_of_the_features_as_they_are_stored(store: Reader) -> None:
    """The same estimator on plain sums of the stored features, at their own sizes; float64 sums differ in their order only."""
    variance = compute_variance(store, keep_moments=False)
    assert [(stage.name, stage.size) for stage in variance.stages] == [("f1", (32, 32)), ("f2", (16, 16)), ("f3", (8, 8))]
    assert (variance.images, variance.spans) == (40, 20)
    for stage in variance.stages:
        parts = [store.read(stage.name, *span).astype(np.float64) for span in cut_into_spans(40)]
        spans = SpanMaps(
            np.array([float(len(part)) for part in parts]),
            np.stack([part.sum(axis=0) for part in parts]),
            np.stack([(part**2).sum(axis=(0, 2, 3)) for part in parts]),
        )
        expected = estimate_position_shares(spans)
        np.testing.assert_allclose(stage.channels.value, expected.shares, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(stage.shares.high, expected.average().high, rtol=1e-9)
        assert stage.live == expected.live.sum()


def test_kept_sums_are_not_read_again(store: Reader) -> None:
    first = compute_variance(folder(store))
    again = open_store(folder(store))
    second = compute_variance(again)
    assert again.counter.bytes == 0
    assert second.to_dict() == first.to_dict()


def test_a_sweep_of_all_channels_keeps_what_it_needs_and_the_run_has_it(store: Reader, tmp_path: Path) -> None:
    """It trains on 19 twentieths: the last one, of two rows, is all that is read, once."""
    root = tmp_path / "stores"
    root.mkdir()
    (root / store.name).symlink_to(folder(store))
    plan = plan_sweep(RIDGE, list_stores(root)[0], root)
    assert run_sweep(replace(RIDGE, variance=False), plan, tmp_path / "run", scheduler="inline").failures == ()
    reader = open_store(root / store.name)
    expected = compute_variance(reader)
    assert reader.counter.bytes == 2 * 2 * sum(math.prod(reader.spec.arrays[name]) for name in ("f1", "f2", "f3"))
    assert run_sweep(RIDGE, plan, tmp_path / "run", scheduler="inline").failures == ()
    variances = read_variances(tmp_path / "run")
    assert variances[store.spec.fingerprint].to_dict() == expected.to_dict()
    file = name_variance_file(tmp_path / "run", store.spec.fingerprint)
    file.write_text(file.read_text().replace('"spans": 20', '"spans": 19'))
    with pytest.raises(StoreError, match=r"edited or damaged"):
        read_variances(tmp_path / "run")


def test_too_few_images_and_three_channels_a_tap_are_errors(tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 5)))
    with pytest.raises(UsageError, match=r"5 readable images.* needs 6"):
        posenet_store.compute_variance(built_store(tmp_path, images, tiny_backbone()))
    with pytest.raises(UsageError, match="all channels"):
        compute_variance(built_store(tmp_path, images, tiny_backbone(), "aligned"))
