"""run: from a folder of images and a network's name to the page, in one command."""

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
from posenet_store.cli.options import backbone_options, data_root_option, json_option, limit_option, stores_option
from posenet_store.cli.output import format_bytes, format_time, print_json, print_line, print_path, print_table
from posenet_store.files import check_folder, check_writable, shorten_name

if TYPE_CHECKING:  # the real imports are in the command: --help must not load torch
    from posenet_store.backbones.backbone import Backbone
    from posenet_store.images.image_set import ImageSet
    from posenet_store.specs import BackboneSpec
    from posenet_store.store.catalogue import StoreInfo
    from posenet_store.sweep.plan import SweepPlan
    from posenet_store.sweep.results import RunFiles
    from posenet_store.sweep.spec import SweepSpec

LAYOUT, DTYPE = "aligned", "float32"
"""What Table 2 reads, 47 kB an image; the features of an untrained network do not fit float16."""


@command(example="run photos --backbone vgg16 --plan")
@click.argument("source", metavar="IMAGES")
@backbone_options(backbone_required=True)
@data_root_option
@stores_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of the results.  [default: runs/IMAGES-NETWORK]")  # fmt: skip
@click.option("--sweep", "experiment", default="table2", show_default=True, metavar="SPEC",
              help="Experiment or TOML file of the heads; they may read three channels a tap only.")  # fmt: skip
@limit_option
@click.option("--no-untrained", is_flag=True, help="Leave out the control: the same network with random weights.")
@click.option(
    "--no-unpadded",
    is_flag=True,
    help="Leave out the control: the same network without zero padding (with circular padding where that is not possible).",
)
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be built and trained; build nothing.")
@json_option
def run(
    network: "BackboneSpec", batch_size: int | None, source: str, data_root: Path | None, root: Path, out: Path | None,
    experiment: str, limit: int | None, no_untrained: bool, no_unpadded: bool, plan_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure how much position a network encodes on IMAGES.

    Builds the stores of the network, of its controls (untrained, without padding) and of the pixels as baseline,
    trains heads, and writes the page. A rerun resumes. The last line printed is the page.
    """
    load = find_inputs(source, data_root, network, root, plan_only)
    if out:
        check_folder(out, "--out") if plan_only else check_writable(out, "--out")

    from posenet_store.extraction.controls import list_networks
    from posenet_store.sweep.results import RunFiles
    from posenet_store.sweep.spec import load_sweep

    spec = load_sweep(experiment)
    images = load_images(source, load, limit)
    networks, notes = list_networks(network, untrained=not no_untrained, unpadded=not no_unpadded)
    for note in notes:
        print_line(f"note: {note}", err=True)
    stores = [
        store for role, frozen in networks.items()
        for store in _prepare_stores(role, frozen, images, root, batch_size, plan_only)
    ]  # fmt: skip
    label = stores[0].info.spec.network
    files = RunFiles(out or Path("runs", shorten_name(f"{images.name}-{label}")))
    spec = replace(spec, title=f"{label} on {images.name}", networks=("*",), train=("*", images.name))
    if plan_only:
        _print_plan(stores, spec, root, files, as_json)
    else:
        _train(stores, spec, root, files, as_json)


@dataclass(frozen=True)
class _Store:
    """A store of the run: the role of its network, what it is, and the seconds that a build would take (in a plan)."""

    role: str
    info: "StoreInfo"
    seconds: float = 0.0


def _prepare_stores(
    role: str, network: "BackboneSpec", images: "ImageSet", root: Path, batch_size: int | None, plan_only: bool
) -> list[_Store]:
    """Build, or only plan, the stores of one network: of the images, and of the probes."""
    from posenet_store.backbones.load import load_backbone
    from posenet_store.images.synthetic import load_probes

    backbone = load_backbone(network)
    place = report_device(backbone, network.device)
    prepare = _plan_build if plan_only else partial(_build, place=place)
    return [_Store(role, *prepare(subset, backbone, root, batch_size)) for subset in (images, load_probes())]


def _build(images: "ImageSet", backbone: "Backbone", root: Path, batch_size: int | None, place: str) -> "tuple[StoreInfo]":
    from posenet_store.extraction.build import build_store, plan_store
    from posenet_store.store.catalogue import describe_store

    plan = plan_store(images, backbone, LAYOUT, DTYPE)
    build = partial(build_store, images, backbone, plan, root, batch_size=batch_size)
    title = f"{plan.spec.network} on {images.name}"
    return (describe_store(build_with_progress(build, title, len(images), place).path),)


def _plan_build(images: "ImageSet", backbone: "Backbone", root: Path, batch_size: int | None) -> "tuple[StoreInfo, float]":
    """Return the store as it will be, and the seconds that its build takes: none if it is there."""
    from posenet_store.extraction.build import plan_store
    from posenet_store.extraction.forward import choose_batch_size
    from posenet_store.extraction.plan import estimate_build
    from posenet_store.store.catalogue import StoreInfo, describe_store
    from posenet_store.store.plan import find_folder

    plan = plan_store(images, backbone, LAYOUT, DTYPE)
    path = find_folder(root, plan.spec)
    if (path / "plan.json").is_file() and (info := describe_store(path)).sealed:
        return info, 0.0
    expected = estimate_build(images, backbone, plan, batch_size or choose_batch_size(backbone, plan.spec.block_rows))
    return StoreInfo(path, plan.spec, True, len(plan.bounds), 0, expected.bytes, 0), expected.seconds


def _plan_sweep(stores: Sequence[_Store], spec: "SweepSpec", root: Path) -> "SweepPlan":
    from posenet_store.sweep.plan import plan_sweep

    plan = plan_sweep(spec, [store.info for store in stores], root)
    for note in plan.notes:
        print_line(f"note: {note}", err=True)
    return plan


def _print_plan(stores: Sequence[_Store], spec: "SweepSpec", root: Path, files: "RunFiles", as_json: bool) -> None:
    """Print every store with the size and time of its build, and how many heads will be trained."""
    from posenet_store.sweep.run_state import read_tests

    plan = _plan_sweep(stores, spec, root)
    finished = len(plan.cells) - len(plan.without(read_tests(files, plan.cells)).cells)
    facts: list[dict[str, Any]] = [
        {"role": store.role, "store": str(store.info.path), "rows": store.info.spec.rows, "bytes": store.info.bytes,
         "seconds": round(store.seconds, 1)}
        for store in stores
    ]  # fmt: skip
    if as_json:
        print_json({"stores": facts, "heads": len(plan.cells), "finished": finished, "run": str(files.root)})
        return
    rows = [
        [fact["role"], Path(fact["store"]).name, str(fact["rows"]), format_bytes(fact["bytes"]),
         format_time(fact["seconds"]) if fact["seconds"] else "complete"]
        for fact in facts
    ]  # fmt: skip
    print_table(["network", "store", "images", "size", "time"], rows)
    print_line(f"{len(plan.cells):,} heads, {finished:,} finished; the page will be {files.page}")


def _train(stores: Sequence[_Store], spec: "SweepSpec", root: Path, files: "RunFiles", as_json: bool) -> None:
    """Train the heads, write the page, and print where everything is."""
    from posenet_store.cli.sweep import run_with_progress, write_outcome
    from posenet_store.sweep.run_state import read_tests

    plan = _plan_sweep(stores, spec, root)
    infos = [store.info for store in stores]
    left = plan.without(read_tests(files, plan.cells))
    outcome = run_with_progress(spec.title, spec, plan, left, infos, files, "auto", None)
    write_outcome(outcome, files)
    places = {f"{store.role}, {store.info.spec.images}": str(store.info.path) for store in stores}
    facts = {"heads": str(files.head("").parent), "table": str(files.csv), "page": str(files.page)}
    if as_json:
        print_json({"stores": places} | facts | {"failed": list(outcome.failures)})
    else:
        for name, path in (places | facts).items():
            print_path(f"{name:24} {path}")
    if outcome.failures:
        raise click.exceptions.Exit(1)
