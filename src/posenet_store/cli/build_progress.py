"""Show the progress of a build, and its outcome."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from posenet_store.cli.output import describe_speed, format_shares, print_line, print_quarantined, progress, show_steps
from posenet_store.cli.termination import check_sigterm

if TYPE_CHECKING:
    from posenet_store.extraction.build import BuildResult
    from posenet_store.sweep.build_sums import BuildSums


def build_with_progress(build: "Callable[..., BuildResult]", title: str, images: int, place: str) -> "BuildResult":
    """Call `build(advance=..., clock=...)` under a bar, or lines that name the `place`; print the outcome on standard error."""
    from posenet_store.extraction.timing import STAGES, StageTimer

    clock = StageTimer()
    with progress() as bars:
        bar = bars.add_task(title, total=images, unit="images", place=place)

        def advance(count: int) -> None:
            check_sigterm()
            speed = bars.tasks[bar].speed
            seconds = clock.get_seconds()
            shares = format_shares({stage: seconds[stage] for stage in STAGES}, clock.elapsed)
            unit = f"images, {speed:.1f}/s: {shares}" if speed else "images"
            bars.update(bar, advance=count, unit=unit, bound_by=clock.find_bottleneck())

        outcome = build(advance=advance, clock=clock)
    name = outcome.path.name
    if outcome.extracted:
        print_line(f"{name}: {outcome.extracted} images, {describe_speed(outcome.speed)}", err=True)
    if outcome.missing:
        missing = f"{outcome.missing} blocks are missing"
        print_line(f"{name}: this part is done; the store is complete when all parts are: {missing}", err=True)
    elif not outcome.extracted:
        print_line(f"{name} is complete; nothing to do", err=True)
    print_quarantined([vars(image) for image in outcome.quarantined], err=True)
    return outcome


def build_and_sum(
    build: "Callable[..., BuildResult]", title: str, images: int, place: str, sums: "BuildSums | None"
) -> "BuildResult":
    """Build with progress; once the store is complete, keep its sums, and read it for those that are lacking."""
    if sums is None:
        return build_with_progress(build, title, images, place)
    with sums:
        outcome = build_with_progress(build, title, images, place)
        if not outcome.missing:
            with show_steps("moments", "twentieths of the rows read") as advance:
                sums.finish(outcome.path, outcome.written, advance)
    return outcome
