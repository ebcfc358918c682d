"""Build a store: run a backbone once over an image set and commit its taps block by block.

All stages run at the same time, each at most two steps ahead of the next, so memory does not depend on the image count:

    read, decode (threads, two batches ahead) -> forward -> copy into one of two block buffers
        -> encode (statistics, compression: while the other buffer fills) -> write and hash (while the next one is encoded)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.device import describe_place
from posenet_store.backbones.measure import count_tokens
from posenet_store.errors import BuildError, UsageError
from posenet_store.extraction.commit import BUFFERS, Buffer, Committer, Follow
from posenet_store.extraction.fill import fill_buffers
from posenet_store.extraction.forward import Forward, choose_batch_size, describe_computation
from posenet_store.extraction.plan import check_space
from posenet_store.extraction.prefetch import decode_batches
from posenet_store.extraction.quarantine import Quarantine
from posenet_store.extraction.reference_check import check_underflow, compare_samples, describe_drift, sample_taps
from posenet_store.extraction.timing import StageTimer
from posenet_store.files import expand_user
from posenet_store.images.image_set import ImageSet
from posenet_store.images.synthetic import load_probes
from posenet_store.notebook import show_progress
from posenet_store.parallel.worker import keep_freed_memory
from posenet_store.provenance import collect_provenance
from posenet_store.specs import LEARNED, StoreSpec
from posenet_store.store.access import StoreFiles
from posenet_store.store.chunking import choose_block_rows, draw_row_order
from posenet_store.store.plan import Plan, find_folder
from posenet_store.store.reader import Reader
from posenet_store.store.requests import check_count
from posenet_store.store.sharing import count_copied, list_quarantined, open_writer, share_blocks
from posenet_store.store.writer import QuarantinedImage, StoreWriter
from posenet_store.threads import limit_torch_to_one_thread


@dataclass(frozen=True, repr=False)
class BuildResult:
    """The outcome of a build: store path, images extracted, blocks still missing (0: sealed), seconds, quarantined images.

    `place` says how and where they were computed; `speed` is the result of `StageTimer.summarize`; the blocks `written` are
    stored as this build computed them.
    """

    path: Path
    extracted: int
    missing: int
    seconds: float
    quarantined: tuple[QuarantinedImage, ...]
    speed: Mapping[str, Any]
    place: str
    written: tuple[int, ...] = ()

    def __repr__(self) -> str:
        state = f"{self.missing} blocks missing" if self.missing else "complete"
        counts = f"{self.extracted} images extracted in {self.seconds:.1f} s, {len(self.quarantined)} quarantined"
        return f"<BuildResult {self.path}: {state}, {counts}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the facts that `build-store --json` prints."""
        facts = {name: value for name, value in vars(self).items() if name != "written"}
        return facts | {"path": str(self.path), "quarantined": [vars(image) for image in self.quarantined]}


def plan_store(
    images: ImageSet,
    backbone: Backbone,
    layout: str,
    dtype: str,
    block_rows: int | None = None,
    file_format: str = "zarr",
    extended_at: tuple[int, ...] = (),
    *,
    keep_tokens: bool = False,
) -> Plan:
    """Plan the store of a backbone's features over images; nothing is written.

    With `extended_at` it is the store that becomes of its first images, if it is extended by those between the numbers.
    `keep_tokens` keeps the class and register tokens of a transformer as arrays of their own. Raises UsageError if it has
    none, BuildError if the network's features are not finite, or too small for `dtype`.
    """
    if block_rows is not None:
        check_count("block_rows", block_rows, 1)
    spec = StoreSpec(
        backbone=backbone.name,
        weights=backbone.weights,
        weights_sha256=backbone.weights_sha256,
        tap_set=backbone.tap_set,
        taps=backbone.taps,
        preprocess=backbone.preprocess,
        images=images.name,
        images_sha256=images.sha256,
        rows=len(images),
        layout=layout,
        dtype=dtype,
        block_rows=block_rows or choose_block_rows(layout),
        format=file_format,
        compute=backbone.compute,
        padding=backbone.padding,
        weights_kind=backbone.weights_kind,
        extended_at=extended_at,
        tokens=count_tokens(backbone) if keep_tokens else (),
    )
    check_underflow(sample_taps(backbone), dtype)
    order = draw_row_order(spec.rows, spec.permutation_seed, extended_at)
    ids, digests = (tuple(entries[index] for index in order) for entries in (images.ids, images.digests))
    return Plan(spec, ids, digests, tuple(order), collect_provenance() | _describe_network(backbone))


def _describe_network(backbone: Backbone) -> dict[str, Any]:
    """Return what a store records of its network beside what decides its bytes: how to load it, and how to recognise it."""
    recorded = {"probe": sample_taps(backbone), "weights_source": backbone.weights_source}
    if backbone.positions != LEARNED:
        recorded["positions"] = backbone.positions
    if backbone.erase:
        recorded["erase"] = backbone.erase
    if backbone.licence:
        recorded["weights_licence"] = backbone.licence
    return recorded | ({"tokens_set_aside": list(backbone.form.prefix)} if backbone.form.prefix else {})


def check_drift(recorded: Plan, now: Plan) -> None:
    """Raise BuildError if the network now gives other features than in the blocks that are stored already."""
    differing = describe_drift(compare_samples(recorded.provenance.get("probe", {}), now.provenance["probe"]), now.spec.compute)
    if differing:
        raise BuildError(
            f"the network no longer gives what the store's first blocks hold: the probe image differs in {differing}; "
            f"they were made with {recorded.provenance.get('versions')}: go on with these, or move the store away"
        )


def select_part(blocks: Iterable[int], part: tuple[int, int]) -> list[int]:
    """Return the blocks of part (i, n): every n-th block from the i-th.

    >>> select_part(range(7), (2, 3))
    [1, 4]
    """
    return [block for block in blocks if block % part[1] == part[0] - 1]


def count_rows(plan: Plan, blocks: Iterable[int], first: int = 0) -> int:
    """Return the number of rows of blocks from the row `first` on."""
    return sum(max(0, stop - max(start, first)) for start, stop in (plan.bounds[block] for block in blocks))


@contextmanager
def _count_kept(writer: StoreWriter, todo: Sequence[int]) -> Iterator[None]:
    """Say of an interruption how many blocks are kept, and how many of those that were to do."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        blocks, missing = len(writer.plan.bounds), writer.list_missing()
        new = len(set(todo) - set(missing))
        stop.add_note(f"{blocks - len(missing)} of {blocks} blocks are kept, {new} of them new")
        raise


def _check_numbers(batch_size: int | None, max_unreadable: float, part: tuple[int, int]) -> None:
    """Raise UsageError for a batch of no images, a share beyond 0 to 1, or a part that is none of its parts."""
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    if not 0 <= max_unreadable <= 1:
        raise UsageError(f"max_unreadable = {max_unreadable} is not accepted; give a share of the images from 0 to 1")
    if not 1 <= part[0] <= part[1]:
        raise UsageError(f"part = {part} is not accepted; give (i, n) with 1 <= i <= n, such as (2, 8)")


def build_store(
    images: ImageSet,
    backbone: Backbone,
    plan: Plan,
    root: str | Path,
    *,
    batch_size: int | None = None,
    max_unreadable: float = 0.01,
    part: tuple[int, int] = (1, 1),
    advance: Callable[[int], None] | None = None,
    clock: StageTimer | None = None,
    folder: Path | None = None,
    damaged: Sequence[int] = (),
    follow: Follow | None = None,
    base: Reader | None = None,
) -> BuildResult:
    """Build or resume the store of `plan` below `root`, and seal it once no block is missing.

    `folder` is where the store lies, if it is known: None looks for it by its fingerprint, whatever its images are called.
    Blocks that are `damaged` are built as if they were missing. `follow` gets each block that is computed, in order. The first
    rows are those of the sealed store `base`, if it is given: its blocks are shared, and `images` are those of the other rows.
    `part` (i, n) extracts every n-th block from the i-th; parts may run in any order, on several machines, even twice.
    `advance(n)` is called after n more images are computed or found in the store; None is a bar in a notebook. Complete
    blocks are committed even if the build is interrupted. `batch_size` None is `choose_batch_size`. Raises BuildError if
    features do not fit the dtype or more than `max_unreadable` of the images can't be read; committed blocks are kept.
    """
    _check_numbers(batch_size, max_unreadable, part)
    clock, root = clock or StageTimer(), expand_user(root)
    size = batch_size or choose_batch_size(backbone, plan.spec.block_rows)
    folder = folder or find_folder(root, plan.spec)
    plan = replace(plan, provenance=plan.provenance | {"computed_on": describe_computation(backbone, size)})
    if not StoreFiles(folder).plan.is_file():
        check_space(images, backbone, plan, root, (len(images) + count_copied(base, root)) // part[1], size)
    writer, first = open_writer(root, plan, folder, base), base.spec.rows if base else 0
    blocks = select_part(sorted({*writer.list_missing(), *damaged}), part) or _list_damaged(writer)
    total, rows = count_rows(plan, select_part(range(len(plan.bounds)), part), first), 0
    bar = nullcontext(advance) if advance else show_progress(f"{plan.spec.network} on {images.name}", total, "images")
    with _count_kept(writer, blocks), bar as advance:
        advance(total - count_rows(plan, blocks, first))
        while blocks:
            check_drift(writer.plan, plan)
            _extract(images, backbone, writer, blocks, size, max_unreadable, advance, clock, follow, base)
            rows += count_rows(plan, blocks, first)
            blocks = _list_damaged(writer)
    blocks_left, speed = len(writer.list_missing()), clock.summarize(rows)
    if not blocks_left and not writer.sealed:
        writer.seal(speed | collect_provenance())
    quarantined, place = tuple(writer.list_quarantined()), describe_place(backbone.compute, backbone.device)
    written = tuple(writer.list_written())
    return BuildResult(writer.files.root, rows, blocks_left, speed["seconds"], quarantined, speed, place, written)


def _list_damaged(writer: StoreWriter) -> list[int]:
    """Return the blocks to extract again before a store can be sealed, whoever built them; none while blocks are missing."""
    return [] if writer.sealed or writer.list_missing() else writer.list_missing(deep=True)


def _extract(
    images: ImageSet,
    backbone: Backbone,
    writer: StoreWriter,
    blocks: Sequence[int],
    batch_size: int,
    max_unreadable: float,
    advance: Callable[[int], None],
    clock: StageTimer,
    follow: Follow | None,
    base: Reader | None,
) -> None:
    """Extract and commit blocks; those of `base` among them are shared, and its other rows copied."""
    if not (blocks := share_blocks(base, writer, blocks) if base else blocks):
        return
    keep_freed_memory()
    plan, cuda = writer.plan, backbone.device.type == "cuda"
    quarantine, missing, first = Quarantine(plan.spec.rows, max_unreadable), set(blocks), base.spec.rows if base else 0
    unreadable = list_quarantined(base, plan.bounds[blocks[0]][0]) if base else []
    quarantine.add(unreadable)
    for record in writer.list_records():
        if record["block"] not in missing:
            quarantine.add([QuarantinedImage(**entry) for entry in record["quarantined"]])
    buffers = [Buffer(plan, cuda) for _ in range(min(BUFFERS, len(blocks)))]
    forward = Forward(backbone, plan.spec.arrays, clock)
    with (
        # on a GPU, torch's threads have no work here, but each thread that encodes would start a team of its own
        limit_torch_to_one_thread() if cuda else nullcontext(),
        Committer(writer, clock, follow) as committer,
        closing(decode_batches(images, plan, blocks, batch_size, clock, cuda, first)) as batches,
    ):
        for batch, buffer in fill_buffers(batches, forward, plan, buffers, clock, int(cuda), base):
            start, stop = plan.bounds[batch.block]
            quarantine.add(batch.quarantined)
            unreadable = [*(unreadable if batch.start > start else ()), *batch.quarantined]
            if batch.stop == stop:
                computed_on = describe_computation(backbone, min(forward.limit or batch_size, batch_size)) if cuda else None
                committer.submit(batch.block, buffer, unreadable, computed_on)
            advance(len(batch.pixels))
        committer.finish(buffers)


def build_probe_store(
    backbone: Backbone,
    spec: StoreSpec,
    root: str | Path,
    *,
    batch_size: int | None = None,
    advance: Callable[[int], None] | None = None,
    clock: StageTimer | None = None,
) -> BuildResult:
    """Build the store of the probe images (black, white, noise) with the network, layout, dtype and format of `spec`."""
    images = load_probes()
    plan = plan_store(images, backbone, spec.layout, spec.dtype, file_format=spec.format, keep_tokens=bool(spec.tokens))
    return build_store(images, backbone, plan, root, batch_size=batch_size, advance=advance, clock=clock)
