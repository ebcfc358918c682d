"""The choice of a strategy: does a head fit in Gram space, exactly, in memory? Plans and real runs ask here."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

from posenet_store.errors import UsageError
from posenet_store.heads.protocols import GradientProtocol, Protocol
from posenet_store.sweep.fit_gradient import Convolution, GramSpace
from posenet_store.sweep.fit_ridge import ConjugateGradients, NormalEquations
from posenet_store.sweep.grouping import HeadGroup, MomentGroup
from posenet_store.sweep.limits import Limits, Strategy


def choose(groups: Sequence[HeadGroup], protocol: Protocol, channels: int, rows: int, limits: Limits) -> list[Strategy]:
    """Return the strategies that fit all groups of a pass, whose stream has `channels`, on that many training rows.

    Gradient steps are taken in Gram space by linear heads of few unknowns whose moments of all rows fit in memory, else by
    the convolution.
    Ridge is solved exactly up to `limits.unknowns`, else iterated. Both read their inputs once if they fit in memory.
    """
    in_memory = limits.holds_inputs(rows, channels)
    strategies: list[Strategy] = []
    if isinstance(protocol, GradientProtocol):
        linear = [group for group in groups if group.gradient_protocol.is_linear]
        small, large = _group_moments(linear, channels, partial(limits.holds_moments, rows))
        large = large + [group for group in groups if not group.gradient_protocol.is_linear]
        strategies += [GramSpace(tuple(small), protocol, limits)] if small else []
        return strategies + ([Convolution(tuple(large), protocol, channels, in_memory)] if large else [])
    small, large = _group_moments(groups, channels, limits.solves)
    if large and (protocol.erase or protocol.bands):
        what, unknowns = "erasure" if protocol.erase else "a penalty a stage", max(group.unknowns for group in large)
        raise UsageError(f"{what} is for heads of at most {limits.unknowns:,} unknowns, not {unknowns:,}; take fewer stages")
    strategies += [NormalEquations(tuple(small), protocol, limits.device)] if small else []
    return strategies + ([ConjugateGradients(tuple(large), protocol, channels, in_memory)] if large else [])


def _group_moments(
    groups: Sequence[HeadGroup], channels: int, fits: Callable[[int, int], bool]
) -> tuple[list[MomentGroup], list[HeadGroup]]:
    """Return moment groups, and the head groups that do not fit.

    A moment group spans all channels of the stream where `fits(channels, kernel)`, else those of one head group: it is not
    made smaller for the heads at hand, because what a head comes out as must not depend on its company.
    """
    moment_groups, rest = [], []
    for (kernel, _), same_shape in groupby(groups, key=lambda group: group.shape):
        members = tuple(same_shape)
        if fits(channels, kernel):
            moment_groups.append(MomentGroup(members, None, channels, members[0].shape))
            continue
        moment_groups += [group.alone() for group in members if fits(group.width, kernel)]
        rest += [group for group in members if not fits(group.width, kernel)]
    return moment_groups, rest
