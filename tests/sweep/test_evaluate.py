"""Heads that another program trained: one convolution in a state dict, on any store."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from posenet_store.errors import UsageError
from posenet_store.heads.targets import make_target_map
from posenet_store.images.image_set import load_folder
from posenet_store.images.sources import load_image_set
from posenet_store.report.figures.head_maps import draw_head_maps
from posenet_store.store.reader import Reader
from posenet_store.sweep.evaluate import check_mirrored, evaluate_external, evaluate_heads
from posenet_store.sweep.head_files import ExternalHead
from tests.support.small import built_store, tiny_backbone, write_images


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("evaluation")
    return built_store(folder / "stores", load_folder(write_images(folder / "photos", 6)), tiny_backbone(), "aligned")


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["conv.pth", "conv.safetensors"])
@pytest.mark.parametrize("bias", [True, False])
def test_scores_are_those_of_the_convolution_itself(reader: Reader, tmp_path: Path, name: str, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(9, 1, 5, padding=1, bias=bias)
    state = {f"module.readout.{key}": value.detach() for key, value in conv.state_dict().items()}
    (row,) = evaluate_external(ExternalHead(saved(tmp_path / name, state), "V", padding=1), reader).rows()
    features = torch.from_numpy(reader.read("aligned", 0, 6).astype(np.float32))
    goal = make_target_map("V", 26)
    maps = conv(features).detach().numpy()[:, 0]
    spc = [spearmanr(values.ravel(), goal.ravel()).statistic for values in maps]
    assert row["spc"] == pytest.approx(np.mean(spc), abs=2e-4)  # a float32 convolution ranks near ties otherwise
    assert row["mae"] == pytest.approx(np.abs(maps - goal).mean(), rel=1e-5)
    assert (row["target"], row["images"]) == ("V", 6)


def test_the_convolution_must_fit_the_features(reader: Reader, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", nn.Conv2d(15, 1, 3).state_dict())
    with pytest.raises(UsageError, match=r"reads 15 channels; 'aligned' of .* has 9"):
        evaluate_external(ExternalHead(path, "H"), reader)


@pytest.mark.parametrize(
    "state",
    [
        {"w": torch.zeros(2, 9, 3, 3), "b": torch.zeros(2)},
        {"w": torch.zeros(1, 9, 3, 2)},
        {"w": torch.zeros(1, 9, 3, 3), "b": torch.zeros(1), "gain": torch.zeros(1)},
        {"w": torch.zeros(9)},
    ],
)
def test_anything_but_one_convolution_is_refused(reader: Reader, tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match="no single convolution with one output"):
        evaluate_external(ExternalHead(saved(tmp_path / "a.pth", state), "H"), reader)


def test_code_in_a_file_is_never_run(reader: Reader, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "ran").write_text, ("",))

    torch.save({"w": Evil()}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="code, which is never run"):
        evaluate_external(ExternalHead(tmp_path / "a.pth", "H"), reader)
    assert not (tmp_path / "ran").exists()


def test_contributions_of_the_channels_sum_to_the_mean_map(reader: Reader, tmp_path: Path) -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(9, 1, 3, padding=1)
    evaluation = evaluate_external(ExternalHead(saved(tmp_path / "a.pth", conv.state_dict()), "G", padding=1), reader)
    assert evaluation.contributions is not None and conv.bias is not None
    features = torch.from_numpy(reader.read("aligned", 0, 6).astype(np.float64))
    mean = conv.double()(features).mean(dim=0)[0].detach().numpy()
    np.testing.assert_allclose(evaluation.contributions.maps.sum(axis=0) + conv.bias.item(), mean, rtol=1e-9, atol=1e-12)
    goal = make_target_map("G", 28)
    expected = np.cov(mean.ravel(), goal.ravel(), bias=True)[0, 1] / goal.var()
    assert evaluation.contributions.share.sum() == pytest.approx(expected, rel=1e-9)
    assert evaluation.contributions.names[3] == "f2:0"
    figure = draw_head_maps(evaluation)
    assert [path.suffix for path in figure.save(tmp_path)] == [".png", ".svg"]
    assert len(figure.rows) == 8


def test_a_missing_file_is_said_to_be_missing(reader: Reader, tmp_path: Path) -> None:
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(UsageError, match="does not exist"):
            evaluate_external(ExternalHead(tmp_path / name, "H"), reader)


def published_head(path: Path, channels: int = 3, kernel: int = 3, seed: int = 0) -> Path:
    """Write a head as the report's authors did: a state dict of `conv`, in the format of torch before 1.6."""
    torch.manual_seed(seed)
    module = nn.Sequential()
    module.add_module("conv", nn.Conv2d(channels, 1, kernel))
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def test_many_heads_are_scored_as_each_alone(reader: Reader, tmp_path: Path) -> None:
    heads = []
    for seed, (kernel, target, source, channels) in enumerate(
        [(3, "H", "aligned", 9), (5, "V", "aligned:f1", 3), (1, "G", "aligned", 9)]
    ):
        path = published_head(tmp_path / f"{seed}.weights", channels, kernel, seed)
        heads.append(ExternalHead(path, target, source))
    together = evaluate_heads([head.open(reader) for head in heads])
    alone = [evaluate_external(head, reader) for head in heads]
    assert [evaluation.rows() for evaluation in together] == [evaluation.rows() for evaluation in alone]
    for evaluation, other in zip(together, alone, strict=True):
        assert evaluation.contributions is not None and other.contributions is not None
        np.testing.assert_array_equal(evaluation.contributions.maps, other.contributions.maps)


def test_mirrored_images_are_scored_against_the_mirrored_map(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 5)
    readers = [
        built_store(tmp_path / "stores", load_image_set(f"{folder}{way}"), tiny_backbone(), "aligned")
        for way in ("", "@mirrored")
    ]
    path = published_head(tmp_path / "a.weights", channels=9)
    (evaluation,) = evaluate_heads([ExternalHead(path, "ramp:30").open(*readers)])
    conv = nn.Conv2d(9, 1, 3).double()
    conv.load_state_dict({name.removeprefix("conv."): value.double() for name, value in torch.load(path).items()})
    goal = make_target_map("ramp:30", 26)
    maps, mirrored = (
        conv(torch.from_numpy(reader.read("aligned", 0, 5).astype(np.float64))).detach().numpy()[:, 0] for reader in readers
    )
    assert readers[0].ids == readers[1].ids
    for test, predicted, target in (
        ("photos", maps, goal),
        ("photos, mirrored", mirrored, goal[:, ::-1]),
        ("photos, both ways", (maps + mirrored[:, :, ::-1]) / 2, goal),
    ):
        scores = evaluation.scored[test].scores
        expected = [spearmanr(values.ravel(), target.ravel()).statistic for values in predicted]
        np.testing.assert_allclose(scores.spc, expected, rtol=1e-9)
        np.testing.assert_allclose(scores.mae, np.abs(predicted - target).mean(axis=(1, 2)), rtol=1e-9)


def test_only_the_mirror_images_of_the_same_rows_are_paired(reader: Reader, tmp_path: Path) -> None:
    other = built_store(tmp_path / "stores", load_folder(write_images(tmp_path / "photos", 5)), tiny_backbone(), "aligned")
    head = ExternalHead(published_head(tmp_path / "a.weights", channels=9), "H")
    with pytest.raises(UsageError, match="mirror images"):
        evaluate_heads([head.open(reader, other)])


def test_a_store_is_not_that_of_its_own_mirror_images(reader: Reader) -> None:
    with pytest.raises(UsageError, match="does not hold the mirror images"):
        check_mirrored(reader, reader)
