"""Scores within rings of distance to the border, against SciPy position by position."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import spearmanr

from posenet_store.errors import UsageError
from posenet_store.heads.rings import RingWidths, cut_rings, score_rings
from posenet_store.heads.targets import make_target_map


def distance(y: int, x: int, side: int) -> int:
    return min(y, x, side - 1 - y, side - 1 - x)


@pytest.mark.parametrize(("side", "rings"), [(28, 7), (28, 14), (26, 7), (26, 13), (7, 3), (224, 41), (28, 1)])
def test_every_position_is_in_one_ring_and_rings_go_inwards(side: int, rings: int) -> None:
    cut = cut_rings(side, RingWidths(rings).find_edges(224))
    assert sorted(np.concatenate(cut).tolist()) == list(range(side**2))
    depths = [[distance(position // side, position % side, side) for position in ring.tolist()] for ring in cut]
    assert all(max(outer) < min(inner) for outer, inner in pairwise(depths))
    widths = [max(ring) - min(ring) + 1 for ring in depths]
    assert max(widths) - min(widths) <= 1


@pytest.mark.parametrize("pixels", [224, 448, 896])
@pytest.mark.parametrize(("side", "width"), [(28, 32), (28, 33), (28, 64), (26, 35), (28, 112), (28, 1000)])
def test_rings_in_pixels_hold_the_positions_at_these_distances(side: int, width: int, pixels: int) -> None:
    edges = RingWidths(width=width).find_edges(pixels)
    cut = cut_rings(side, edges)
    assert (edges[:-1] == width * np.arange(len(cut))).all()
    assert edges[-1] == pixels / 2
    assert len(cut) == 1 or width / 2 <= edges[-1] - edges[-2] < 1.5 * width
    assert sorted(np.concatenate(cut).tolist()) == list(range(side**2))
    for ring, positions in enumerate(cut):
        for position in positions.tolist():
            middle = (distance(position // side, position % side, side) + 0.5) * pixels / side
            assert edges[ring] <= middle < edges[ring + 1]


def test_a_width_below_one_position_is_refused_with_the_least_one() -> None:
    with pytest.raises(UsageError, match="at least 32 pixels"):
        cut_rings(28, RingWidths(width=28).find_edges(896))


@pytest.mark.parametrize("target", ["H", "G", "HS", "abs-ramp:90"])
@pytest.mark.parametrize("side", [26, 28])
def test_scores_are_scipys_on_the_positions_of_a_ring(target: str, side: int) -> None:
    goal = make_target_map(target, side)
    maps = np.random.default_rng(0).normal(0, 0.5, (4, side, side)) + goal
    maps[2] = maps[2].round(1)  # ties
    scores = score_rings(maps, goal, cut_rings(side, RingWidths(5).find_edges(224)))
    for ring, positions in enumerate(cut_rings(side, RingWidths(5).find_edges(224))):
        for image, predicted in enumerate(maps):
            expected = spearmanr(predicted.ravel()[positions], goal.ravel()[positions]).statistic
            assert scores.spc[image, ring] == pytest.approx(expected, abs=1e-12)
            error = np.abs(predicted - goal).ravel()[positions].mean()
            assert scores.mae[image, ring] == pytest.approx(error, rel=1e-12)


def test_a_ring_on_which_target_or_map_is_constant_is_undefined() -> None:
    rings, side = cut_rings(8, RingWidths(4).find_edges(64)), 8
    depth = np.array([[distance(y, x, side) for x in range(side)] for y in range(side)], dtype=float)
    ramp = np.tile(np.arange(8.0), (8, 1))
    assert np.isnan(score_rings(ramp[None], depth, rings).spc).all()
    inner = np.where(depth == 3, 5.0, ramp)
    assert np.isnan(score_rings(inner[None], ramp, rings).spc).tolist() == [[False, False, False, True]]
    assert np.isfinite(score_rings(inner[None], depth, rings).mae).all()


def test_an_infinite_map_has_no_score() -> None:
    maps = np.ones((1, 8, 8))
    maps[0, 0, 0] = np.inf
    scores = score_rings(maps, np.tile(np.arange(8.0), (8, 1)), cut_rings(8, RingWidths(2).find_edges(64)))
    assert np.isnan(scores.mae).tolist() == [[True, False]]


@pytest.mark.parametrize(("side", "rings"), [(28, 15), (7, 4), (2, 2)])
def test_more_rings_than_positions_are_refused(side: int, rings: int) -> None:
    with pytest.raises(UsageError, match="give at most"):
        cut_rings(side, RingWidths(rings).find_edges(224))
