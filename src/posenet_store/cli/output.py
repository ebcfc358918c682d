"""Print results and progress: tables, JSON, sizes, durations, progress bars."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from posenet_store.cli.table_layout import lay_out_table, wrap_cell
from posenet_store.errors import printable

if TYPE_CHECKING:
    from posenet_store.report.text_table import Listing

QUARANTINED_SHOWN = 10
"""Unreadable images that are named; a folder can have a hundred thousand."""
SECONDS_A_LINE = 30.0
"""Seconds between two lines of progress where standard error is no terminal."""


def describe_speed(speed: Mapping[str, Any]) -> str:
    """Format a build's speed, the stages' shares of its time and the stage that limits it.

    >>> stages = {"read": 0.0, "decode": 0.4, "forward": 9.6, "copy": 0.1, "encode": 0.3, "write": 0.2}
    >>> describe_speed({"images_per_s": 6.1, "seconds": 10.0, "stages": stages, "bound_by": "forward", "processors": 0.98})
    '6.1 a second: forward 96 %, decode 4 %, encode 3 %, write 2 %, copy 1 %; bound by forward, CPUs 98 % busy'
    """
    shares = format_shares(speed["stages"], max(speed["seconds"], 1e-9))
    bound = f"bound by {speed['bound_by']}, CPUs {100 * speed['processors']:.0f} % busy"
    return f"{speed['images_per_s']:.1f} a second: {shares}; {bound}"


def format_shares(stages: Mapping[str, float], seconds: float) -> str:
    """Format the stages' shares of `seconds`, the busiest first; shares below half a percent are left out."""
    shares = sorted(((spent / seconds, stage) for stage, spent in stages.items()), key=lambda share: -share[0])
    return ", ".join(f"{stage} {100 * share:.0f} %" for share, stage in shares if share > 0.005)


class CoarseTimeLeft(ProgressColumn):
    """Time left as field `left` says, in seconds, None for unknown.

    Rich's own column uses the last half minute only, in which no long step may end.
    """

    def render(self, task: Task) -> Text:
        """Return the time, or a question mark."""
        left = 0 if task.finished else task.fields["left"]
        return Text("?" if left is None else format_time(left), style="progress.remaining")


class PrintableProgress(Progress):
    """Progress whose descriptions, which name files and titles, hold no control characters."""

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """Add a task as rich does."""
        return super().add_task(printable(description), *args, **fields)

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Change a task as rich does."""
        changed = {"description": printable(fields["description"])} if "description" in fields else {}
        super().update(task_id, **(fields | changed))


class PlainProgress(PrintableProgress):
    """Progress as a plain line now and then, for the logs of batch jobs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True)
        self._printed = time.monotonic()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Change a task as rich does, and print a line if the last one is long ago."""
        super().update(task_id, **fields)
        if time.monotonic() - self._printed >= SECONDS_A_LINE:
            self._printed = time.monotonic()
            print_line(format_progress(self._tasks[task_id]), err=True)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count `advance` more steps of a task."""
        self.update(task_id, advance=advance)


def format_progress(task: Task) -> str:
    """Format what is done of a task, how fast, the stage that binds, the time left and the place, as far as they are known."""
    unit, total = task.fields["unit"], "?" if task.total is None else f"{task.total:,.0f}"
    rate = f", {task.speed:.1f}/s" if task.speed and "/s" not in unit else ""
    bound = f"; bound by {task.fields['bound_by']}" if "bound_by" in task.fields else ""
    left = task.fields.get("left", task.time_remaining)
    times = f"{format_time(task.elapsed or 0)} so far" + ("" if left is None else f", {format_time(left)} left")
    place = f"; {task.fields['place']}" if "place" in task.fields else ""
    return f"{task.description}: {task.completed:,.0f} of {total} {unit}{rate}{bound}; {times}{place}"


def progress(coarse: bool = False, transient: bool = False) -> Progress:
    """Return a progress display on standard error, plain lines where that is no terminal; `coarse` is for few, long steps.

    A `transient` one is removed at the end. Standard output holds results only.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        return PlainProgress(console)
    return PrintableProgress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        CoarseTimeLeft() if coarse else TimeRemainingColumn(),
        console=console,
        transient=transient,
    )


@contextmanager
def show_steps(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `advance(done, total)`, which moves a bar that is removed at the end."""
    with progress(transient=True) as bars:
        bar = bars.add_task(title, total=None, unit=unit)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def print_above(bars: Progress) -> Callable[[str], None]:
    """Return a function that prints a line above a progress display, on standard error."""
    return lambda line: bars.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def print_line(text: object, err: bool = False) -> None:
    """Print one line with control characters escaped: all text of the commands, whatever it names, is printed here.

    On standard output it is wrapped at the width of a terminal.
    """
    for line in [printable(str(text))] if err else wrap_cell(printable(str(text)), find_width() or sys.maxsize):
        click.echo(line, err=err)


def print_path(path: object) -> None:
    """Print a path on standard output as its bytes are, for programs that read it; on a terminal it is escaped."""
    raw = not sys.stdout.isatty()
    click.echo("".join(c if raw and "\udc80" <= c <= "\udcff" else printable(c) for c in str(path)))


def print_text(text: str) -> None:
    """Print lines of which no text comes from outside, or is escaped already."""
    click.echo(text, nl=not text.endswith("\n"))


def print_quarantined(images: Sequence[Mapping[str, Any]], err: bool = False) -> None:
    """Print the first unreadable images with their reasons, and how many more there are."""
    for image in images[:QUARANTINED_SHOWN]:
        print_line(f"quarantined: {image['image_id']}: {image['reason']}", err)
    if more := len(images[QUARANTINED_SHOWN:]):
        print_line(f"... and {more:,} more images are quarantined; `inspect STORE --json` lists all", err)


def print_json(value: object) -> None:
    """Print `value` as JSON on standard output."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def find_width() -> int | None:
    """Return how wide lines may be: $COLUMNS, else the terminal's columns; None without limit, for a pipe or file."""
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):  # no terminal; not even a file
        return None


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names with their values, which are wrapped beside the names."""
    side = max(map(cell_len, facts)) + 1
    for name, value in facts.items():
        lines = wrap_cell(printable(str(value)), max((find_width() or sys.maxsize) - side, side))
        click.echo("\n".join(f"{label:{side}}{line}" for label, line in zip_longest([name], lines, fillvalue="")))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *titles: str, ruled: bool = False) -> None:
    """Print a table, every cell in full; `ruled` draws a line wherever the first column changes.

    On a terminal no line is wider than it (see `table_layout`); in a pipe or file each row is one line.
    """
    escaped = [[printable(cell) for cell in row] for row in (head, *rows)]
    for title in titles:
        print_line(title)
    for line in lay_out_table(escaped, find_width(), ruled):
        click.echo(line)


def print_listing(
    listing: "Listing", title: str, remark: str, form: str, as_json: bool, ruled: bool = True, about: str = ""
) -> None:
    """Print a table of results as JSON, for the terminal with lines above and below it, as Markdown or as CSV."""
    if as_json:
        print_json(listing.records)
    elif form == "terminal":
        print_table(listing.head, listing.terminal(), title, *([about] if about else []), ruled=ruled)
        print_line(remark)
    else:
        print_text(listing.markdown() if form == "markdown" else listing.csv())


def format_bytes(count: float) -> str:
    """Format a size in bytes.

    >>> format_bytes(1536), format_bytes(53e9)
    ('1.5 kB', '53.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_time(seconds: float) -> str:
    """Format a duration in seconds.

    >>> format_time(8), format_time(150), format_time(7500)
    ('8 s', '2 min 30 s', '2 h 5 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
