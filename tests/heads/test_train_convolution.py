"""The report's recipe: one fused stream gives what separate training gives, by convolution and in Gram space."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posenet_store.heads.model import Heads, draw_head
from posenet_store.heads.moments import compute_image_moments
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.targets import TARGETS, make_target_map
from posenet_store.heads.train_convolution import TrainingGroup, train_by_convolution
from posenet_store.heads.train_gram import train_in_gram_space
from posenet_store.sweep.cell import output_size

FEATURES = torch.randn(22, 6, 28, 28, generator=torch.Generator().manual_seed(3)).relu() * 4
PROTOCOL = GradientProtocol()
RTOL = 1e-6  # float64 throughout: what is left is the order of sums, amplified by 15 epochs of Adam


def targets(names: tuple[str, ...], size: int) -> Tensor:
    return torch.stack([torch.from_numpy(make_target_map(name, size).copy()) for name in names])


def order(epoch: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    rows = np.random.default_rng([0, epoch]).permutation(len(FEATURES))
    return [rows[first : first + 4] for first in range(0, len(rows), 4)]  # the last batch is short


def batches(epoch: int) -> Iterator[Tensor]:
    return (FEATURES[torch.from_numpy(rows)] for rows in order(epoch))


def group(
    names: tuple[str, ...], seeds: tuple[int, ...], kernel: int = 3, padding: int = 0, recipe: GradientProtocol = PROTOCOL
) -> TrainingGroup:
    return TrainingGroup(
        kernel, padding, recipe, seeds, targets(names, recipe.size or output_size(kernel, padding, recipe.layers))
    )


def plain_torch(name: str, seed: int, kernel: int, padding: int) -> nn.Conv2d:
    """The report's loop, written as anyone would: one nn.Conv2d, nn.MSELoss, Adam."""
    weight, bias = draw_head(6, kernel, seed)
    conv = nn.Conv2d(6, 1, kernel, padding=padding).double()
    with torch.no_grad():
        conv.weight.copy_(weight[None])
        conv.bias.copy_(bias[None])  # type: ignore[union-attr]
    adam = torch.optim.Adam(conv.parameters(), lr=1e-3, weight_decay=1e-4)
    goal = torch.from_numpy(make_target_map(name, 28 + 2 * padding - kernel + 1).copy())
    for epoch in range(15):
        for batch in batches(epoch):
            adam.zero_grad()
            maps = conv(batch.double())[:, 0]
            nn.functional.mse_loss(maps, goal.expand_as(maps)).backward()
            adam.step()
    return conv


def in_gram_space(trained: TrainingGroup) -> Heads:
    moments = compute_image_moments(FEATURES.split(5), len(FEATURES), trained.kernel, trained.padding, trained.targets)
    return train_in_gram_space(moments, order, 6, trained)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 0), (1, 0), (3, 1)])
def test_fused_heads_equal_a_plain_torch_loop_of_each(kernel: int, padding: int) -> None:
    names, seeds = ("H", "G", "VS"), (0, 1, 0)
    trained = group(names, seeds, kernel, padding)
    (conv,) = train_by_convolution(batches, 15, 6, [trained])
    gram = in_gram_space(trained)
    for index, (name, seed) in enumerate(zip(names, seeds, strict=True)):
        plain = plain_torch(name, seed, kernel, padding)
        for heads in (conv, gram):
            torch.testing.assert_close(heads.weight[index], plain.weight[0].detach(), rtol=RTOL, atol=1e-9)
            torch.testing.assert_close(heads.bias[index], plain.bias[0].detach(), rtol=RTOL, atol=1e-9)  # type: ignore[index]


def test_a_head_is_the_same_alone_and_among_thirty() -> None:
    names = TARGETS * 6
    seeds = tuple(seed for seed in range(6) for _ in TARGETS)
    together = (train_by_convolution(batches, 15, 6, [group(names, seeds)])[0], in_gram_space(group(names, seeds)))
    for index in (0, 7, 29):
        single = group((names[index],), (seeds[index],))
        alone = (train_by_convolution(batches, 15, 6, [single])[0], in_gram_space(single))
        for fused, separate in zip(together, alone, strict=True):
            torch.testing.assert_close(fused.weight[index], separate.weight[0], rtol=RTOL, atol=1e-9)


@pytest.mark.parametrize("threads", [1, 2])
def test_in_gram_space_a_head_is_the_same_to_the_last_bit(threads: int) -> None:
    """On the pixels' scale 3,000 steps of the recipe amplify any difference of rounding; there must be none."""
    inputs = FEATURES[:, :3] * 60
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    recipe = GradientProtocol(min_steps=3000)

    def trained(names: tuple[str, ...]) -> Heads:
        trained = group(names, (1,) * len(names), recipe=recipe)
        moments = compute_image_moments(inputs.split(5), len(inputs), 3, 0, trained.targets)
        return train_in_gram_space(moments, order, 3, trained)

    try:
        alone = {name: trained((name,)).weight[0] for name in TARGETS}
        for names in (TARGETS, TARGETS[::-1] * 3, ("VS", "G")):
            together = trained(names)
            for index, name in enumerate(names):
                assert torch.equal(together.weight[index], alone[name]), f"{name} at {index} of {len(names)}"
    finally:
        torch.set_num_threads(before)


def test_kernels_that_share_a_stream_do_not_meet() -> None:
    small, large = group(("H",), (0,), kernel=1), group(("H",), (0,), kernel=5)
    both = train_by_convolution(batches, 3, 6, [small, large])
    for heads, trained in zip(both, (small, large), strict=True):
        torch.testing.assert_close(heads.weight, train_by_convolution(batches, 3, 6, [trained])[0].weight, rtol=RTOL, atol=1e-9)


def test_a_neighbour_whose_target_is_nan_does_no_harm() -> None:
    healthy = group(("H", "V"), (0, 1))
    broken = TrainingGroup(3, 0, PROTOCOL, (0, 1), healthy.targets * torch.tensor([float("nan"), 1.0]).view(2, 1, 1))
    for trained, alone in (
        (train_by_convolution(batches, 2, 6, [broken])[0], train_by_convolution(batches, 2, 6, [healthy])[0]),
        (in_gram_space(broken), in_gram_space(healthy)),
    ):
        assert torch.isnan(trained.weight[0]).all()
        torch.testing.assert_close(trained.weight[1], alone.weight[1], rtol=RTOL, atol=1e-9)


def test_weight_decay_and_rate_are_used() -> None:
    base = in_gram_space(group(("H",), (0,)))
    for other in (GradientProtocol(weight_decay=0.1), GradientProtocol(learning_rate=1e-2)):
        assert not torch.equal(base.weight, in_gram_space(group(("H",), (0,), recipe=other)).weight)


def test_fewer_images_train_for_as_many_steps_if_asked() -> None:
    assert GradientProtocol().count_epochs(22) == 15
    assert GradientProtocol(min_steps=18_825).count_epochs(5_019) == 15
    assert GradientProtocol(min_steps=100).count_epochs(22) == 17  # 6 steps an epoch
