"""build-store: run the backbone once."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.backbones.checks import ALL_GPUS, DEVICES, check_device
from posenet_store.cli.build_costs import estimate_costs, print_costs
from posenet_store.cli.build_progress import build_and_sum, build_with_progress
from posenet_store.cli.extension import load_new_images, open_base, plan_build
from posenet_store.cli.help import command
from posenet_store.cli.options import (
    backbone_options,
    devices_option,
    image_options,
    json_option,
    limit_option,
    stores_option,
    workers_option,
)
from posenet_store.cli.output import (
    print_above,
    print_json,
    print_line,
    print_path,
    progress,
)
from posenet_store.errors import BuildError, PosenetStoreError, UsageError
from posenet_store.files import check_folder, check_writable
from posenet_store.specs import DTYPES, FORMATS, LAYOUTS
from posenet_store.store.plan import find_folder
from posenet_store.toml_config import RANGES, parse_whole_number

if TYPE_CHECKING:  # the real imports are in the commands: --help must not load torch
    from posenet_store.backbones.backbone import Backbone
    from posenet_store.extraction.build import BuildResult
    from posenet_store.extraction.distributed import Part
    from posenet_store.images.image_set import ImageSet
    from posenet_store.images.sources import Load
    from posenet_store.specs import BackboneSpec, StoreSpec
    from posenet_store.store.plan import Plan
    from posenet_store.store.reader import Reader
    from posenet_store.sweep.build_sums import BuildSums


@command("build-store", example="build-store --backbone vgg16 --images photos")
@backbone_options(backbone_required=False, device=devices_option)
@image_options(required=True)
@click.option("--extend", metavar="STORE",
              help="Build a store of STORE's images, then of those of --images that it does not hold, beside STORE, with its "
                   "network and options; blocks are shared, and the network sees the new images only.")  # fmt: skip
@stores_option
@click.option("--format", "file_format", type=click.Choice(FORMATS), default="zarr", show_default=True)
@click.option("--layout", type=click.Choice(LAYOUTS), default="native", show_default=True,
              help="native: all of every tap, and the report's aligned maps; readout: taps on the 28x28 grids "
                   "that heads read (VGG: 0.4 of it); aligned: the maps only (0.01).")  # fmt: skip
@click.option("--dtype", type=click.Choice(DTYPES), default="float16", show_default=True)
@click.option(
    "--keep-tokens", is_flag=True, help="Keep a transformer's class and register tokens too: f1_tokens [N, tokens, C]."
)
@click.option("--part", default="1/1", show_default=True, metavar="I/N", callback=lambda _c, _p, text: _part(text),
              help="Extract every N-th block from the I-th; in any order, on any machine; the last one seals.")  # fmt: skip
@click.option(
    "--scheduler",
    metavar="local|slurm|ADDR",
    help="Extract on Dask workers: here, in Slurm jobs (slurm, or slurm:FILE with settings), or those of a "
    "scheduler (tcp://host:8786); all must see images and store.",
)
@workers_option
@limit_option
@click.option("--max-unreadable", type=click.FloatRange(*RANGES["max_unreadable"]), default=0.01, show_default=True,
              help="Share of unreadable images above which the build stops.")  # fmt: skip
@click.option("--moments", is_flag=True,
              help="Sum while building what the sweeps table2 and stages would read the store for: they then read no features "
                   "to train.")  # fmt: skip
@click.option("--no-probes", is_flag=True, help="Leave out the store of the probe images (black, white, noise).")
@click.option("--plan", "plan_only", is_flag=True, help="Print size, files, time and free disk; build nothing.")
@json_option
def build_store(
    network: "BackboneSpec", batch_size: int | None, source: str, data_root: Path | None, extend: str | None, root: Path,
    file_format: str, layout: str, dtype: str, keep_tokens: bool, part: tuple[int, int], scheduler: str | None,
    workers: int | None,
    limit: int | None, max_unreadable: float, moments: bool, no_probes: bool, plan_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run a frozen network once over images, keep its features.

    Resumes where an earlier build stopped; a store that is complete is left alone. The last line printed is its path.
    """
    network, scheduler = _choose_scheduler(network, scheduler, part)
    base, network, root = open_base(extend, network, root)
    load = find_inputs(source, data_root, network, root, plan_only)
    from posenet_store.backbones.load import load_backbone
    from posenet_store.extraction.distributed import Part

    images = load_new_images(base, source, load, limit)
    if base and not len(images):
        print_json({"path": extend, "extracted": 0, "missing": 0}) if as_json else print_path(extend)
        return
    elsewhere = scheduler not in (None, "local")  # the GPUs are the workers', and this machine may have none
    here = replace(network, device="cpu") if elsewhere else network
    backbone = load_backbone(here, emulate=elsewhere)
    place = report_device(backbone, here.device, part)
    plan = plan_build(base, images, backbone, layout, dtype, file_format, keep_tokens)
    sums = _prepare_sums(plan, root) if moments else None
    if plan_only:
        print_costs(estimate_costs(plan, base, images, backbone, root, batch_size, sums), as_json)
        return
    build = Part(
        source=source, data_root=data_root, limit=limit, backbone=network, layout=plan.spec.layout, dtype=plan.spec.dtype,
        file_format=plan.spec.format, root=root, folder=find_folder(root, plan.spec), batch_size=batch_size,
        max_unreadable=max_unreadable, fingerprint=plan.spec.fingerprint, extend=extend, part=part,
        keep_tokens=bool(plan.spec.tokens),
    )  # fmt: skip
    if scheduler is not None:
        _build_on_workers(build, plan, scheduler, workers)
    if not no_probes and source != "probes":
        _build_probes(backbone, plan.spec, root, batch_size, place)
    outcome = _build_here(build, plan, images, backbone, base, place, sums)
    facts = outcome.to_dict() | {"fingerprint": plan.spec.fingerprint}
    print_json(facts) if as_json else print_path(outcome.path)


def _build_here(
    build: "Part", plan: "Plan", images: "ImageSet", backbone: "Backbone", base: "Reader | None", place: str,
    sums: "BuildSums | None",
) -> "BuildResult":  # fmt: skip
    """Build a part under a progress bar, which counts the images that the network sees."""
    from posenet_store.extraction.build import build_store, count_rows, select_part
    from posenet_store.extraction.extend import find_batch_size

    work = partial(
        build_store, images, backbone, plan, build.root, max_unreadable=build.max_unreadable, part=build.part, base=base,
        batch_size=build.batch_size or (find_batch_size(base, backbone) if base else None),
    )  # fmt: skip
    if sums and build.part == (1, 1):  # a part holds no twentieth of the rows without gaps
        work = partial(work, follow=sums.add)
    rows = count_rows(plan, select_part(range(len(plan.bounds)), build.part), base.spec.rows if base else 0)
    return build_and_sum(work, f"{plan.spec.network} on {images.name}", rows, place, sums)


def _choose_scheduler(
    network: "BackboneSpec", scheduler: str | None, part: tuple[int, int]
) -> "tuple[BackboneSpec, str | None]":  # fmt: skip
    """Return what `--device cuda:all` means: a process for each GPU of this machine; raises UsageError for parts of parts."""
    if scheduler is not None and part != (1, 1):
        raise click.UsageError("--scheduler distributes the parts itself; leave out --part")
    if network.device != ALL_GPUS:
        check_device(network.device, (*DEVICES, ALL_GPUS))
        return network, scheduler
    if scheduler not in (None, "local"):
        raise UsageError(f"--device {ALL_GPUS} means the GPUs of this machine; with --scheduler {scheduler} give --device cuda")
    return replace(network, device="cuda"), "local"


def report_device(backbone: "Backbone", asked: str, part: tuple[int, int] = (1, 1)) -> str:
    """Say on standard error what computes where, why it is not the GPU that is there, what is slow; return how and where."""
    from posenet_store.backbones.device import describe_place, explain_cpu
    from posenet_store.extraction.plan import find_slow_precision

    fault = explain_cpu() if asked == "auto" and backbone.device.type == "cpu" else None
    place = describe_place(backbone.compute, backbone.device) + (f", part {part[0]}/{part[1]}" if part[1] > 1 else "")
    print_line(f"{backbone.name} computes {place}", err=True)
    tokens = ", ".join(f"{count} {name}" for name, count in Counter(backbone.form.prefix).items())
    aside = tokens and f"tokens set aside from each tap, whose map holds the patches only: {tokens}"
    for note in (fault and f"--device auto takes the CPU: {fault}", find_slow_precision(backbone), aside):
        if note:
            print_line(f"note: {note}", err=True)
    return place


def find_inputs(
    source: str, data_root: Path | None, network: "BackboneSpec", root: Path, plan_only: bool = False
) -> "Load":  # fmt: skip
    """Find the images; check network and the stores' folder too for what can be wrong with them before torch is imported."""
    from posenet_store.backbones.checks import check_names
    from posenet_store.images.sources import find_images

    load = find_images(source, data_root)
    check_names(network)
    check_folder(root, "--stores") if plan_only else check_writable(root, "--stores")
    return load


def _build_probes(backbone: "Backbone", spec: "StoreSpec", root: Path, batch_size: int | None, place: str) -> None:
    """Build the store of the probe images like that of `spec`."""
    from posenet_store.extraction.build import build_probe_store
    from posenet_store.images.synthetic import PROBES

    build = partial(build_probe_store, backbone, spec, root, batch_size=batch_size)
    build_with_progress(build, f"{spec.network} on probes", len(PROBES), place)


def _build_on_workers(build: "Part", plan: "Plan", scheduler: str, workers: int | None) -> None:
    """Build all parts on workers and show the blocks that are committed; a failed part is reported at once.

    Raises BuildError if blocks are missing at the end: this process would have to compute them.
    """
    from posenet_store.extraction.distributed import build_parts, count_committed, split_build
    from posenet_store.sweep.progress import repeat_in_background

    parts, done, places = split_build(build, len(plan.bounds), scheduler, workers), 0, set[str]()
    with progress() as bars:
        title = f"{plan.spec.network} on {Path(build.source).name}"
        bar = bars.add_task(title, total=len(plan.bounds), unit="blocks")

        def show() -> None:
            bars.update(bar, completed=count_committed(build.folder), unit=f"blocks, {done} of {len(parts)} parts")

        with repeat_in_background(show):
            for part, result in build_parts(parts, scheduler, workers, print_above(bars)):
                done += 1
                if isinstance(result, PosenetStoreError):
                    print_line(f"part {part.part[0]}/{part.part[1]} failed: {result}", err=True)
                elif result.place not in places:
                    places.add(result.place)
                    print_above(bars)(f"parts are computed {result.place}")
        show()
    if missing := len(plan.bounds) - count_committed(build.folder):
        raise BuildError(
            f"the workers have done all parts, but {missing} of {len(plan.bounds)} blocks are not in {build.folder}: "
            "do the workers write to another disk?"
        )


def _prepare_sums(plan: "Plan", root: Path) -> "BuildSums | None":
    """Return the sums that are made while a store is built, None if it holds too few images to train heads."""
    from posenet_store.store.catalogue import StoreInfo
    from posenet_store.sweep.build_sums import BuildSums
    from posenet_store.sweep.plan import MIN_TRAIN_ROWS

    sums = BuildSums(StoreInfo(find_folder(root, plan.spec), plan.spec, True, len(plan.bounds), 0, 0, 0), root)
    if not sums.asks:
        print_line(f"note: --moments sums nothing: fewer than {MIN_TRAIN_ROWS} images train no heads", err=True)
    return sums if sums.asks else None


def _part(text: str) -> tuple[int, int]:
    """Parse I/N."""
    number, _, count = text.partition("/")
    part = parse_whole_number("part", number, f"I in --part {text}"), parse_whole_number("part", count, f"N in --part {text}")
    if part[0] > part[1]:
        raise UsageError(f"--part {text} is not accepted; give I/N with I <= N, as in 2/8")
    return part
