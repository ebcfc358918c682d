"""Least squares of heads whose moments are too large to hold: conjugate gradients, the inputs streamed once a step.

What is solved is what `ridge` solves: (C + lambda) x = b with the correlation C of the standardised features f and their
covariance b with the target. C is applied without being formed, C x = mean of f (f' x) over images and positions: heads
are painted on every image, centred, and gathered back. All penalties of a target come from one Krylov space (shifted
conjugate gradients: B. Jegerlehner, hep-lat/9612014, 1996, section 2), so a step costs the same for one and for ten.
Standardising is Jacobi's preconditioner; a dead feature keeps the weight 0.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.convolution import convolve, images_per_step, sum_neighbourhoods
from posenet_store.heads.moments import DEAD_DEVIATION
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import RidgeHead, choose_penalty
from posenet_store.specs import GRID

TOLERANCE = 1e-6
"""A head has converged when the residual of its equations is below this share of their right side."""

Scan = Callable[[int], Iterable[Tensor]]
"""Blocks [B, C, 28, 28] of the images of a group."""


@dataclass(frozen=True)
class _Sums:
    """Over `images` images: their sum and the sum of their squares, both [C, H, W]."""

    images: int
    total: Tensor
    square: Tensor

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.images + other.images, self.total + other.total, self.square + other.square)


def _few(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield float64 [B, C, 28, 28], a few images at a time."""
    for block in blocks:
        yield from (part.to(torch.float64) for part in block.split(images_per_step(block.shape[1], 1, GRID**2)))


def _summed(blocks: Iterable[Tensor]) -> _Sums:
    """Sum a group of at least one image; raises PosenetStoreError if a feature is not finite."""
    found = None
    for images in _few(blocks):
        one = _Sums(len(images), images.sum(0), images.square().sum(0))
        found = one if found is None else found + one
    if found is None or not bool(torch.isfinite(found.square).all()):
        raise PosenetStoreError("the features hold NaN or infinite values; `inspect` shows each tap's range")
    return found


@dataclass(frozen=True)
class _Problem:
    """Features [C, k, k] standardised over some groups: `mean`, and `scale` = 1 / deviation, 0 where a feature is dead."""

    groups: frozenset[int]
    sums: _Sums
    mean: Tensor
    scale: Tensor
    count: int

    @classmethod
    def over(cls, groups: Sequence[int], sums: Sequence[_Sums], kernel: int, padding: int) -> "_Problem":
        pooled = reduce(add, (sums[group] for group in groups))
        size = pooled.total.shape[1] + 2 * padding - kernel + 1
        ones = pooled.total.new_ones(1, 1, size, size)
        count = pooled.images * size**2
        mean, square = (
            sum_neighbourhoods(one[None], ones, kernel, padding)[0] / count for one in (pooled.total, pooled.square)
        )
        variance = (square - mean**2).clamp(min=0)
        scale = torch.where(variance > DEAD_DEVIATION**2 * square, variance.rsqrt(), 0)
        return cls(frozenset(groups), pooled, mean, scale, count)

    def right_side(self, target: Tensor, padding: int) -> Tensor:
        """Return the covariance of the standardised features with a target [h, w]."""
        crossed = sum_neighbourhoods(self.sums.total[None], (target - target.mean())[None, None], self.mean.shape[1], padding)[
            0
        ]
        return crossed / self.count * self.scale

    def head(self, solution: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights for the features as they are, and the bias."""
        weight = solution * self.scale
        return weight, target.mean() - (weight * self.mean).sum()


def _applied(scan: Scan, groups: int, problems: Sequence[_Problem], vectors: Tensor, padding: int) -> Tensor:
    """Return C x of each problem's correlation C and vector x [n, C, k, k], in one scan."""
    kernel = vectors.shape[-1]
    mean, scale = (torch.stack([getattr(one, name) for one in problems]) for name in ("mean", "scale"))
    heads = vectors * scale
    offsets = (heads * mean).sum((1, 2, 3))
    found, sums = torch.zeros_like(vectors), vectors.new_zeros(len(vectors), 1, 1, 1)
    for group in range(groups):
        mine = [number for number, one in enumerate(problems) if group in one.groups]
        for images in _few(scan(group) if mine else ()):
            maps = convolve(images, heads[mine], -offsets[mine], padding)
            found[mine] += sum_neighbourhoods(images, maps, kernel, padding)
            sums[mine] += maps.sum((0, 2, 3))[:, None, None, None]
    counts = vectors.new_tensor([one.count for one in problems])[:, None, None, None]
    return (found - sums * mean) / counts * scale


def conjugate_gradients(
    apply: Callable[[Tensor, list[int]], Tensor], right: Tensor, shifts: Tensor, iterations: int
) -> tuple[Tensor, Tensor, int]:
    """Solve (A_i + shifts[i, j]) x = right[i] for symmetric A_i >= 0, all positive shifts (ascending in j) at once.

    `apply(vectors, systems)` returns A_i times its vector for each of the named systems, [m, ...]. Returns solutions
    [n, L, ...], relative residuals [n, L] and the steps taken: until all residuals are below TOLERANCE, at most `iterations`.
    """
    shape = right.shape[1:]
    right = right.flatten(1)
    norm = right.norm(dim=1)
    base, extra = shifts[:, :1], shifts - shifts[:, :1]
    solution, search = right.new_zeros(*shifts.shape, right.shape[1]), right[:, None].repeat(1, shifts.shape[1], 1)
    rest, zeta, before = right.clone(), torch.ones_like(shifts), torch.ones_like(shifts)
    length, turn = -torch.ones_like(norm)[:, None], torch.zeros_like(norm)[:, None]
    residual = (norm > 0).to(right.dtype)[:, None].repeat(1, shifts.shape[1])
    for step in range(iterations):
        mine = torch.nonzero(residual[:, 0] > TOLERANCE)[:, 0]  # the least shift converges last
        if not len(mine):
            return solution.view(*shifts.shape, *shape), residual, step
        ahead = search[mine, 0]
        product = apply(ahead.view(-1, *shape), mine.tolist()).flatten(1) + base[mine] * ahead
        squared = rest[mine].square().sum(1, keepdim=True)
        along = -squared / (ahead * product).sum(1, keepdim=True)
        old, older, last = zeta[mine], before[mine], length[mine]
        damped = old * older * last / (along * turn[mine] * (older - old) + older * last * (1 - extra[mine] * along))
        open_ = residual[mine] > TOLERANCE  # a shift that has converged stands still, before its numbers underflow
        new = torch.where(open_, damped, old)
        lengths = torch.where(open_, along * new / old, 0)
        solution[mine] -= lengths[:, :, None] * search[mine]
        rest[mine] += along * product
        turned = rest[mine].square().sum(1, keepdim=True) / squared
        turns = turned * new * lengths / (old * along)
        search[mine] = new[:, :, None] * rest[mine][:, None] + turns[:, :, None] * search[mine]
        zeta[mine], before[mine], length[mine], turn[mine] = new, torch.where(open_, old, older), along, turned
        residual[mine] = torch.where(open_, new.abs() * (rest[mine].norm(dim=1) / norm[mine])[:, None], residual[mine])
    return solution.view(*shifts.shape, *shape), residual, iterations


def _squared_errors(scan: Scan, group: int, heads: Sequence[tuple[Tensor, Tensor]], goals: Tensor, padding: int) -> Tensor:
    """Return the mean squared error of each head on a group's images; head i is to paint goals[i]."""
    weights, biases = (torch.stack(some) for some in zip(*heads, strict=True))
    errors, count = goals.new_zeros(len(heads)), 0
    for images in _few(scan(group)):
        errors += (convolve(images, weights, biases, padding) - goals).square().mean((2, 3)).sum(0)
        count += len(images)
    return errors / count


@dataclass(frozen=True)
class _Solver:
    """What all problems of a family share."""

    scan: Scan
    groups: int
    padding: int
    targets: Tensor
    protocol: RidgeProtocol

    def solve(self, problems: Sequence[_Problem], shifts: Tensor) -> tuple[Tensor, Tensor, int]:
        """Solve every problem for every target; `shifts` [problems * targets, L]."""
        systems = [(problem, target) for problem in problems for target in self.targets]
        right = torch.stack([problem.right_side(target, self.padding) for problem, target in systems])

        def apply(vectors: Tensor, mine: list[int]) -> Tensor:
            return _applied(self.scan, self.groups, [systems[place][0] for place in mine], vectors, self.padding)

        return conjugate_gradients(apply, right, shifts, self.protocol.iterations)

    def tried(self, trials: Mapping[int, _Problem], lambdas: Tensor) -> tuple[Tensor, Tensor, int]:
        """Solve each group's problem without it; return errors on it [T, L, trials], the largest residuals [T, L], steps."""
        many = len(self.targets), len(lambdas)
        if not trials:
            return lambdas.new_zeros(*many, 0), lambdas.new_zeros(many), 0
        shifts = lambdas.repeat(len(trials) * many[0], 1)
        solutions, residuals, steps = self.solve(list(trials.values()), shifts)
        goals, errors = self.targets.repeat_interleave(many[1], dim=0), []
        for (left, problem), found in zip(trials.items(), solutions.split(many[0]), strict=True):
            heads = [problem.head(one, goal) for one, goal in zip(found.flatten(0, 1), goals, strict=True)]
            errors.append(_squared_errors(self.scan, left, heads, goals, self.padding).view(many))
        return torch.stack(errors, dim=2), residuals.view(-1, *many).amax(0), steps


def solve_by_conjugate_gradients(
    scan: Scan, groups: int, shape: tuple[int, int], targets: Tensor, protocol: RidgeProtocol
) -> list[RidgeHead]:
    """Return the head for each target map of float64 [T, h, w], as `ridge.readouts` does; `shape` is kernel and padding.

    `scan(group)` yields the images of one of `groups` groups, anew in every step. The facts name the `iterations`, of the
    choice and of the refit, and the larger `residual`; a head that did not converge has `unconverged`. Raises
    PosenetStoreError if a feature is not finite.
    """
    kernel, padding = shape
    solver = _Solver(scan, groups, padding, targets, protocol)
    sums = [_summed(scan(group)) for group in range(groups)]
    lambdas = torch.tensor(sorted(protocol.lambdas), dtype=torch.float64)
    rest = {left: [group for group in range(groups) if group != left] for left in protocol.left_out_groups(groups)}
    trials = {left: _Problem.over(others, sums, kernel, padding) for left, others in rest.items()}
    errors, residuals, steps = solver.tried(trials, lambdas)
    images = [sums[left].images for left in trials]
    choices = [choose_penalty(tried, images, target, protocol) for tried, target in zip(errors, targets, strict=True)]
    penalties = lambdas.new_tensor([penalty for penalty, _ in choices])
    problem = _Problem.over(range(groups), sums, kernel, padding)
    solutions, last, more = solver.solve([problem], penalties[:, None])
    before = residuals.gather(1, torch.searchsorted(lambdas, penalties)[:, None])
    found = []
    for place, (_, facts) in enumerate(choices):
        residual = float(torch.maximum(last[place, 0], before[place, 0]))
        said = {"iterations": float(steps + more), "residual": residual}
        late = {"unconverged": 1.0} if residual > TOLERANCE else {}
        found.append(RidgeHead(*problem.head(solutions[place, 0], targets[place]), facts | said | late))
    return found
