"""Options that several commands share, and how results are shown."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

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

from posenet_store.specs import COMPILED, PADDINGS, PRECISIONS, PREPROCESSINGS, NetworkChoice

Command = Callable[..., Any]

stores_option = click.option(
    "--stores", "root", type=click.Path(path_type=Path), default="stores", envvar="POSENET_STORES", show_default=True,
    help="Folder that holds the stores.",
)  # fmt: skip
device_option = click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:K",
                             help="auto: the first GPU if there is one; cuda:K: the K-th, from 0.")  # fmt: skip
data_root_option = click.option("--data-root", type=click.Path(path_type=Path, file_okay=False),
                                help="Folder that holds DUT-S; default: $POSENET_DATA.")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")


def image_options(required: bool) -> Callable[[Command], Command]:
    """Add --images and --data-root."""

    def add(command: Command) -> Command:
        return click.option(
            "--images", "source", metavar="SRC", required=required,
            help="A folder, an image file, duts-te, duts-tr, probes, photos, or synthetic:dead-leaves?n=512&seed=0.",
        )(data_root_option(command))  # fmt: skip

    return add


def backbone_options(backbone_required: bool) -> Callable[[Command], Command]:
    """Add --backbone, --weights, --taps and so on, which reach the command as one `network`, and --batch-size."""
    added = (
        click.option("--batch-size", type=click.IntRange(1),
                     help="Images a forward pass.  [default: 16; on CUDA a block, halved while memory runs out]"),
        click.option("--compile", "compiled", is_flag=True,
                     help="Let torch.compile translate the network; needs a C++ compiler."),
        click.option(
            "--precision", type=click.Choice(PRECISIONS), default=PRECISIONS[0], show_default=True,
            help="What convolutions compute in (autocast); float16 on CUDA only. What is stored is --dtype.",
        ),
        device_option,
        click.option("--size", type=click.IntRange(32, 4096), metavar="PIXELS",
                     help="Side to which images are resized.  [default: that of the weights: 224]"),
        click.option(
            "--preprocess", type=click.Choice(PREPROCESSINGS), default="weights", show_default=True,
            help="The input: what the weights were trained on, or [0, 1] RGB without mean and deviation (the official code).",
        ),
        click.option(
            "--padding", type=click.Choice(PADDINGS), default="zeros", show_default=True,
            help="Padding of VGG's and ResNet's convolutions; the trained weights stay as they are.",
        ),
        click.option(
            "--taps", "tap_set", metavar="report|official|MODULES", default="report", show_default=True,
            help="VGG after pooling, or at the ReLU before; or modules of your choice: features.3,features.8.",
        ),
        click.option(
            "--weights", default="imagenet", show_default=True, metavar="W",
            help="imagenet (torchvision's), a .pth or .safetensors file, hed (VGG-16), or random:SEED.",
        ),
        click.option("--backbone", "name", metavar="NAME", required=backbone_required,
                     help="vgg16, resnet152, another torchvision CNN, or pixels."),
    )  # fmt: skip

    def add(command: Command) -> Command:
        @wraps(command)
        def collected(**options: Any) -> Any:
            options["compute"] = options.pop("precision") + COMPILED * options.pop("compiled")
            network = NetworkChoice(*(options.pop(field.name) for field in fields(NetworkChoice)))
            return command(network=network, **options)

        for option in added:
            collected = option(collected)
        return collected

    return add


def speed_line(speed: Mapping[str, Any]) -> str:
    """Return a build's speed, the stages' shares of its time and what bound it, for people.

    >>> stages = {"read": 0.0, "decode": 0.4, "forward": 9.6, "copy": 0.1, "encode": 0.3, "write": 0.2}
    >>> speed_line({"images_per_s": 6.1, "seconds": 10.0, "stages": stages, "bound_by": "forward", "processors": 0.98})
    '6.1 a second: forward 96 %, decode 4 %, encode 3 %, write 2 %, copy 1 %; bound by forward, processors 98 % busy'
    """
    seconds = max(speed["seconds"], 1e-9)
    stages = sorted(speed["stages"].items(), key=lambda stage: -stage[1])
    shares = ", ".join(f"{name} {100 * spent / seconds:.0f} %" for name, spent in stages if spent / seconds > 0.005)
    bound = f"bound by {speed['bound_by']}, processors {100 * speed['processors']:.0f} % busy"
    return f"{speed['images_per_s']:.1f} a second: {shares}; {bound}"


def console() -> Console:
    """Return the console for tables; piped output is not cut to a terminal's width."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=200)


class CoarseTimeLeft(ProgressColumn):
    """Time left as field `left` says, in seconds, None for unknown.

    Rich's own column looks at the last half minute, in which no long step ends.
    """

    def render(self, task: Task) -> Text:
        """Return the time, or a question mark."""
        left = 0 if task.finished else task.fields["left"]
        return Text("?" if left is None else human_time(left), style="progress.remaining")


def progress(coarse: bool = False) -> Progress:
    """Return a progress display on standard error, so that standard output stays clean; `coarse`: of few, long steps."""
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


def above(bars: Progress) -> Callable[[str], None]:
    """Return what prints a line above a progress display, on standard error too."""
    return lambda line: bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print `value` as JSON on standard output."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, ruled: bool = False) -> None:
    """Print a table; with `ruled`, a rule stands wherever the first column changes."""
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


def printable(text: str) -> str:
    """Return `text` with control characters escaped: a file's name must not move the cursor or break a line.

    >>> printable("a\\nb é")
    'a\\\\nb é'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def human_bytes(count: float) -> str:
    """Return a size for people.

    >>> human_bytes(1536), human_bytes(53e9)
    ('1.5 kB', '53.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_time(seconds: float) -> str:
    """Return a duration for people.

    >>> human_time(8), human_time(150), human_time(7500)
    ('8 s', '2 min 30 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
