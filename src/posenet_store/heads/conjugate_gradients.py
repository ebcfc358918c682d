"""Solve heads whose moments are too large to hold: conjugate gradients that stream the inputs once a step.

The equations are those of `ridge`: (C + lambda) x = b with the correlation C of the standardised features f and their
covariance b with the target. C is applied without being formed, C x = mean of f (f' x) over images and positions: heads
predict a map of every image, which is centred and summed back over the neighbourhoods. All penalties of a target share one
Krylov space (shifted conjugate gradients, "CG-M": B. Jegerlehner, hep-lat/9612014, 1996, section 2), so ten penalties cost
as many scans as one. Standardising is Jacobi's preconditioner; a dead feature keeps the weight 0.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.convolution import convolve, images_per_step, sum_neighbourhoods
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import RidgeHead, choose_penalty
from posenet_store.heads.sizes import DEAD_DEVIATION
from posenet_store.specs import GRID

TOLERANCE = 1e-6
"""A head has converged when the residual of its equations is below this share of their right side."""

Scan = Callable[[int], Iterable[Tensor]]
"""Blocks [B, C, 28, 28] of the images of a group."""


@dataclass(frozen=True)
class _Sums:
    """Sum and sum of squares, both float64 [C, H, W], over `images` images."""

    images: int
    total: Tensor
    square: Tensor

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.images + other.images, self.total + other.total, self.square + other.square)


def _split_blocks(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield float64 [B, C, 28, 28], a few images at a time."""
    for block in blocks:
        yield from (images.to(torch.float64) for images in block.split(images_per_step(block.shape[1], 1, GRID**2)))


def _sum_images(blocks: Iterable[Tensor]) -> _Sums:
    """Sum a group of at least one image; raises PosenetStoreError if a feature is not finite."""
    parts = (_Sums(len(images), images.sum(0), images.square().sum(0)) for images in _split_blocks(blocks))
    sums = reduce(lambda total, part: part if total is None else total + part, parts, None)
    if sums is None or not bool(torch.isfinite(sums.square).all()):
        raise PosenetStoreError("the features hold NaN or infinite values; `inspect` shows each tap's range")
    return sums


@dataclass(frozen=True)
class _Problem:
    """Features [C, k, k] standardised over some groups: `mean`, and `scale` = 1 / deviation, 0 where a feature is dead."""

    groups: frozenset[int]
    sums: _Sums
    mean: Tensor
    scale: Tensor
    count: int

    @classmethod
    def pool(cls, groups: Sequence[int], sums: Sequence[_Sums], kernel: int, padding: int) -> "_Problem":
        """Return the problem of the images of some groups."""
        pooled = reduce(add, (sums[group] for group in groups))
        size = pooled.total.shape[1] + 2 * padding - kernel + 1
        ones = pooled.total.new_ones(1, 1, size, size)
        count = pooled.images * size**2
        moments = (pooled.total, pooled.square)
        mean, square = (sum_neighbourhoods(moment[None], ones, kernel, padding)[0] / count for moment in moments)
        variance = (square - mean**2).clamp(min=0)
        scale = torch.where(variance > DEAD_DEVIATION**2 * square, variance.rsqrt(), 0)
        return cls(frozenset(groups), pooled, mean, scale, count)

    def right_side(self, target: Tensor, padding: int) -> Tensor:
        """Return the covariance [C, k, k] of the standardised features with a target [h, w]."""
        centred = (target - target.mean())[None, None]
        covariance = sum_neighbourhoods(self.sums.total[None], centred, self.mean.shape[1], padding)[0]
        return covariance / self.count * self.scale

    def head(self, solution: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [C, k, k] for the features before standardisation, and the bias []."""
        weight = solution * self.scale
        return weight, target.mean() - (weight * self.mean).sum()


def _apply_correlations(scan: Scan, groups: int, problems: Sequence[_Problem], vectors: Tensor, padding: int) -> Tensor:
    """Return C x of each problem's correlation C and vector x [n, C, k, k], in one scan."""
    kernel = vectors.shape[-1]
    mean, scale = (torch.stack([getattr(problem, name) for problem in problems]) for name in ("mean", "scale"))
    heads = vectors * scale
    offsets = (heads * mean).sum((1, 2, 3))
    products, sums = torch.zeros_like(vectors), vectors.new_zeros(len(vectors), 1, 1, 1)
    for group in range(groups):
        members = [index for index, problem in enumerate(problems) if group in problem.groups]
        for images in _split_blocks(scan(group) if members else ()):
            maps = convolve(images, heads[members], -offsets[members], padding)
            products[members] += sum_neighbourhoods(images, maps, kernel, padding)
            sums[members] += maps.sum((0, 2, 3))[:, None, None, None]
    counts = vectors.new_tensor([problem.count for problem in problems])[:, None, None, None]
    return (products - sums * mean) / counts * scale


class _ShiftedSystems:
    """The state of CG-M for n systems of D unknowns with L shifts each; sigma counts from a system's least shift.

    Symbols are the paper's: r and p are residual and search direction of the least shift, zeta the factor by which the
    residual of shift sigma is smaller, r_sigma = zeta_sigma r, and beta, alpha the step lengths of solution and direction.
    """

    def __init__(self, right: Tensor, shifts: Tensor) -> None:
        self._base, self._sigma = shifts[:, :1], shifts - shifts[:, :1]
        self._norm = right.norm(dim=1)
        self.solution = right.new_zeros(*shifts.shape, right.shape[1])
        self._r, self._p = right.clone(), right[:, None].repeat(1, shifts.shape[1], 1)
        self._zeta, self._zeta_before = torch.ones_like(shifts), torch.ones_like(shifts)
        self._beta, self._alpha = -torch.ones_like(self._norm)[:, None], torch.zeros_like(self._norm)[:, None]
        self.residual = (self._norm > 0).to(right.dtype)[:, None].repeat(1, shifts.shape[1])

    def unconverged(self) -> Tensor:
        """Return the indices of the systems that have not converged at their least shift, which converges last."""
        return torch.nonzero(self.residual[:, 0] > TOLERANCE)[:, 0]

    def directions(self, systems: Tensor) -> Tensor:
        """Return the search directions of some systems at their least shift."""
        return self._p[systems, 0]

    def step(self, systems: Tensor, product: Tensor) -> None:
        """Take one step of some systems; `product` is A p of each. A converged shift stays, before its zeta underflows."""
        p, zeta, zeta_before = self._p[systems, 0], self._zeta[systems], self._zeta_before[systems]
        beta_before, sigma = self._beta[systems], self._sigma[systems]
        r_squared = self._r[systems].square().sum(1, keepdim=True)
        # beta_n = -(r_n, r_n) / (p_n, A p_n)
        product = product + self._base[systems] * p
        beta = -r_squared / (p * product).sum(1, keepdim=True)
        # zeta_n+1 = zeta_n zeta_n-1 beta_n-1 / (beta_n alpha_n (zeta_n-1 - zeta_n) + zeta_n-1 beta_n-1 (1 - sigma beta_n))
        across = beta * self._alpha[systems] * (zeta_before - zeta)
        damped = zeta * zeta_before * beta_before / (across + zeta_before * beta_before * (1 - sigma * beta))
        active = self.residual[systems] > TOLERANCE
        zeta_after = torch.where(active, damped, zeta)
        # beta_sigma = beta_n zeta_n+1 / zeta_n;  x_n+1 = x_n - beta_sigma p_sigma;  r_n+1 = r_n + beta_n A p_n
        beta_sigma = torch.where(active, beta * zeta_after / zeta, 0)
        self.solution[systems] -= beta_sigma[:, :, None] * self._p[systems]
        self._r[systems] += beta * product
        # alpha_n+1 = (r_n+1, r_n+1) / (r_n, r_n);  alpha_sigma = alpha_n+1 zeta_n+1 beta_sigma / (zeta_n beta_n)
        alpha = self._r[systems].square().sum(1, keepdim=True) / r_squared
        alpha_sigma = alpha * zeta_after * beta_sigma / (zeta * beta)
        # p_sigma = zeta_n+1 r_n+1 + alpha_sigma p_sigma
        self._p[systems] = zeta_after[:, :, None] * self._r[systems][:, None] + alpha_sigma[:, :, None] * self._p[systems]
        self._zeta[systems], self._zeta_before[systems] = zeta_after, torch.where(active, zeta, zeta_before)
        self._beta[systems], self._alpha[systems] = beta, alpha
        residual = zeta_after.abs() * (self._r[systems].norm(dim=1) / self._norm[systems])[:, None]
        self.residual[systems] = torch.where(active, residual, self.residual[systems])


def conjugate_gradients(
    apply: Callable[[Tensor, list[int]], Tensor], right: Tensor, shifts: Tensor, iterations: int
) -> tuple[Tensor, Tensor, int]:
    """Solve (A_i + shifts[i, j]) x = right[i] for symmetric A_i >= 0, all positive shifts (ascending in j) at once.

    `apply(vectors, systems)` returns A_i times its vector for each of the named systems, [m, ...]. Returns solutions
    [n, L, ...], relative residuals [n, L] and the steps taken: until all residuals are below TOLERANCE, at most `iterations`.
    """
    shape = right.shape[1:]
    state = _ShiftedSystems(right.flatten(1), shifts)
    steps = 0
    while steps < iterations and len(systems := state.unconverged()):
        product = apply(state.directions(systems).view(-1, *shape), systems.tolist()).flatten(1)
        state.step(systems, product)
        steps += 1
    return state.solution.view(*shifts.shape, *shape), state.residual, steps


def _squared_errors(scan: Scan, group: int, heads: Sequence[tuple[Tensor, Tensor]], targets: Tensor, padding: int) -> Tensor:
    """Return the mean squared error [n] of each head on a group's images; the target of head i is targets[i]."""
    weights, biases = (torch.stack(parameters) for parameters in zip(*heads, strict=True))
    errors, count = targets.new_zeros(len(heads)), 0
    for images in _split_blocks(scan(group)):
        errors += (convolve(images, weights, biases, padding) - targets).square().mean((2, 3)).sum(0)
        count += len(images)
    return errors / count


@dataclass(frozen=True)
class _Solver:
    """What all problems of a group of heads share."""

    scan: Scan
    groups: int
    padding: int
    targets: Tensor
    protocol: RidgeProtocol

    def solve(self, problems: Sequence[_Problem], shifts: Tensor) -> tuple[Tensor, Tensor, int]:
        """Solve every problem for every target; `shifts` [problems * targets, L]."""
        systems = [(problem, target) for problem in problems for target in self.targets]
        right = torch.stack([problem.right_side(target, self.padding) for problem, target in systems])

        def apply(vectors: Tensor, indices: list[int]) -> Tensor:
            chosen = [systems[index][0] for index in indices]
            return _apply_correlations(self.scan, self.groups, chosen, vectors, self.padding)

        return conjugate_gradients(apply, right, shifts, self.protocol.iterations)

    def validate(self, trials: Mapping[int, _Problem], lambdas: Tensor) -> tuple[Tensor, Tensor, int]:
        """Solve without each left-out group; return errors on it [T, L, trials], the largest residuals [T, L] and the steps."""
        shape = len(self.targets), len(lambdas)
        if not trials:
            return lambdas.new_zeros(*shape, 0), lambdas.new_zeros(shape), 0
        shifts = lambdas.repeat(len(trials) * shape[0], 1)
        solutions, residuals, steps = self.solve(list(trials.values()), shifts)
        targets, errors = self.targets.repeat_interleave(shape[1], dim=0), []
        for (group, problem), trial in zip(trials.items(), solutions.split(shape[0]), strict=True):
            heads = [problem.head(solution, target) for solution, target in zip(trial.flatten(0, 1), targets, strict=True)]
            errors.append(_squared_errors(self.scan, group, heads, targets, self.padding).view(shape))
        return torch.stack(errors, dim=2), residuals.view(-1, *shape).amax(0), steps


def solve_by_conjugate_gradients(
    scan: Scan, groups: int, shape: tuple[int, int], targets: Tensor, protocol: RidgeProtocol
) -> list[RidgeHead]:
    """Return the head for each target map of float64 [T, h, w], as `ridge.solve_ridge` does; `shape` is kernel and padding.

    `scan(group)` yields the images of one of `groups` groups, read again in every step. The facts of a head hold the
    `iterations` of choosing the penalty and of refitting, the larger `residual`, and `unconverged` if it is too large.
    Raises PosenetStoreError if a feature is not finite.
    """
    kernel, padding = shape
    solver = _Solver(scan, groups, padding, targets, protocol)
    sums = [_sum_images(scan(group)) for group in range(groups)]
    lambdas = torch.tensor(sorted(protocol.lambdas), dtype=torch.float64)
    trials = {
        left_out: _Problem.pool([group for group in range(groups) if group != left_out], sums, kernel, padding)
        for left_out in protocol.list_left_out_groups(groups)
    }
    errors, residuals, steps = solver.validate(trials, lambdas)
    images = [sums[left_out].images for left_out in trials]
    choices = [choose_penalty(error, images, target, protocol) for error, target in zip(errors, targets, strict=True)]
    penalties = lambdas.new_tensor([penalty for penalty, _ in choices])
    problem = _Problem.pool(range(groups), sums, kernel, padding)
    solutions, refit_residuals, refit_steps = solver.solve([problem], penalties[:, None])
    trial_residuals = residuals.gather(1, torch.searchsorted(lambdas, penalties)[:, None])
    heads = []
    for index, (_, facts) in enumerate(choices):
        residual = float(torch.maximum(refit_residuals[index, 0], trial_residuals[index, 0]))
        effort = {"iterations": float(steps + refit_steps), "residual": residual}
        warning = {"unconverged": 1.0} if residual > TOLERANCE else {}
        heads.append(RidgeHead(*problem.head(solutions[index, 0], targets[index]), facts | effort | warning))
    return heads
