"""A store's model card: Markdown that says what it holds, of which network and images, and how to read and cite it.

Whatever comes from users (names, paths, commands) stands in code, where it is neither Markdown nor HTML.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posenet_store.errors import UsageError, printable
from posenet_store.files import check_file_path, expand_user, write_atomic
from posenet_store.provenance import format_command
from posenet_store.specs import NO_WEIGHTS, RANDOM, StoreSpec, name_axes
from posenet_store.store.catalogue import StoreInfo, describe_store
from posenet_store.store.chunking import choose_chunk_rows, count_row_bytes
from posenet_store.store.feature_statistics import compute_deviation
from posenet_store.store.reader import Reader, open_store

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""What dataset hubs call numbers of images below each limit."""
LARGEST = "n>1M"
TAGS = ("feature-extraction", "probing", "position-information", "computer-vision", "posenet_store")
PAPER = (
    ("title", "How much position information do convolutional neural networks encode?"),
    ("author", "Islam, Md Amirul and Jia, Sen and Bruce, Neil D. B."),
    ("booktitle", "International Conference on Learning Representations"),
    ("year", "2020"),
)
SOFTWARE = (("title", "posenet_store"), ("author", "{The posenet_store developers}"))
"""The citations of CITATION.cff, with the names that BibTeX gives to fields."""
DUTY = (
    "The images are not part of this store, which does not know their licence.\n"
    "Features are derived from them: whoever publishes or uses the store must see to it that their licence allows that."
)


def quote(value: object) -> str:
    """Return a value as Markdown code that also stands in a table; nothing in it is Markdown or HTML.

    >>> quote("a|`b`<i>"), quote("")
    ('`` a\\\\|`b`<i> ``', '(none)')
    """
    text = printable(str(value)).replace("|", "\\|")
    if not text.strip():
        return "(none)"
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"`{text}`" if len(fence) == 1 else f"{fence} {text} {fence}"


def make_block(text: str, language: str) -> str:
    """Return lines of code as a fenced block, whatever is in them."""
    fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def make_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of texts that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _write_front_matter(spec: StoreSpec) -> str:
    """Return the YAML that dataset hubs read; texts are JSON, which is YAML too."""
    size = next((name for limit, name in SIZES if spec.rows < limit), LARGEST)
    title = json.dumps(printable(f"Features of {spec.network} on {spec.images}"), ensure_ascii=False)
    tags = "\n".join(f"- {tag}" for tag in TAGS)
    return f"---\nlicense: unknown\npretty_name: {title}\nsize_categories:\n- {size}\ntags:\n{tags}\n---"


def _describe_licence(spec: StoreSpec, provenance: dict[str, Any]) -> str:
    """Return the licence of the weights, as far as it is known."""
    if spec.weights_kind == NO_WEIGHTS:
        return "there are no weights"
    if spec.weights_kind == RANDOM:
        return "none needed: drawn at random, not trained"
    licence = provenance.get("weights_licence")
    return quote(licence) if licence else "unknown: ask whoever published the weights"


def _format_bytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def _list_facts(info: StoreInfo, reader: Reader) -> Iterator[tuple[str, str]]:
    spec, provenance = info.spec, reader.plan.provenance
    yield "network", quote(spec.backbone)
    yield "weights", f"{quote(spec.weights)} ({spec.weights_kind}), SHA-256 {quote(spec.weights_sha256)}"
    yield "licence of the weights", _describe_licence(spec, provenance)
    yield "changes to the network", f"padding {quote(spec.padding)}, positions {quote(provenance.get('positions', 'learned'))}"
    yield "computed in", quote(spec.compute)
    yield "images", f"{quote(spec.images)}, {spec.rows:,} in all, SHA-256 of the list {quote(spec.images_sha256)}"
    yield "quarantined", f"{info.quarantined:,} unreadable images, whose rows are NaN"
    yield "kept", f"layout {quote(spec.layout)}, {quote(spec.dtype)}, {quote(spec.format)}"
    yield (
        "size",
        f"{_format_bytes(info.bytes)} on the disk, {_format_bytes(count_row_bytes(spec) * spec.rows)} before compression",
    )
    yield "state", "complete" if info.sealed else f"not complete: {info.state}"
    yield "fingerprint", quote(spec.fingerprint)


def _describe_preprocessing(spec: StoreSpec) -> str:
    chosen = spec.preprocess
    resized = f"{quote(chosen.crop_mode)}, {quote(chosen.interpolation)}, crop share {chosen.crop_pct:g}"
    return (
        f"Each image becomes {chosen.size}x{chosen.size} pixels ({resized}), its channels in the order {quote(chosen.order)}.\n"
        f"The network's input is `(pixel * scale - mean) / std` with 8-bit pixels, scale {chosen.scale:.6g}, "
        f"mean {list(chosen.mean)} and std {list(chosen.std)}."
    )


def _list_arrays(spec: StoreSpec) -> Iterator[list[str]]:
    modules = spec.modules
    for name, shape in spec.arrays.items():
        size = count_row_bytes(spec, [name])
        chunk = [choose_chunk_rows(spec.block_rows, size), *shape]
        array = [spec.rows, *shape]
        module = quote(modules[name]) if name in modules else "resized taps"
        yield [quote(name), module, *("x".join(map(str, shape)) for shape in (array, chunk)), _format_bytes(size * spec.rows)]


def _find_channels(name: str) -> int:
    """Return the axis of an array's channels, images included."""
    return 1 + name_axes(name).index("channel")


def count_dead_channels(reader: Reader, name: str) -> tuple[int, int]:
    """Return how many channels of an array never change in the first block that has readable rows, and how many rows there are.

    A channel that has one value at all positions of all images tells nothing.
    """
    for batch in reader.scan([name]):
        values = np.moveaxis(batch[name], _find_channels(name), -1)
        others = tuple(range(values.ndim - 1))
        low, high = values.min(axis=others), values.max(axis=others)
        return int(np.count_nonzero(low == high)), len(values)
    return 0, 0


def _list_statistics(reader: Reader) -> Iterator[list[str]]:
    for name, shape in reader.spec.arrays.items():
        statistics = reader.manifest["statistics"][name]
        if not statistics["count"]:
            yield [quote(name), *[""] * 6]
            continue
        numbers = [statistics["min"], statistics["max"], statistics["mean"], compute_deviation(statistics), statistics["zeros"]]
        dead, rows = count_dead_channels(reader, name)
        yield [
            quote(name),
            *(f"{number:.4g}" for number in numbers),
            f"{dead} of {shape[_find_channels(name) - 1]} in {rows} images",
        ]


def make_example(reader: Reader) -> str:
    """Return Python that reads the store, in the folder that holds it."""
    name = next(iter(reader.spec.arrays))
    return "\n".join(
        [
            "from posenet_store import open_store  # pip install posenet-store",
            "",
            f"reader = open_store({printable(reader.name)!r})  # this folder, or its URL",
            f'print(reader["{name}"].shape, reader.ids[0])',
            f'for batch in reader.batches(["{name}"], batch_size=4):',
            f'    print(batch["{name}"].mean())',
        ]
    )


def _describe_making(provenance: dict[str, Any]) -> str:
    versions = provenance.get("versions")
    packages = ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    facts = (("time", provenance.get("time")), ("machine", provenance.get("machine")), ("versions", packages))
    lines = [f"- {name}: {quote(value or 'unknown')}" for name, value in facts]
    command = format_command(str(provenance.get("command") or "")) or "# not recorded"
    return f"{make_block(printable(command), 'sh')}\n\n" + "\n".join(lines)


def _cite() -> str:
    entries = (("inproceedings", "islam2020", PAPER), ("software", "posenet_store", SOFTWARE))
    texts = []
    for kind, key, fields in entries:
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields)
        texts.append(f"@{kind}{{{key},\n{lines}}}")
    return make_block("\n".join(texts), "bibtex")


def make_card(location: str | Path) -> str:
    """Return the model card of a store as Markdown with the YAML that dataset hubs read.

    `location` is a folder or a URL (see `open_store`); a store that is still being built has a card too, which says so. The
    first block of each array is read, to find channels that never change. Raises StoreError if the store is missing or damaged.
    """
    info, reader = describe_store(location), open_store(location, unsealed=True)
    spec = reader.spec
    sections = {
        "What it holds": make_table(["", ""], [list(fact) for fact in _list_facts(info, reader)]) + f"\n\n{DUTY}",
        "Preprocessing": _describe_preprocessing(spec),
        "Arrays": make_table(["array", "module", "shape", "chunk", "before compression"], list(_list_arrays(spec)))
        + f"\n\nRows are images in a fixed random order, in blocks of {spec.block_rows}; `reader.ids` names them.",
        "Statistics": make_table(
            ["array", "min", "max", "mean", "std", "share of zeros", "channels that never change"],
            list(_list_statistics(reader)),
        ),
        "Read it": make_block(make_example(reader), "python"),
        "How it was made": _describe_making(reader.plan.provenance),
        "Cite": _cite(),
    }
    title = f"# Features of {quote(spec.network)} on {quote(spec.images)}"
    about = "A frozen network was run once over a set of images, and its features were kept with `posenet_store`."
    texts = [_write_front_matter(spec), title, about, *(f"## {name}\n\n{text}" for name, text in sections.items())]
    return "\n\n".join(texts) + "\n"


def write_card(location: str | Path, path: str | Path) -> Path:
    """Write the model card of a store (see `make_card`) to `path`; return the path.

    Raises UsageError if there is a file already, which may have been edited, or none can be written.
    """
    path = expand_user(path)
    check_file_path(path, "the card")
    if path.exists():
        raise UsageError(f"{path} exists and may have been edited; remove it, or give another path")
    write_atomic(path, make_card(location).encode(errors="backslashreplace"))
    return path
