"""Print results and progress: tables, JSON, sizes, durations, progress bars."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from posenet_store.report.text_table import Listing


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


def console() -> Console:
    """Return the console for tables; piped output is not cut to a terminal's width."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=200)


class CoarseTimeLeft(ProgressColumn):
    """Time left as field `left` says, in seconds, None for unknown.

    Rich's own column uses the last half minute only, in which no long step may end.
    """

    def render(self, task: Task) -> Text:
        """Return the time, or a question mark."""
        left = 0 if task.finished else task.fields["left"]
        return Text("?" if left is None else format_time(left), style="progress.remaining")


def progress(coarse: bool = False) -> Progress:
    """Return a progress display on standard error; `coarse` is for few, long steps. Standard output holds results only."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        CoarseTimeLeft() if coarse else TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def print_above(bars: Progress) -> Callable[[str], None]:
    """Return a function that prints a line above a progress display, on standard error."""
    return lambda line: bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print `value` as JSON on standard output."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, ruled: bool = False) -> None:
    """Print a table; `ruled` draws a line wherever the first column changes."""
    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name, no_wrap=True, overflow="fold")
    previous = None
    for row in rows:
        if ruled and previous is not None and row[0] != previous:
            table.add_section()
        previous = row[0]
        table.add_row(*(click.unstyle(cell).replace("[", "\\[") for cell in row))
    console().print(table)


def print_listing(listing: "Listing", title: str, remark: str, form: str, as_json: bool, ruled: bool = True) -> None:
    """Print a table of results as JSON, for the terminal with a remark below it, as Markdown or as CSV."""
    if as_json:
        print_json(listing.records)
    elif form == "terminal":
        print_table(listing.head, listing.terminal(), title, ruled)
        console().print(remark)
    else:
        click.echo(listing.markdown() if form == "markdown" else listing.csv(), nl=form == "markdown")


def printable(text: str) -> str:
    """Return `text` with control characters escaped: a file name must not move the cursor or break a line.

    >>> printable("a\\nb é")
    'a\\\\nb é'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
