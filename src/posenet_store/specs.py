"""The specs of taps, preprocessing, networks and stores, as frozen values, and a store's fingerprint."""

from dataclasses import dataclass, fields
from typing import Any

from posenet_store.errors import StoreError, UsageError, unknown
from posenet_store.files import canonical_json, sha256, shorten_name
from posenet_store.notebook import format_html_table
from posenet_store.threads import cached_property
from posenet_store.toml_config import check_range

FORMAT_VERSION = 1
PIXELS = "pixels"
"""The backbone that is none: the preprocessed image is its only tap."""
TAP_SETS = ("report", "official")
DTYPES = ("float16", "float32")
LAYOUTS = ("native", "readout", "aligned")
FORMATS = ("zarr", "hdf5")
PRECISIONS = ("float32", "bfloat16", "float16", "tf32")
"""What a network computes in; what a store holds is its `dtype`. TF32 is float32 of 10 bits inside a GPU's convolutions."""
COMPILED = "+compile"
COMPUTES = tuple(precision + suffix for precision in PRECISIONS for suffix in ("", COMPILED))
ZEROS = "zeros"
PADDINGS = (ZEROS, "none", "reflect", "replicate", "circular")
PREPROCESSINGS = ("weights", "unit")
LEARNED = "learned"
POSITIONS = (LEARNED, "zero", "shuffled")
"""Of a transformer's position embeddings."""
CROP_MODES = ("squash", "center")
TRAINED, RANDOM, NO_WEIGHTS = "trained", "random", "none"
WEIGHTS_KINDS = (TRAINED, RANDOM, NO_WEIGHTS)
"""Where a network's parameters come from: training, a seed, or nowhere, as the pixels have none."""
ALIGNED = "aligned"
ALIGNED_CHANNELS = 3
GRID = 28
"""The side of the grid that all heads read: every tap is resized to it."""
CORNERS_SUFFIX = "_corners"
"""Ends the name of an array on the grid of aligned corners, where that differs from the other one."""
TOKENS_SUFFIX = "_tokens"
"""Ends the name of an array of a tap's tokens that are no patches."""


def get_precision(compute: str) -> str:
    """Return the precision of a way to compute.

    >>> get_precision("bfloat16+compile")
    'bfloat16'
    """
    return compute.removesuffix(COMPILED)


def shorten_tap_set(tap_set: str) -> str:
    """Return a tap set's short name in tables: its own, or a digest of the modules that the user chose.

    >>> shorten_tap_set("layer1.0,layer1.1")
    'taps-cc52ae'
    """
    return tap_set if tap_set in TAP_SETS else f"taps-{sha256(tap_set.encode())[:6]}"


@dataclass(frozen=True)
class Resize:
    """How an image becomes `size` x `size` pixels (see `images.resize`), by default as the paper does: squashed, bilinear."""

    size: int
    crop_mode: str = CROP_MODES[0]
    crop_pct: float = 1.0
    interpolation: str = "bilinear"


Size = int | Resize


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input: resized, then `(pixel * scale - mean) / std`, channels in `order`.

    `size` is the side in pixels after resizing, which `crop_mode`, `crop_pct` and `interpolation` describe (see `Resize`);
    `mean` and `std` are in the order of `order`, after scaling.
    """

    size: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "RGB"
    crop_mode: str = CROP_MODES[0]
    crop_pct: float = 1.0
    interpolation: str = "bilinear"

    @property
    def resize(self) -> Size:
        """How images are resized: the side where it is the paper's way."""
        resize = Resize(self.size, self.crop_mode, self.crop_pct, self.interpolation)
        return self.size if resize == Resize(self.size) else resize

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; how images are resized only where it is not the paper's way."""
        usual = vars(Resize(self.size))
        return {name: value for name, value in vars(self).items() if name == "size" or usual.get(name, ...) != value}

    @property
    def kind(self) -> str:
        """`unit` for plain [0, 1] RGB, else `weights`: what --preprocess calls it."""
        return "unit" if self == unit(self.size) else "weights"


def unit(size: int) -> Preprocess:
    """Pixels as [0, 1] RGB and nothing else: the official code's input, although its weights were trained on other values."""
    return Preprocess(size, 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class BackboneSpec:
    """What the user asks for; the fields are the arguments of `load_backbone`. Without a name it is a head's own network."""

    name: str | None
    weights: str = "imagenet"
    taps: str = "report"
    device: str = "auto"
    compute: str = PRECISIONS[0]
    padding: str = ZEROS
    preprocess: str = "weights"
    size: int | None = None
    positions: str = LEARNED
    erase: str = ""

    @classmethod
    def from_dict(cls, fields: Any) -> "BackboneSpec":
        """Build a spec from the JSON of one; raises UsageError if a field is unknown or no text, or the size no number."""
        try:
            spec = cls(**fields)
        except TypeError as error:
            raise UsageError(f"a network is described by other fields: {error}") from None
        texts = {name: value for name, value in vars(spec).items() if name != "size"}
        if not all(isinstance(value, str) for value in texts.values()) or type(spec.size) not in (int, type(None)):
            raise UsageError("a network is described by fields that are no texts")
        if spec.size is not None:
            check_range("image_size", spec.size, "its size")
        return spec


@dataclass(frozen=True)
class Tap:
    """A named place in a backbone: `module` is torch's dotted name, `shape` is (channels, height, width)."""

    name: str
    module: str
    shape: tuple[int, int, int]

    def readout(self) -> "dict[str, tuple[int, int, int]]":
        """Return the arrays of layout `readout`: a tap larger than the grid as both grids that heads read, others unchanged.

        >>> Tap("f1", "relu", (64, 112, 112)).readout()
        {'f1': (64, 28, 28), 'f1_corners': (64, 28, 28)}
        """
        small = (self.shape[0], min(self.shape[1], GRID), min(self.shape[2], GRID))
        return {self.name: small} if small == self.shape else {self.name: small, self.name + CORNERS_SUFFIX: small}


RARE_FIELDS = ("extended_at", "tokens")
"""Fields of a StoreSpec, tuples, that are in its JSON only where they are not empty."""


def name_folder(backbone: str, images: str, fingerprint: str) -> str:
    """Return the name of a store's folder: its labels, as far as there is room, and the first digits of its fingerprint."""
    return f"{shorten_name(f'{backbone}-{images}')}-{fingerprint[:8]}"


def name_axes(array: str) -> tuple[str, ...]:
    """Return what the axes of a store's array are, behind that of the images.

    >>> name_axes("f1"), name_axes("f1_tokens")
    (('channel', 'y', 'x'), ('token', 'channel'))
    """
    return ("token", "channel") if array.endswith(TOKENS_SUFFIX) else ("channel", "y", "x")


@dataclass(frozen=True, repr=False)
class StoreSpec:
    """Everything that decides a store's bytes; two stores of one fingerprint hold the same features.

    `extended_at` are the rows that the store had whenever it was extended: each part is permuted on its own.
    `tokens` is how many class and register tokens of each tap are kept; empty if none are.
    """

    backbone: str
    weights: str
    weights_sha256: str
    tap_set: str
    taps: tuple[Tap, ...]
    preprocess: Preprocess
    images: str
    images_sha256: str
    rows: int
    layout: str
    dtype: str
    block_rows: int
    format: str = "zarr"
    permutation_seed: int = 0
    compute: str = PRECISIONS[0]
    padding: str = ZEROS
    weights_kind: str = TRAINED
    extended_at: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.tokens and len(self.tokens) != len(self.taps):
            raise UsageError(f"{len(self.taps)} taps have {len(self.tokens)} counts of tokens; give one for each tap")
        if self.layout not in LAYOUTS:
            raise unknown("layout", self.layout, LAYOUTS)
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        if self.compute not in COMPUTES:
            raise unknown("way to compute", self.compute, COMPUTES)
        if self.padding not in PADDINGS:
            raise unknown("padding", self.padding, PADDINGS)
        if self.weights_kind not in WEIGHTS_KINDS:
            raise unknown("kind of weights", self.weights_kind, WEIGHTS_KINDS)

    def __repr__(self) -> str:
        kind = f"{self.layout}, {self.dtype}, {self.format}"
        return f"<StoreSpec {self.folder}: {self.network}, {self.images}, {self.rows} rows, {kind}>"

    def _repr_html_(self) -> str:
        """Return the fields as a table, for notebooks."""
        taps = ", ".join(f"{tap.name} {tap.module} {list(tap.shape)}" for tap in self.taps)
        return format_html_table((vars(self) | {"taps": taps}).items(), caption=self.folder)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the format version and every field but the human-readable labels."""
        fields = self.to_dict() | {"version": FORMAT_VERSION}
        del fields["weights"], fields["weights_kind"], fields["images"]
        return sha256(canonical_json(fields))

    @property
    def network(self) -> str:
        """The short name of the frozen network: backbone, weights and what is not the default of taps, computing, padding."""
        padding = "" if self.padding == ZEROS else f"padding-{self.padding}"
        parts = [self.backbone, self.weights, self.tap_set and shorten_tap_set(self.tap_set), self.compute, padding]
        return "-".join(part for part in parts if part not in ("", "report", PRECISIONS[0]))

    @cached_property
    def network_key(self) -> str:
        """SHA-256 of what must agree between a head's training store and its test store."""
        names = ("backbone", "weights_sha256", "tap_set", "taps", "preprocess", "compute", "padding")
        return sha256(canonical_json({name: value for name, value in self.to_dict().items() if name in names}))

    def backbone_spec(self, weights: str, device: str) -> BackboneSpec:
        """Return how to load the network again; what a store does not know is where its weights come from."""
        tap_set, kind, size = self.tap_set or "report", self.preprocess.kind, self.preprocess.size
        return BackboneSpec(self.backbone, weights, tap_set, device, self.compute, self.padding, kind, size)

    @property
    def folder(self) -> str:
        """The store's folder name under the store root."""
        return name_folder(self.backbone, self.images, self.fingerprint)

    @property
    def maps(self) -> dict[str, tuple[int, int, int]]:
        """Array name -> (channels, height, width) of every map that the store holds."""
        aligned = {ALIGNED: (ALIGNED_CHANNELS * len(self.taps), GRID, GRID)}
        if self.layout == "native":
            return {tap.name: tap.shape for tap in self.taps} | aligned
        taps = {} if self.layout == "aligned" else {k: v for tap in self.taps for k, v in tap.readout().items()}
        return taps | aligned

    @property
    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Array name -> shape of an image of everything the store holds: the maps, and tokens as (tokens, channels)."""
        counts = zip(self.taps, self.tokens, strict=False)
        return {**self.maps} | {tap.name + TOKENS_SUFFIX: (count, tap.shape[0]) for tap, count in counts if count}

    @property
    def modules(self) -> dict[str, str]:
        """Array name -> the module whose output it holds, of those that hold one module's."""
        return {tap.name + suffix: tap.module for tap in self.taps for suffix in ("", TOKENS_SUFFIX)}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; where the store was extended, and kept tokens, only if there are any."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in RARE_FIELDS}
        rare = {name: list(value) for name in RARE_FIELDS if (value := getattr(self, name))}
        return values | rare | {"taps": [dict(vars(tap)) for tap in self.taps], "preprocess": self.preprocess.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "StoreSpec":
        """Build a spec from `to_dict`'s values; raises StoreError if a field is missing, unknown or not accepted."""
        try:
            taps = tuple(Tap(t["name"], t["module"], tuple(t["shape"])) for t in fields["taps"])
            pre = fields["preprocess"]
            preprocess = Preprocess(**(pre | {"mean": tuple(pre["mean"]), "std": tuple(pre["std"])}))
            rare = {name: tuple(fields.get(name, ())) for name in RARE_FIELDS}
            return cls(**(fields | {"taps": taps, "preprocess": preprocess} | rare))
        except (KeyError, TypeError, UsageError) as error:
            raise StoreError(f"the store's plan.json lacks or has a foreign field: {error}") from None
