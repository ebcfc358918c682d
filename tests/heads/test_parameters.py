"""Heads with more than one linear convolution: each equals a plain torch module trained by torch's own optimiser."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posenet_store.heads.file import METADATA, load_head, save_head
from posenet_store.heads.model import Heads, Standardisation
from posenet_store.heads.moments import compute_image_moments
from posenet_store.heads.parameters import HeadArchitecture
from posenet_store.heads.protocols import PROTOCOLS, GradientProtocol
from posenet_store.heads.targets import make_target_map
from posenet_store.heads.train_convolution import TrainingGroup, train_by_convolution
from posenet_store.heads.train_gram import train_in_gram_space
from posenet_store.sweep.training_inputs import compute_standardisation

CHANNELS = 5
FEATURES = torch.randn(14, CHANNELS, 28, 28, generator=torch.Generator().manual_seed(1)).relu() * 3
OFFICIAL = PROTOCOLS["official-2021"]
assert isinstance(OFFICIAL, GradientProtocol)
SMALL = replace(OFFICIAL, epochs=6, drop=4, batch_size=4, size=40)  # the last batch has two images
RTOL = 1e-6  # float64 throughout: what is left is the order of sums, amplified by training


def order(epoch: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    rows = np.random.default_rng([2, epoch]).permutation(len(FEATURES))
    return [rows[first : first + 4] for first in range(0, len(rows), 4)]


def batches(epoch: int) -> Iterator[Tensor]:
    return (FEATURES[torch.from_numpy(rows)] for rows in order(epoch))


def group(recipe: GradientProtocol, names: tuple[str, ...], seeds: tuple[int, ...], padding: int = 0) -> TrainingGroup:
    size = recipe.size or 28 + recipe.layers * (2 * padding - 2)
    targets = torch.stack([torch.from_numpy(make_target_map(name, size, normalise=recipe.normalise).copy()) for name in names])
    return TrainingGroup(3, padding, recipe, seeds, targets)


class Official(nn.Module):
    """The authors' decoder, as they write it: convolution, BatchNorm2d, ReLU; sigmoid; F.interpolate."""

    def __init__(self, recipe: GradientProtocol, padding: int, seed: int) -> None:
        super().__init__()
        row = HeadArchitecture(CHANNELS, 3, padding, recipe).draw_parameters(seed)
        layers: list[nn.Module] = []
        widths = [CHANNELS, *[recipe.hidden or CHANNELS] * (recipe.layers - 1), 1]
        for inputs, outputs in pairwise(widths):
            conv = nn.Conv2d(inputs, outputs, 3, padding=padding).double()
            assert conv.bias is not None
            taken = outputs * inputs * 9
            with torch.no_grad():
                conv.weight.copy_(row[:taken].view_as(conv.weight))
                conv.bias.copy_(row[taken : taken + outputs])
            row = row[taken + outputs * (3 if recipe.sigmoid else 1) :]
            layers += [conv, *([nn.BatchNorm2d(outputs).double()] if recipe.sigmoid else []), nn.ReLU()]
        layers[-1] = nn.Sigmoid() if recipe.sigmoid else nn.Identity()
        self.layers, self.size = nn.Sequential(*layers), recipe.size

    def forward(self, inputs: Tensor) -> Tensor:
        maps: Tensor = self.layers(inputs)
        return nn.functional.interpolate(maps, (self.size,) * 2, mode="bilinear") if self.size else maps


def plain_torch(recipe: GradientProtocol, name: str, seed: int, padding: int = 0) -> Official:
    """Train one decoder as the authors do: MSELoss, SGD or Adam, the rate a tenth from one epoch on."""
    net = Official(recipe, padding, seed).train()
    rate, decay = recipe.learning_rate, recipe.weight_decay
    sgd = recipe.optimizer == "sgd"
    optimizer: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), rate, weight_decay=decay)
    if sgd:
        optimizer = torch.optim.SGD(net.parameters(), rate, recipe.momentum, weight_decay=decay)
    goal = group(recipe, (name,), (seed,), padding).targets[0]
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = rate * (0.1 if recipe.drop and epoch >= recipe.drop else 1)
        for batch in batches(epoch):
            optimizer.zero_grad()
            maps = net(batch.double())[:, 0]
            nn.functional.mse_loss(maps, goal.expand_as(maps)).backward()
            optimizer.step()
    return net.eval()


RECIPES = {
    "official": SMALL,
    "official, 2 layers": replace(SMALL, layers=2),
    "official, 3 narrow layers": replace(SMALL, layers=3, hidden=3, learning_rate=0.02),
    "paper": replace(SMALL, sigmoid=False, learning_rate=1e-4, zero_bias=False, drop=0),
    "linear, 2 layers, Adam": GradientProtocol(epochs=6, layers=2, hidden=4),
    "linear, SGD": GradientProtocol(epochs=6, optimizer="sgd", momentum=0.9, learning_rate=1e-4, drop=3),
}


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_fused_heads_equal_a_plain_torch_loop_of_each(recipe: GradientProtocol, padding: int) -> None:
    names, seeds = ("H", "G", "VS"), (0, 1, 0)
    (heads,) = train_by_convolution(batches, recipe.epochs, CHANNELS, [group(recipe, names, seeds, padding)])
    maps = heads.predict(FEATURES)
    for index, (name, seed) in enumerate(zip(names, seeds, strict=True)):
        expected = plain_torch(recipe, name, seed, padding)(FEATURES.double())[:, 0].detach()
        torch.testing.assert_close(maps[:, index], expected, rtol=RTOL, atol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_head_is_the_same_alone_and_among_others(recipe: GradientProtocol) -> None:
    names, seeds = ("H", "V", "G", "HS", "VS") * 2, tuple(range(10))
    (together,) = train_by_convolution(batches, recipe.epochs, CHANNELS, [group(recipe, names, seeds)])
    for index in (0, 7):
        (alone,) = train_by_convolution(
            batches, recipe.epochs, CHANNELS, [group(recipe, names[index : index + 1], seeds[index : index + 1])]
        )
        torch.testing.assert_close(together.predict(FEATURES)[:, index], alone.predict(FEATURES)[:, 0], rtol=RTOL, atol=1e-9)


def test_families_of_different_recipes_share_a_stream() -> None:
    groups = [group(recipe, ("H",), (0,)) for recipe in (RECIPES["official"], RECIPES["linear, 2 layers, Adam"])]
    both = train_by_convolution(batches, 6, CHANNELS, groups)
    for heads, trained in zip(both, groups, strict=True):
        assert torch.equal(heads.predict(FEATURES), train_by_convolution(batches, 6, CHANNELS, [trained])[0].predict(FEATURES))


def test_a_diverging_decoder_harms_no_neighbour() -> None:
    calm = group(SMALL, ("H", "V"), (0, 1))
    wild = replace(calm, rates=(1e200, SMALL.learning_rate), decays=(1.0, SMALL.weight_decay))
    (healthy,), (mixed,) = (train_by_convolution(batches, 6, CHANNELS, [trained]) for trained in (calm, wild))
    assert not torch.isfinite(mixed.weight[0]).all()
    torch.testing.assert_close(mixed.weight[1], healthy.weight[1], rtol=RTOL, atol=1e-12)


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("sgd", 0.0), ("adam", 0.0)])
def test_in_gram_space_every_optimiser_takes_the_steps_of_the_convolution(optimizer: str, momentum: float) -> None:
    recipe = GradientProtocol(epochs=6, optimizer=optimizer, momentum=momentum, learning_rate=1e-4, drop=4, zero_bias=True)
    pair = group(recipe, ("H", "G"), (0, 3))
    moments = compute_image_moments(FEATURES.split(5), len(FEATURES), 3, 0, pair.targets)
    gram, (conv,) = train_in_gram_space(moments, order, CHANNELS, pair), train_by_convolution(batches, 6, CHANNELS, [pair])
    torch.testing.assert_close(gram.weight, conv.weight, rtol=RTOL, atol=1e-12)
    torch.testing.assert_close(gram.bias, conv.bias, rtol=RTOL, atol=1e-12)


def test_standardised_inputs_have_mean_0_and_deviation_1_but_for_dead_channels() -> None:
    features = FEATURES.clone()
    features[:, 1] = 7.0  # dead
    features[:, 2] = features[:, 2] * 1e8 + 1e10
    standard = compute_standardisation(iter(features.split(4)))
    values = standard(features)
    assert values.dtype == torch.float64
    deviations = values.std(dim=(0, 2, 3), unbiased=False)
    torch.testing.assert_close(values.mean(dim=(0, 2, 3)), torch.zeros(CHANNELS, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(deviations[[0, 2, 3, 4]], torch.ones(4, dtype=torch.float64), rtol=1e-9, atol=0)
    assert (values[:, 1] == 0).all()


def test_a_head_with_all_its_parts_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    (heads,) = train_by_convolution(batches, 1, CHANNELS, [group(replace(SMALL, layers=3, hidden=3), ("H", "V"), (0, 1))])
    heads = replace(heads, standard=Standardisation(torch.rand(CHANNELS).double(), torch.rand(CHANNELS).double()))
    save_head(path, heads, 1, {name: kind() for name, kind in METADATA.items() if name not in ("padding", "sigmoid", "size")})
    loaded, _ = load_head(path)
    assert isinstance(loaded, Heads)
    torch.testing.assert_close(loaded.predict(FEATURES)[:, 0], heads.predict(FEATURES)[:, 1], rtol=1e-12, atol=0)
