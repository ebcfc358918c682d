"""What a notebook shows: tables and progress bars as HTML, without widgets; IPython is imported only inside one."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from itertools import chain, repeat

INTERVAL = 0.2  # seconds between two updates of a bar


def format_html_table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), caption: str = "") -> str:
    """Return an HTML table with all text escaped; without a `head` the first cell of each row is its label.

    >>> format_html_table([("rows", 3)], caption="a < b")
    '<table><caption>a &lt; b</caption><tr><th>rows</th><td>3</td></tr></table>'
    """

    def write_line(values: Sequence[object], tags: Iterable[str]) -> str:
        cells = (f"<{tag}>{escape(str(value))}</{tag}>" for tag, value in zip(tags, values, strict=False))
        return f"<tr>{''.join(cells)}</tr>"

    lines = [write_line(head, repeat("th"))] if head else []
    lines += [write_line(row, chain(["td" if head else "th"], repeat("td"))) for row in rows]
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}{''.join(lines)}</table>"


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextmanager
def show_progress(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield `advance(n)`, which moves a bar in a notebook by n units; anywhere else it does nothing."""
    if not is_notebook():
        yield lambda count: None
        return
    from IPython.display import display

    began, shown, done = time.monotonic(), 0.0, 0
    handle = display(_format_bar(label, 0, total, unit, 0.0), raw=True, display_id=True)

    def update() -> None:
        handle.update(_format_bar(label, done, total, unit, time.monotonic() - began), raw=True)

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        if time.monotonic() - shown > INTERVAL:
            shown = time.monotonic()
            update()

    try:
        yield advance
    finally:
        update()


def _format_bar(label: str, done: int, total: int, unit: str, seconds: float) -> dict[str, str]:
    """Return a bar as a notebook takes it: HTML, and text for where there is none.

    >>> _format_bar("vgg16 on photos", 12, 24, "images", 4.0)["text/plain"]
    'vgg16 on photos: 12 of 24 images, 4 s, about 4 s left'
    """
    left = f", about {seconds * (total - done) / done:.0f} s left" if 0 < done < total else ""
    text = f"{label}: {done:,} of {total:,} {unit}, {seconds:.0f} s{left}"
    bar = f'<progress value="{done}" max="{max(total, 1)}" aria-label="{escape(label)}"></progress>'
    return {"text/plain": text, "text/html": f"<div>{bar} {escape(text)}</div>"}
