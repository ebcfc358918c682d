"""evaluate: score one head on a store or on images."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.build_store import build_with_progress, check_inputs, report_device
from posenet_store.cli.help import command
from posenet_store.cli.images import load_images
from posenet_store.cli.options import backbone_options, image_options, int_range, json_option, list_given, stores_option
from posenet_store.cli.output import print_json, print_line, print_table
from posenet_store.errors import UsageError
from posenet_store.files import check_writable
from posenet_store.heads.targets import PATTERNS, TARGETS
from posenet_store.store.reader import open_store

if TYPE_CHECKING:  # the real imports are in the commands: --help must not load torch
    from posenet_store.specs import BackboneSpec
    from posenet_store.sweep.evaluate import ExternalHead


@command(example="evaluate --head runs/a/heads/ID.safetensors --images bear.jpg")
@click.option("--head", type=click.Path(path_type=Path), required=True,
              help="RUN/heads/*.safetensors of a sweep; with --target, a state dict of one torch.nn.Conv2d.")  # fmt: skip
@click.option("--store", type=click.Path(path_type=Path), help="A store of the head's network.")
@click.option("--target", help=f"The map that an external head predicts: {', '.join((*TARGETS, *PATTERNS))}.")
@click.option("--input", "source_text", default="aligned", show_default=True, help="What an external head reads.")
@click.option("--head-padding", type=int_range("paddings"), default=0, show_default=True,
              help="Zero padding of an external head.")  # fmt: skip
@click.option("--maps", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for a figure: the predicted map, its errors, and the channels that predict it.")  # fmt: skip
@image_options(required=False)
@backbone_options(backbone_required=False)
@stores_option
@json_option
def evaluate(
    head: Path, store: Path | None, source: str | None, data_root: Path | None, network: "BackboneSpec",
    batch_size: int | None, root: Path, as_json: bool, target: str | None, source_text: str, head_padding: int,
    maps: Path | None,
) -> None:  # fmt: skip
    """Score one trained head on a store, or on images.

    The store of images is looked for, and built if there is none. The head of a sweep records its network and
    weights: the options of the network are for other heads.

    The report's notebook transposes its test images: --images photo.jpg@transposed.
    """
    if (store is None) == (source is None):
        raise click.UsageError("give either --store or --images")
    if not head.is_file():
        raise UsageError(f"head file {head} does not exist; a sweep writes them to RUN/heads/")
    if maps is not None:
        check_writable(maps, "--maps")
    if source is not None:
        if target and network.name is None:
            raise click.UsageError("an external head does not record its network: give --backbone")
        check_inputs(source, data_root, network, root)
    opened = open_store(store) if store else None

    from posenet_store.sweep.evaluate import ExternalHead, evaluate_external, evaluate_head

    question = ExternalHead(target, source_text, head_padding) if target else None
    if opened is None:
        opened = open_store(_store_of(head, question, str(source), data_root, network, root, batch_size))
    found = evaluate_external(head, opened, question) if question else evaluate_head(head, opened)
    rows = found.rows()
    if maps is not None:
        from posenet_store.report.figures.head_maps import draw_head_maps

        for path in draw_head_maps(found).save(maps):
            print_line(f"written: {path}", err=True)
    if as_json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])


def _shown(value: object) -> str:
    return "undef." if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _store_of(
    head: Path, question: "ExternalHead | None", source: str, data_root: Path | None, network: "BackboneSpec", root: Path,
    batch_size: int | None,
) -> Path:  # fmt: skip
    """Build, or find, the store of the images that a head is to be scored on."""
    from posenet_store.backbones.load import load_backbone
    from posenet_store.extraction.build import build_store, plan_store
    from posenet_store.specs import BackboneSpec
    from posenet_store.sweep.cell import parse_cell
    from posenet_store.sweep.evaluate import check_network, load_cell_head
    from posenet_store.sweep.inputs import reads_all_channels

    made = {} if question else load_cell_head(head)[1]
    if network.name is None:
        if "network_spec" not in made:
            raise click.UsageError(f"{head} does not record where its network comes from: give --backbone and --weights")
        network = replace(BackboneSpec.from_dict(made["network_spec"]), **list_given(network), device=network.device)
    images = load_images(source, data_root)
    frozen = load_backbone(network)
    place = report_device(frozen, network.device)
    source_text = question.input if question else parse_cell(made["cell"], head.name).input
    layout = "native" if reads_all_channels(source_text) else "aligned"
    plan = plan_store(images, frozen, layout, "float32")
    if not question:
        check_network(head, made, plan.spec)  # before the store is built
    build = partial(build_store, images, frozen, plan, root, batch_size=batch_size)
    return build_with_progress(build, f"{plan.spec.network} on {images.name}", len(images), place).path
