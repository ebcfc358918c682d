"""Top-1 of a whole network: classes of images, what is counted, and the comparison on the same images."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from scipy.stats import binomtest, t, ttest_ind_from_stats

from posenet_store.backbones.load import load_classifier
from posenet_store.errors import UsageError
from posenet_store.extraction.accuracy import classify_images, find_classes
from posenet_store.images.sources import load_image_set
from posenet_store.report.accuracy import Classified, compare_with_draws, list_accuracies
from posenet_store.specs import BackboneSpec
from tests.support.runs import cli
from tests.support.small import write_images


def test_classes_come_from_wordnet_ids_or_a_file(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    assert find_classes(["n01440764/a.png", "x_n01443537_goldfish.jpg", "cat.png"]) == [0, 1, -1]
    labels = tmp_path / "labels.csv"
    labels.write_text("image,class\na.png,7\nb.png,n01443537\n")
    assert find_classes(["a.png", "b.png", "c.png"], labels) == [7, 1, -1]
    with pytest.raises(UsageError, match="--labels"):
        find_classes(["a.png"])
    labels.write_text("a.png,1,2\n")
    with pytest.raises(UsageError, match="two columns"):
        find_classes(["a.png"], labels)
    with pytest.raises(UsageError, match="can't be read"):
        find_classes(["a.png"], tmp_path / "none.csv")


def test_images_without_a_class_or_unreadable_are_not_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 20)
    (tmp_path / "photos" / "image003.png").write_bytes(b"no image")
    images = load_image_set(str(tmp_path / "photos"))

    def classify(pixels: torch.Tensor) -> torch.Tensor:
        return (pixels.float().mean((1, 2, 3)) > 127).long()

    network: Any = SimpleNamespace(classify=classify, preprocess=SimpleNamespace(resize=8))
    expected = [int(images.read(index, 8).mean() > 127) if index != 3 else 0 for index in range(20)]
    correct = classify_images(images, network, [*expected[:19], -1])
    assert np.isnan(correct[[3, 19]]).all()
    assert (correct[np.isfinite(correct)] == 1).all()
    assert len(correct) == 20


def test_the_whole_network_is_torchvisions(tmp_path: Path) -> None:
    """A file of weights with its classifier: the same classes as the network itself gives; without one it is refused."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    file = tmp_path / "weights.pth"
    torch.save(network.state_dict(), file)
    spec = BackboneSpec("resnet18", str(file), device="cpu", size=64)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    classifier = load_classifier(spec)
    with torch.inference_mode():
        expected = network(classifier.inputs(pixels)).argmax(1)
    assert torch.equal(classifier.classify(pixels), expected)
    torch.save({name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}, file)
    with pytest.raises(UsageError, match="no classifier"):
        load_classifier(spec)
    with pytest.raises(UsageError, match="trained weights"):
        load_classifier(BackboneSpec("resnet18", "random:0", device="cpu"))


def test_networks_are_compared_on_the_same_images() -> None:
    before = np.array([1.0, 1, 1, 0, 0, np.nan] * 5)
    after = np.array([1.0, 0, 1, 0, 0, np.nan] * 5)
    listing = list_accuracies([Classified("plain", before), Classified("erased", after)])
    first, second = listing.records
    assert (first["top1"], first["images"], first["p"]) == (0.6, 25, None)
    assert second["difference"] == pytest.approx(-0.2)
    assert second["p"] == pytest.approx(binomtest(0, 5).pvalue)
    assert second["difference_low"] < -0.2 < second["difference_high"] < 0
    assert first["top1_low"] == pytest.approx(binomtest(15, 25).proportion_ci(0.95, "wilson").low)


def test_networks_that_agree_on_every_image_still_have_an_interval() -> None:
    """A t interval of equal answers has no width, as if no other images could tell the networks apart."""
    answers = np.array([1.0, 0, np.nan, 1] * 8)
    _, second = list_accuracies([Classified("plain", answers), Classified("erased", answers.copy())]).records
    assert (second["difference"], second["p"]) == (0, 1)
    assert second["difference_low"] == -second["difference_high"] < -0.02


def test_several_draws_have_a_mean_that_others_are_compared_with() -> None:
    """Mean and deviation are numpy's; the difference is scipy's t test of a sample and one value, which has no deviation."""
    draw, place = np.random.default_rng(0), ("H", ("f1", "f2"), (2, 2))
    base = (draw.random(200) < 0.9).astype(float)
    table = (draw.random((200, 4)) < np.array([0.5, 0.55, 0.6, 0.65])).astype(float)
    table[7] = np.nan  # no class
    erased = (draw.random(200) < 0.7).astype(float)
    drawn = [Classified(f"random{n}", table[:, n], *place, drawn=True) for n in range(4)]
    other = Classified("elsewhere", table[:, 0], "", ("f1",), (2,), drawn=True)
    listing = list_accuracies([Classified("plain", base), Classified("erased", erased, *place), *drawn, other])
    records = {record["network"]: record for record in listing.records}
    known = np.delete(table, 7, axis=0)
    mean = records["mean of 4 draws, f1+f2"]
    assert (mean["draws"], mean["images"], mean["stages"]) == (4, 199, "f1+f2")
    assert mean["top1"] == pytest.approx(known.mean())
    assert mean["deviation"] == pytest.approx(known.mean(0).std(ddof=1))
    assert mean["difference"] == pytest.approx((known - np.delete(base, 7)[:, None]).mean())
    assert records["erased"]["from_draws"] == pytest.approx((np.delete(erased, 7)[:, None] - known).mean())
    test = ttest_ind_from_stats(np.delete(erased, 7).mean(), 0, 1, known.mean(), known.mean(0).std(ddof=1), 4)
    assert records["erased"]["p_draws"] == pytest.approx(test.pvalue)
    half = records["erased"]["from_draws_high"] - records["erased"]["from_draws"]
    assert half == pytest.approx(t.ppf(0.975, 3) * known.mean(0).std(ddof=1) * (1 + 1 / 4) ** 0.5)
    assert {name for name in records if "from_draws" in records[name]} == {"erased"}
    assert [len(row) for row in listing.rows] == [6] * 8


def test_no_interval_leaves_what_shares_can_be() -> None:
    """Two draws that differ much have t intervals of any width."""
    draws = [
        Classified(str(rate), (np.arange(40) < 40 * rate).astype(float), "", ("f1",), (2,), drawn=True) for rate in (0.5, 0.9)
    ]
    erased = Classified("erased", (np.arange(40) < 38).astype(float), "H", ("f1",), (2,))
    of_erased, *_, of_draws = list_accuracies([erased, *draws]).records
    assert (of_draws["top1_low"], of_draws["top1_high"], of_draws["difference_low"]) == (0, 1, -1)
    assert (of_erased["from_draws_low"], of_erased["from_draws_high"]) == (-1, 1)


def test_the_difference_from_draws_holds_its_level() -> None:
    """Five draws whose top-1 scatter by .03 about .6, and an erasure that is one more draw, whose p must not be low."""
    errors, draw = 0, np.random.default_rng(0)
    for _ in range(4000):
        rates = draw.normal(0.6, 0.03, 6) + draw.normal(0, 0.2, (200, 1))  # some images are easier than others
        right = (draw.random((200, 6)) < rates).astype(float)
        errors += compare_with_draws(right[:, 5], right[:, :5])["p_draws"] < 0.05
    assert errors <= 0.06 * 4000


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 2)
    result = cli("accuracy", "--backbone", "resnet18", "--weights", "random:0", "--images", photos)
    assert result.exit_code == 2
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    (tmp_path / "labels.csv").write_text("image000.png,1\n")
    words = ("accuracy", "--backbone", "resnet18", "--weights", tmp_path / "w.pth", "--images", photos, "--size", "64")
    (record,) = json.loads(cli(*words, "--labels", tmp_path / "labels.csv", "--json").stdout)
    assert record["images"] == 1
