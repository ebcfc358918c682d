"""evaluate: score heads on a store or on images."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posenet_store.cli.build_progress import build_with_progress
from posenet_store.cli.build_store import find_inputs, report_device
from posenet_store.cli.help import command
from posenet_store.cli.images import load_images
from posenet_store.cli.options import (
    OPTIONS,
    backbone_options,
    image_options,
    int_range,
    is_given,
    json_option,
    list_given,
    stores_option,
)
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
    from posenet_store.sweep.evaluate import Evaluation
    from posenet_store.sweep.head_files import CellHead, ExternalHead, OpenedHead

    Head = CellHead | ExternalHead
    Stores = tuple[Reader, Reader | None]

MIRRORED = "mirrored"
SCORES = ("spc", "mae")
SHOWN = ("target", "kernel", "padding", "input", "images")
"""Fields of heads that have a column anyway."""


@command(example="evaluate --head runs/a/heads/ID.safetensors --images bear.jpg")
@click.option("--head", "patterns", multiple=True, required=True, metavar="FILE",
              help="RUN/heads/*.safetensors of a sweep; with --target, a state dict of one torch.nn.Conv2d. Repeatable; a "
                   "pattern in quotes stands for all files that match.")  # fmt: skip
@click.option("--store", type=click.Path(path_type=Path), help="A store of the heads' network.")
@click.option("--target", "targets", multiple=True,
              help=f"The map that an external head predicts: {', '.join((*TARGETS, *PATTERNS))}. Repeat it to give one for "
                   "each --head, in their order.")  # fmt: skip
@click.option(
    "--input",
    "source_text",
    default="aligned",
    show_default=True,
    help="What an external head reads: aligned, full or corners, or some stages of it (aligned:f1+f2, full:f5, corners:f5).",
)
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
    _refuse_ignored(store is not None, bool(targets), network)
    files = _list_files(patterns, targets)
    if maps is not None:
        check_writable(maps, "--maps")
        _check_names([path for path, _ in files])
    if source is not None and targets and network.name is None:
        raise click.UsageError("an external head does not record its network: give --backbone")
    load = None if source is None else find_inputs(source, data_root, network, root)
    reader = open_store(store) if store else None

    from posenet_store.sweep.evaluate import evaluate_heads
    from posenet_store.sweep.head_files import ExternalHead, load_cell_head

    heads: list[Head] = [
        ExternalHead(path, target, source_text, head_padding) if target else load_cell_head(path) for path, target in files
    ]
    stores: list[Stores] = [(reader, None) for _ in heads if reader is not None]
    if source is not None and load is not None:
        stores = _Images(source, load, network, root, batch_size, mirrored).find_stores(heads)
    opened = [head.open(*readers) for head, readers in zip(heads, stores, strict=True)]
    evaluated = evaluate_heads(opened)
    if maps is not None:
        _draw_maps([path for path, _ in files], evaluated, maps)
    _note_padding(targets, head_padding)
    rows = _list_rows(heads, opened, evaluated)
    if as_json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [[_format(name, value) for name, value in row.items()] for row in rows])


def _refuse_ignored(on_store: bool, external: bool, network: "BackboneSpec") -> None:
    """Raise UsageError for an option that was typed and would change nothing."""
    recorded = [option for name, option in (("head_padding", "--head-padding"), ("source_text", "--input")) if is_given(name)]
    if recorded and not external:
        raise UsageError(f"{recorded[0]} is for external heads, whose --target is given; the head of a sweep records its own")
    computing = [f"--{OPTIONS.get(name, name)}" for name in list_given(network)]
    computing += [f"--{name.replace('_', '-')}" for name in ("batch_size", "data_root") if is_given(name)]
    if computing and on_store:
        raise UsageError(f"{computing[0]} is for features of --images; those of --store are computed already: leave it out")


def _list_files(patterns: Sequence[str], targets: Sequence[str]) -> list[tuple[Path, str]]:
    """Return each file with its target, "" without one; raises UsageError for what matches no file, and for other counts."""
    if len(targets) not in (0, 1, len(patterns)):
        raise UsageError(
            f"{len(targets)} --target for {len(patterns)} --head: give one for all heads, or one for each in order"
        )
    names = [load_target(target) for target in targets]
    for name in names:
        make_native_map(name)
    named = names if len(names) == len(patterns) else [*names, ""][:1] * len(patterns)
    pairs = ((path, name) for pattern, name in zip(patterns, named, strict=True) for path in _match_files(pattern))
    return list(dict.fromkeys(pairs))


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


def _check_names(paths: Sequence[Path]) -> None:
    """Raise UsageError if the figures of two heads would have one name."""
    known: dict[str, Path] = {}
    for path in paths:
        if path.stem in known:
            raise UsageError(
                f"--maps calls a figure after its head, and {known[path.stem]} and {path} would have one: evaluate them apart"
            )
        known[path.stem] = path


def _note_padding(targets: Sequence[str], padding: int) -> None:
    """Say which padding was taken for that of external heads where nobody gave one."""
    if targets and not is_given("head_padding"):
        print_line(
            f"note: a state dict does not record the padding of its head; {padding} is assumed (--head-padding)", err=True
        )


def _list_rows(
    heads: "Sequence[Head]", opened: "Sequence[OpenedHead]", evaluated: "Sequence[Evaluation]"
) -> list[dict[str, Any]]:
    """Return a row a test of each head; of several heads, and of an external one, also what the head is.

    A state dict does not say it. Heads of sweeps also have each field in which they differ, and the store that trained them.
    """
    from posenet_store.report.records import get_fields, list_varying
    from posenet_store.sweep.head_files import CellHead

    names, cells = [head.path.name for head in heads], [head for head in heads if isinstance(head, CellHead)]
    varying = [name for name in list_varying(cells) if name not in SHOWN]
    stores = len({cell.cell.store for cell in cells}) > 1
    rows = []
    for head, name, of_store, evaluation in zip(heads, names, opened, evaluated, strict=True):
        called = {"head": name if names.count(name) == 1 else str(head.path)} if len(heads) > 1 else {}
        kind: dict[str, Any] = {
            "kernel": of_store.heads.weight.shape[-1],
            "padding": of_store.heads.padding,
            "input": head.input,
        }
        if isinstance(head, CellHead):
            kind = (kind if called else {}) | {field: get_fields(head)[field] for field in varying}
            kind |= {"trained_on": head.trained_on} if stores else {}
        rows += [called | row | kind for row in evaluation.rows()]
    return rows


def _format(name: str, value: object) -> str:
    """Return a fact of a row for people: an undefined score as such, a setting that a protocol does not have as nothing."""
    if name in SCORES:
        return "undef." if value is None else f"{value:.4f}"
    return "" if value is None else str(value)


def _draw_maps(paths: Sequence[Path], evaluated: "Sequence[Evaluation]", folder: Path) -> None:
    """Draw a figure a head, called after its file where there are several."""
    from posenet_store.report.figures.head_maps import draw_head_maps

    for path, evaluation in zip(paths, evaluated, strict=True):
        picture = draw_head_maps(evaluation)
        for written in replace(picture, name=path.stem if len(paths) > 1 else picture.name).save(folder):
            print_line(f"written: {written}", err=True)


@dataclass(frozen=True)
class _Images:
    """Images that heads are to be scored on, and how their stores are built."""

    source: str
    load: "Load"
    network: "BackboneSpec"
    root: Path
    batch_size: int | None
    mirrored: bool

    def find_stores(self, heads: "Sequence[Head]") -> "list[Stores]":
        """Return each head's store of the images and, if asked for, of the mirrored ones; build those that are missing."""
        wanted = [self._choose_store(head) for head in heads]
        readers = {
            (network, layout): self._open(
                network, layout, [head for head, store in zip(heads, wanted, strict=True) if store == (network, layout)]
            )
            for network, layout in dict.fromkeys(wanted)
        }
        return [readers[store] for store in wanted]

    def _choose_store(self, head: "Head") -> "tuple[BackboneSpec, str]":
        """Return network and layout of the store that a head needs: the typed ones, or those that a sweep's head records."""
        from posenet_store.specs import BackboneSpec
        from posenet_store.sweep.head_files import ExternalHead
        from posenet_store.sweep.inputs import reads_all_channels

        network = self.network
        if network.name is None and not isinstance(head, ExternalHead):
            if head.network_spec is None:
                raise click.UsageError(
                    f"{head.path} does not record where its network comes from: give --backbone and --weights"
                )
            network = replace(BackboneSpec.from_dict(head.network_spec), **list_given(network), device=network.device)
        return network, "native" if reads_all_channels(head.input) else "aligned"

    def _open(self, network: "BackboneSpec", layout: str, heads: "Sequence[Head]") -> "Stores":
        """Build, or find, the stores of the images and of the mirrored ones that heads are to be scored on."""
        from posenet_store.backbones.load import load_backbone
        from posenet_store.extraction.build import build_store, plan_store
        from posenet_store.images.transforms import parse_transform, transform_images

        loaded, readers = load_images(self.source, self.load), list[Reader]()
        frozen = load_backbone(network)
        sets = (loaded, transform_images(loaded, parse_transform(MIRRORED)))[: 1 + self.mirrored]
        plans = [plan_store(images, frozen, layout, "float32") for images in sets]
        for head in heads:
            head.check_network(plans[0].spec)  # before a store is built
        place = report_device(frozen, network.device)
        for images, plan in zip(sets, plans, strict=True):
            location = find_equivalent(plan.spec, self.root)
            if location is None:
                build = partial(build_store, images, frozen, plan, self.root, batch_size=self.batch_size)
                location = build_with_progress(build, f"{plan.spec.network} on {images.name}", len(images), place).path
            readers.append(open_store(location))
        return readers[0], readers[1] if self.mirrored else None
