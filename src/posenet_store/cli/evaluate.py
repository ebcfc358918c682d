"""evaluate: score heads on a store or on images."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from posenet_store.cli.build_progress import build_with_progress
from posenet_store.cli.build_store import find_inputs, report_device
from posenet_store.cli.help import command
from posenet_store.cli.images import load_images
from posenet_store.cli.options import backbone_options, image_options, int_range, json_option, list_given, stores_option
from posenet_store.cli.output import print_json, print_line, print_table
from posenet_store.errors import UsageError
from posenet_store.files import check_writable, expand_user
from posenet_store.heads.own_maps import load_target
from posenet_store.heads.targets import PATTERNS, TARGETS, make_native_map
from posenet_store.store.catalogue import find_equivalent
from posenet_store.store.reader import Reader, open_store

if TYPE_CHECKING:  # the real imports are in the commands: --help must not load torch
    from posenet_store.images.sources import Load
    from posenet_store.specs import BackboneSpec
    from posenet_store.sweep.evaluate import Evaluation, ExternalHead, OpenedHead

    Question = tuple[Path, ExternalHead | None]

MIRRORED = "mirrored"


@command(example="evaluate --head runs/a/heads/ID.safetensors --images bear.jpg")
@click.option("--head", "patterns", multiple=True, required=True, metavar="FILE",
              help="RUN/heads/*.safetensors of a sweep; with --target, a state dict of one torch.nn.Conv2d. Repeatable; a "
                   "pattern in quotes stands for all files that match.")  # fmt: skip
@click.option("--store", type=click.Path(path_type=Path), help="A store of the heads' network.")
@click.option("--target", "targets", multiple=True,
              help=f"The map that an external head predicts: {', '.join((*TARGETS, *PATTERNS))}. Repeat it to give one for "
                   "each --head, in their order.")  # fmt: skip
@click.option("--input", "source_text", default="aligned", show_default=True, help="What an external head reads.")
@click.option("--head-padding", type=int_range("paddings"), default=0, show_default=True,
              help="Zero padding of an external head, which a state dict does not record.")  # fmt: skip
@click.option("--mirrored", is_flag=True,
              help="Also score mirrored images against the mirrored map, and the mean of both; with --images.")  # fmt: skip
@click.option("--maps", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for a figure a head: the predicted map, its errors, and the channels that predict it.")  # fmt: skip
@image_options(required=False)
@backbone_options(backbone_required=False)
@stores_option
@json_option
def evaluate(
    patterns: tuple[str, ...], store: Path | None, source: str | None, data_root: Path | None, network: "BackboneSpec",
    batch_size: int | None, root: Path, as_json: bool, targets: tuple[str, ...], source_text: str, head_padding: int,
    mirrored: bool, maps: Path | None,
) -> None:  # fmt: skip
    """Score trained heads on a store, or on images.

    The store of images is looked for, and built if there is none. The head of a sweep records its network and
    weights: the options of the network are for other heads.

    The report's notebook transposes its test images: --images photo.jpg@transposed.
    """
    if (store is None) == (source is None):
        raise click.UsageError("give either --store or --images")
    if mirrored and source is None:
        raise click.UsageError("--mirrored needs --images, whose mirror images it shows to the network")
    heads = _list_heads(patterns, targets)
    if maps is not None:
        check_writable(maps, "--maps")
    if source is not None and targets and network.name is None:
        raise click.UsageError("an external head does not record its network: give --backbone")
    load = None if source is None else find_inputs(source, data_root, network, root)
    opened = open_store(store) if store else None

    from posenet_store.sweep.evaluate import ExternalHead

    questions = [(path, ExternalHead(target, source_text, head_padding) if target else None) for path, target in heads]
    images = _Images(source, load, network, root, batch_size, mirrored) if source and load else None
    evaluated = _evaluate(questions, opened, images)
    if maps is not None:
        _draw_maps(evaluated, maps)
    _note_padding(targets, head_padding)
    rows = [row for question, (head, evaluation) in zip(questions, evaluated, strict=True)
            for row in _list_rows(head, evaluation, question[1], named=len(heads) > 1)]  # fmt: skip
    if as_json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])


def _list_heads(patterns: Sequence[str], targets: Sequence[str]) -> list[tuple[Path, str]]:
    """Return each file with its target, "" without one; raises UsageError for what matches no file, and for other counts."""
    if len(targets) not in (0, 1, len(patterns)):
        raise UsageError(
            f"{len(targets)} --target for {len(patterns)} --head: give one for all heads, or one for each in order"
        )
    names = [load_target(target) for target in targets]
    for name in names:
        make_native_map(name)
    named = names if len(names) == len(patterns) else [*names, ""][:1] * len(patterns)
    return [(path, name) for pattern, name in zip(patterns, named, strict=True) for path in _match_files(pattern)]


def _match_files(pattern: str) -> list[Path]:
    """Return the file, or the files that match a pattern, sorted."""
    path = expand_user(pattern)
    if path.is_file() or not set(pattern) & set("*?["):
        paths = [path] if path.is_file() else []
    else:
        paths = sorted(match for match in map(Path, glob.glob(str(path), recursive=True)) if match.is_file())  # noqa: PTH207
    if not paths:
        raise UsageError(f"head file {pattern} does not exist; a sweep writes them to RUN/heads/")
    return paths


def _note_padding(targets: Sequence[str], padding: int) -> None:
    """Say which padding was taken for that of external heads where nobody gave one."""
    source = click.get_current_context().get_parameter_source("head_padding")
    if targets and source is ParameterSource.DEFAULT:
        print_line(
            f"note: a state dict does not record the padding of its head; {padding} is assumed (--head-padding)", err=True
        )


def _list_rows(
    head: "OpenedHead", evaluation: "Evaluation", question: "ExternalHead | None", named: bool
) -> Iterator[dict[str, Any]]:
    """Yield a row a test; of several heads, and of an external one, also what the head is: a state dict does not say it."""
    kind = {"kernel": head.heads.weight.shape[-1], "padding": head.heads.padding, "input": head.input}
    for row in evaluation.rows():
        yield ({"head": head.name} if named else {}) | row | (kind if named or question else {})


def _shown(value: object) -> str:
    return "undef." if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _draw_maps(evaluated: "Sequence[tuple[OpenedHead, Evaluation]]", folder: Path) -> None:
    """Draw a figure a head, called after its file where there are several."""
    from posenet_store.report.figures.head_maps import draw_head_maps

    for head, evaluation in evaluated:
        picture = draw_head_maps(evaluation)
        for path in replace(picture, name=Path(head.name).stem if len(evaluated) > 1 else picture.name).save(folder):
            print_line(f"written: {path}", err=True)


def _evaluate(
    questions: "Sequence[Question]", opened: Reader | None, images: "_Images | None"
) -> "list[tuple[OpenedHead, Evaluation]]":
    """Open and score heads, those of one network together; return them in their order."""
    from posenet_store.sweep.evaluate import evaluate_heads, open_external_head, open_head

    evaluated: dict[int, tuple[OpenedHead, Evaluation]] = {}
    stores = [images.choose_store(*question) if images else None for question in questions]
    for wanted in dict.fromkeys(stores):
        numbers = [number for number, store in enumerate(stores) if store == wanted]
        reader, mirrored = opened, None
        if wanted is not None and images is not None:
            reader, mirrored = images.open(wanted, [questions[number] for number in numbers])
        if reader is None:
            raise ValueError("neither a store nor images to score heads on")
        heads = [open_external_head(path, reader, question) if question else open_head(path, reader)
                 for path, question in (questions[number] for number in numbers)]  # fmt: skip
        results = evaluate_heads(heads, reader, mirrored)
        evaluated |= dict(zip(numbers, zip(heads, results, strict=True), strict=True))
    return [evaluated[number] for number in range(len(questions))]


@dataclass(frozen=True)
class _Images:
    """Images that heads are to be scored on, and how their stores are built."""

    source: str
    load: "Load"
    network: "BackboneSpec"
    root: Path
    batch_size: int | None
    mirrored: bool

    def choose_store(self, head: Path, question: "ExternalHead | None") -> "tuple[BackboneSpec, str]":
        """Return network and layout of the store that a head needs: the typed ones, or those that a sweep's head records."""
        from posenet_store.specs import BackboneSpec
        from posenet_store.sweep.cell import parse_cell
        from posenet_store.sweep.evaluate import load_cell_head
        from posenet_store.sweep.inputs import reads_all_channels

        made, network = {} if question else load_cell_head(head)[1], self.network
        if network.name is None:
            if "network_spec" not in made:
                raise click.UsageError(f"{head} does not record where its network comes from: give --backbone and --weights")
            network = replace(BackboneSpec.from_dict(made["network_spec"]), **list_given(network), device=network.device)
        text = question.input if question else parse_cell(made["cell"], head.name).input
        return network, "native" if reads_all_channels(text) else "aligned"

    def open(self, store: "tuple[BackboneSpec, str]", heads: "Sequence[Question]") -> tuple[Reader, Reader | None]:
        """Build, or find, the stores of the images and, if asked for, of the mirrored ones, that heads are to be scored on."""
        from posenet_store.backbones.load import load_backbone
        from posenet_store.extraction.build import build_store, plan_store
        from posenet_store.images.transforms import parse_transform, transform_images
        from posenet_store.sweep.evaluate import check_network, load_cell_head

        network, layout = store
        frozen = load_backbone(network)
        place = report_device(frozen, network.device)
        readers: list[Reader] = []
        loaded = load_images(self.source, self.load)
        for images in (loaded, transform_images(loaded, parse_transform(MIRRORED)))[: 1 + self.mirrored]:
            plan = plan_store(images, frozen, layout, "float32")
            for path, question in heads:
                if not question:
                    check_network(path, load_cell_head(path)[1], plan.spec)  # before the store is built
            location = find_equivalent(plan.spec, self.root)
            if location is None:
                build = partial(build_store, images, frozen, plan, self.root, batch_size=self.batch_size)
                location = build_with_progress(build, f"{plan.spec.network} on {images.name}", len(images), place).path
            readers.append(open_store(location))
        return readers[0], readers[1] if self.mirrored else None
