"""The help of a command: options under headings where there are many, and an example at the end."""

from collections.abc import Callable
from typing import Any

import click

FEW = 9
"""Options of a command that need no headings."""
HEADINGS = {
    "Images": ("source", "data_root", "limit", "max_unreadable"),
    "Network": (
        "name",
        "weights",
        "taps",
        "padding",
        "positions",
        "erase",
        "preprocess",
        "size",
        "precision",
        "compiled",
        "device",
        "batch_size",
    ),
    "Head": ("patterns", "store", "targets", "source_text", "head_padding", "mirrored"),
    "Store": ("root", "extend", "file_format", "layout", "dtype", "keep_tokens", "no_probes", "moments"),
    "Where it runs": ("scheduler", "workers", "fit_device", "memory", "part", "keep_moments"),
    "Heads shown": ("by", "between", "tests", "conditions", "sort", "top"),
    "Output": ("run", "maps", "form", "plan_only", "as_json", "help"),
}
"""Names of parameters by the heading that they stand under; others stand under "Options"."""


class _Command(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, grouped if there are many."""
        options = [
            option for option in self.get_params(ctx) if isinstance(option, click.Option) and option.get_help_record(ctx)
        ]
        headings = {name: heading for heading, names in HEADINGS.items() for name in names} if len(options) > FEW else {}
        records: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*HEADINGS, "Options")}
        for option in options:
            if record := option.get_help_record(ctx):
                records[headings.get(option.name or "", "Options")].append(record)
        for heading, group in records.items():
            if group:
                with formatter.section(heading):
                    formatter.write_dl(group, col_max=22)


def command(name: str | None = None, *, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command whose help ends with an example."""
    return click.command(name, cls=_Command, epilog=f"\b\nExample:\n  posenet-store {example}")
