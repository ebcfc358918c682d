"""What the command line shows while it works."""

import pytest
from rich.progress import Progress

from posenet_store.cli.build_store import Termination
from posenet_store.cli.output import CoarseTimeLeft


def test_the_time_left_of_long_steps_is_what_is_said() -> None:
    """Rich's own column forgets steps after half a minute."""
    bars = Progress()
    bar = bars.add_task("passes", total=10, completed=4, left=None)

    def shown() -> str:
        return CoarseTimeLeft().render(bars.tasks[0]).plain

    assert shown() == "?"
    bars.update(bar, left=120.0)
    assert shown() == "2 min 0 s"
    bars.update(bar, completed=10)
    assert shown() == "0 s"


def test_nothing_is_left_of_what_was_finished_before() -> None:
    bars = Progress()
    bars.add_task("passes", total=10, completed=10)
    bars.advance(bars.task_ids[0], 0)
    assert CoarseTimeLeft().render(bars.tasks[0]).plain == "0 s"


def test_a_termination_that_was_swallowed_is_raised_at_the_next_check() -> None:
    """Python ignores what a signal raises inside a weak reference's callback."""
    termination = Termination()
    termination.check()
    with pytest.raises(SystemExit, match="143"):
        termination()
    with pytest.raises(SystemExit, match="143"):
        termination.check()
