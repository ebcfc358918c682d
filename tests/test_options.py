"""What the command line shows while it works."""

from rich.progress import Progress

from posenet_store.cli.options import CoarseTimeLeft


def test_the_time_left_of_long_steps_is_their_mean_and_known_after_the_first() -> None:
    """Rich forgets steps after half a minute; what was done before the start took no time."""
    now = 0.0
    bars = Progress(get_time=lambda: now)
    bar = bars.add_task("passes", total=10, completed=4, before=4)

    def shown() -> str:
        return CoarseTimeLeft().render(bars.tasks[0]).plain

    now = 60.0
    assert shown() == "?"
    bars.advance(bar, 2)
    assert shown() == "2 min 0 s"
    now = 600.0
    bars.advance(bar, 3)
    assert shown() == "2 min 0 s"
    bars.advance(bar, 1)
    assert shown() == "0 s"


def test_nothing_is_left_of_what_was_finished_before() -> None:
    bars = Progress()
    bars.add_task("passes", total=10, completed=10, before=10)
    bars.advance(bars.task_ids[0], 0)
    assert CoarseTimeLeft().render(bars.tasks[0]).plain == "0 s"
