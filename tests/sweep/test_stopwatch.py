"""A stopwatch runs a few units of a work and extrapolates the rest."""

import pytest

from posenet_store.sweep.stopwatch import ENOUGH, Stopwatch, repeat_random_image


class Work:
    """Takes some seconds once, and some for each unit; counts its calls."""

    def __init__(self, once: float, each: float) -> None:
        self.now, self.once, self.each = 0.0, once, each
        self.calls: list[int] = []

    def __call__(self, units: int) -> None:
        self.calls.append(units)
        self.now += self.once + self.each * units

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(("once", "each"), [(0.0, 1e-4), (2.0, 1e-4), (0.1, 10.0)])
def test_what_is_linear_is_extrapolated_exactly(once: float, each: float) -> None:
    work = Work(once, each)
    assert Stopwatch(work.clock).extrapolate("work", work, 10_000) == pytest.approx(once + 10_000 * each)
    assert max(work.calls) <= max(2, 4 * ENOUGH / each)


def test_a_kind_is_timed_once_and_no_more_units_than_there_are() -> None:
    work = Work(0.0, 1e-6)
    stopwatch = Stopwatch(work.clock)
    assert stopwatch.extrapolate("work", work, 5) == pytest.approx(5e-6)
    assert max(work.calls) == 5
    calls = len(work.calls)
    assert stopwatch.extrapolate("work", work, 50) == pytest.approx(50e-6)
    assert stopwatch.extrapolate("other", work, 0) == 0
    assert len(work.calls) == calls


def test_pauses_of_a_busy_machine_are_not_taken_for_slow_work() -> None:
    class Interrupted(Work):
        def __call__(self, units: int) -> None:
            super().__call__(units)
            self.now += 0.017 * (len(self.calls) > 3)  # another program runs in between

    work = Interrupted(0.0, 1e-4)
    assert Stopwatch(work.clock).extrapolate("work", work, 20_000) == pytest.approx(2.0, rel=0.25)


def test_many_images_lie_in_the_memory_of_one() -> None:
    images = repeat_random_image(1000, 3)
    assert images.shape == (1000, 3, 28, 28)
    assert images.untyped_storage().nbytes() == 3 * 28 * 28 * 4
