"""Options that several commands share."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from posenet_store.specs import COMPILED, PADDINGS, POSITIONS, PRECISIONS, PREPROCESSINGS, BackboneSpec
from posenet_store.toml_config import RANGES

Command = Callable[..., Any]
path_type: click.Path = click.Path(path_type=Path)


def int_range(name: str) -> click.IntRange:
    """Return the type of an option whose value is a whole number in the range `name`."""
    low, high = RANGES[name]
    return click.IntRange(int(low), int(high))


limit_option = click.option("--limit", type=int_range("limit"), help="Take the first N images only.")

stores_option = click.option(
    "--stores", "root", type=path_type, default="stores", envvar="POSENET_STORES", show_default=True,
    help="Folder that holds the stores.",
)  # fmt: skip
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:K",
    help="auto: the first GPU if there is one; cuda:K: the K-th, from 0.",
)  # fmt: skip
devices_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:K|cuda:all",
    help="auto: the first GPU if there is one; cuda:K: the K-th, from 0; cuda:all: a process for each GPU of this machine.",
)  # fmt: skip
workers_option = click.option(
    "--workers", type=int_range("workers"),
    help="Local worker processes, or Slurm jobs.  [default: one a CPU core; what the settings file says]",
)  # fmt: skip
data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that holds DUT-S, and keeps generated images.  [default: $POSENET_DATA for DUT-S]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
FIELDS = "network, images, input, target, kernel, padding, protocol, seed or a setting such as learning_rate"
"""What cells differ in, for help."""
where_option = click.option(
    "--where", "conditions", multiple=True, metavar="FIELD=VALUE",
    help=f"Only cells with this value of {FIELDS}. Repeatable: values of one field are alternatives, different fields must all "
    "hold.",
)  # fmt: skip
test_option = click.option(
    "--test", "tests", multiple=True, metavar="COLUMN",
    help="A test column, such as natural or photos; repeatable.  [default: the first in a ranking, all in a comparison]",
)  # fmt: skip
format_option = click.option(
    "--format", "form", type=click.Choice(["terminal", "markdown", "csv"]), default="terminal", show_default=True,
    help="How the table is written; csv has one line an entry, at full precision.",
)  # fmt: skip

WEIGHTS = (
    "imagenet (torchvision's; for timm: those of the tag), a .pth or .safetensors file, hed (VGG-16), "
    "lite0 (tf_efficientnet_lite0), or random:SEED."
)
weights_option = click.option("--weights", default="imagenet", show_default=True, metavar="W", help=WEIGHTS)

_BACKBONE_OPTIONS = (
    weights_option,
    click.option(
        "--taps", metavar="report|official|every:N|MODULES", default="report", show_default=True,
        help="VGG after each pooling, or at the ReLU before it; every N-th stage; or modules: blocks.2,blocks.5.",
    ),
    click.option(
        "--padding", type=click.Choice(PADDINGS), default="zeros", show_default=True,
        help="Padding of VGG's and ResNet's convolutions; the trained weights stay as they are.",
    ),
    click.option(
        "--positions", type=click.Choice(POSITIONS), default=POSITIONS[0], show_default=True,
        help="A transformer's position embeddings; zero and shuffled replace those of the patches.",
    ),
    click.option(
        "--erase", metavar="FILE", default="",
        help="Erase targets inside the running network, as a file of the command `erase` says.",
    ),
    click.option(
        "--preprocess", type=click.Choice(PREPROCESSINGS), default="weights", show_default=True,
        help="The input: what the weights were trained on, or [0, 1] RGB without mean and deviation (the official code).",
    ),
    click.option(
        "--size", type=int_range("image_size"), metavar="PIXELS",
        help="Side of the network's images.  [default: that of the weights: 224 unless timm has another]",
    ),
    click.option(
        "--precision", type=click.Choice(PRECISIONS), default=PRECISIONS[0], show_default=True,
        help="What convolutions compute in; float16 and tf32 on CUDA only. --dtype is what the store holds.",
    ),
    click.option("--compile", "compiled", is_flag=True, help="Compile the network with torch.compile; needs a C++ compiler."),
    click.option(
        "--batch-size", type=int_range("batch_size"),
        help="Images a forward pass.  [default: 16; on CUDA a block, halved while memory runs out]",
    ),
)  # fmt: skip


OPTIONS = {"name": "backbone", "compute": "precision, --compile"}
"""Fields of a network whose options are called otherwise."""


def is_given(name: str) -> bool:
    """Return whether an option of the present command was typed, or set in the environment."""
    return click.get_current_context().get_parameter_source(name) not in (None, ParameterSource.DEFAULT)


def list_given(network: BackboneSpec) -> dict[str, Any]:
    """Return the fields of `network` that were typed, not left at their defaults."""
    options = {"compute": ("precision", "compiled")}
    given = (
        field.name for field in fields(network)
        for option in options.get(field.name, (field.name,))
        if is_given(option)
    )  # fmt: skip
    return {name: getattr(network, name) for name in given}


def image_options(required: bool) -> Callable[[Command], Command]:
    """Add --images and --data-root."""

    def add(command: Command) -> Command:
        return click.option(
            "--images", "source", metavar="SRC", required=required,
            help="A folder, an image file, a list of files (.txt, .csv), a pattern such as 'photos/*.jpg', tar files "
            "('a-{000..012}.tar'), duts-te, duts-tr, probes, photos, or synthetic:dead-leaves?n=512&seed=0. Behind it a "
            "change: @transposed, @mirrored, @cropped:SEED, @placed:GRID:SEED, @border:PIXELS:COLOUR, @canvas:PIXELS:COLOUR, "
            "with black, white, grey, mean or RRGGBB.",
        )(data_root_option(command))  # fmt: skip

    return add


def backbone_options(
    backbone_required: bool, device: Callable[[Command], Command] = device_option
) -> Callable[[Command], Command]:
    """Add --backbone, --weights, --taps and so on, which reach the command as one `network`, and --batch-size."""
    name_option = click.option(
        "--backbone", "name", metavar="NAME", required=backbone_required,
        help="vgg16, resnet152, another network of torchvision, timm:NAME or timm:NAME.TAG, or pixels.",
    )  # fmt: skip

    def add(command: Command) -> Command:
        @wraps(command)
        def collect(**options: Any) -> Any:
            options["compute"] = options.pop("precision") + COMPILED * options.pop("compiled")
            network = BackboneSpec(**{field.name: options.pop(field.name) for field in fields(BackboneSpec)})
            return command(network=network, **options)

        options: list[Callable[[Command], Command]] = [*reversed(_BACKBONE_OPTIONS), device, name_option]
        changed: Command = collect
        for option in options:
            changed = option(changed)
        return changed

    return add
