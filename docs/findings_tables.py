"""What the tables of docs/findings.md hold: the run or the printed JSON that each comes from, its rows and its columns."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of SPC: the run that has its heads, and the conditions (FIELD=VALUE) of all, of columns and of rows.

    Scores are those of held-out images, or of the test set that a condition test=NAME says, and of another run if a
    condition run=NAME says so.

    `published` is the last row: its label, the name of a table in `report/published.py`, the target and the model.
    """

    run: str
    where: tuple[str, ...]
    columns: Mapping[str, str]
    rows: Mapping[str, tuple[str, ...]]
    published: tuple[str, str, str, str] | None = None
    corner: str = ""


@dataclass(frozen=True)
class Records:
    """A table of what a command printed with --json into `file`: rows and columns choose a record and its `field`."""

    file: str
    columns: Mapping[str, Mapping[str, object]]
    rows: Mapping[str, Mapping[str, object]]
    corner: str = ""
    digits: int = 2


STAGES = {f"f{number}": f"input=full:f{number}" for number in range(1, 6)} | {"all": "input=full"}
VGG, UNTRAINED, UNPADDED = "network=vgg16-hed", "network=vgg16-random0", "network=vgg16-hed-padding-none"
LITE0_NAME = "timm:tf_efficientnet_lite0.in1k"
LITE0 = f"network={LITE0_NAME}"
TARGETS = ("H", "V", "G")
NETWORKS = {
    "EfficientNet-Lite0, trained": f"{LITE0_NAME}-lite0",
    "EfficientNet-Lite0, untrained": f"{LITE0_NAME}-random0",
    "VGG-16, trained": "vgg16-hed",
    "VGG-16, untrained": "vgg16-random0",
}
ERASED_AT = {"third stage": "f3", "fourth stage": "f4", "all five stages": "f1+f2+f3+f4+f5"}
MAPS = {f"f{number}": {"stage": f"f{number}", "field": "position"} for number in range(1, 6)}
PATTERNS = {
    "ramps": [f"ramp:{angle}" for angle in (0, 30, 45, 60, 90)],
    "gaussians": [f"gaussian:{width}" for width in (0.1, 0.25, 0.5, 1)],
    "stripes": [f"stripes:{periods}:0" for periods in (1, 1.5, 2, 2.5, 3, 4, 6)],
}
BORDERS = {
    "32 pixels black": "dead-leaves-border-32-black",
    "32 pixels white": "dead-leaves-border-32-white",
    "black canvas": "dead-leaves-canvas-32-black",
    "white canvas": "dead-leaves-canvas-32-white",
}
ALL_PADDINGS = {
    "zeros": (VGG,),
    **{name: (f"{VGG}-padding-{name}", "run=stages-paddings") for name in ("circular", "replicate", "reflect")},
    "none": (UNPADDED,),
}
LITE0_STAGES = Table(
    "stages",
    (),
    STAGES,
    {
        f"{label}: {target}": (f"{LITE0}-{weights}", f"target={target}")
        for label, weights in (("trained", "lite0"), ("untrained", "random0"))
        for target in TARGETS
    },
)
SIDES = Table(
    "symmetry",
    ("input=full:f5",),
    {"H": "target=H", "abs-ramp:0": "target=abs-ramp:0", "V": "target=V", "abs-ramp:90": "target=abs-ramp:90"},
    {label: (f"network={network}",) for label, network in NETWORKS.items()},
)
VARIANCE = Records("variance.json", MAPS, {label: {"network": network} for label, network in NETWORKS.items()}, digits=3)
DIRECTIONS = Records(
    "variance.json",
    {name: chosen | {"field": "directions"} for name, chosen in MAPS.items()},
    {label: {"network": network} for label, network in NETWORKS.items()},
    digits=0,
)
ERASED_INSIDE = Table(
    "erased_inside",
    (),
    {name: condition for name, condition in STAGES.items() if name in ("f3", "f4", "f5")},
    {target: (f"target={target}",) for target in TARGETS},
)
SETS: Mapping[str, Mapping[str, Table | Records]] = {
    "science": {
        "stages": Table(
            "stages",
            ("target=H",),
            STAGES,
            {
                "VGG-16, trained": (VGG,),
                "VGG-16, untrained": (UNTRAINED,),
                "EfficientNet-Lite0, trained": (f"{LITE0}-lite0",),
                "EfficientNet-Lite0, untrained": (f"{LITE0}-random0",),
                "DenseNet-121, untrained": ("network=densenet121-random0",),
                "VGG-16, trained, without padding": (UNPADDED,),
            },
            ("the paper's Table 3 (VGG-16, PASCAL-S)", "STAGES", "H", "VGG"),
        ),
        "network-paddings": Table(
            "backbone_padding",
            ("protocol=ridge",),
            {"zeros": VGG} | {name: f"{VGG}-padding-{name}" for name in ("circular", "replicate", "reflect", "none")},
            {"H": ("target=H",), "G": ("target=G",)},
            corner="padding",
        ),
        "lite0-paddings": Table(
            "lite0/backbone_padding",
            ("protocol=ridge",),
            {"zeros": f"{LITE0}-lite0"}
            | {name: f"{LITE0}-lite0-padding-{name}" for name in ("circular", "replicate", "reflect")},
            {"H": ("target=H",), "V": ("target=V",), "G": ("target=G",)},
            corner="padding",
        ),
        "head-paddings": Table(
            "padding",
            ("target=H",),
            {str(padding): f"padding={padding}" for padding in range(4)},
            {"plain pixels": ("network=pixels",)},
            ("the paper's Table 4 (PosENet, PASCAL-S)", "PADDINGS", "H", "PosENet"),
            corner="padding of the head",
        ),
        "kernels": Table(
            "kernel_size",
            ("target=H",),
            {str(kernel): f"kernel={kernel}" for kernel in (1, 3, 5, 7)},
            {"VGG-16, trained": (VGG,)},
            ("the paper's Table 2b (VGG-16, PASCAL-S)", "KERNELS", "H", "VGG"),
            corner="kernel",
        ),
        "protocols": Table(
            "protocols",
            (VGG,),
            {target: f"target={target}" for target in ("H", "G", "HS")},
            {name: (f"protocol={name}",) for name in ("ridge", "standard", "report-2020", "official-2021", "paper")},
            corner="protocol",
        ),
        "training-images": Table(
            "training_images",
            ("target=H",),
            {str(count): f"train_rows={count}" for count in (10, 20, 40, 80, 128)},
            {"VGG-16, trained": (VGG,)},
            corner="images",
        ),
        **{
            kind: Table("patterns", (), {label: f"target={label}" for label in labels}, {"VGG-16, trained": (VGG,)})
            for kind, labels in PATTERNS.items()
        },
        "image-border": Table(
            "image_border",
            (VGG,),
            {"plain": "test=held-out"} | {label: f"test={test}" for label, test in BORDERS.items()},
            {target: (f"target={target}",) for target in ("H", "G")},
            corner="test images",
        ),
        "generated-lite0": LITE0_STAGES,
        "generated-sides": SIDES,
        "generated-variance": VARIANCE,
        "generated-directions": DIRECTIONS,
        "generated-rings": Records(
            "rings.json",
            {f"{outer}-{outer + 32}": {"outer_pixels": float(outer), "field": "spc"} for outer in range(0, 192, 32)},
            {
                f"{label}, {size} pixels": {"network": f"{LITE0_NAME}-{weights}{suffix}", "target": "H"}
                for label, weights in (("trained", "lite0"), ("untrained", "random0"))
                for size, suffix in ((224, ""), (448, "-448px"), (896, "-896px"))
            },
            corner="pixels from the border",
        ),
        "stage-shares": Records(
            "stage_shares.json",
            {
                f"{stage} {share}": {"stage": stage, "field": share}
                for share in ("alone", "unique")
                for stage in ("f2", "f3", "f4", "f5")
            },
            {
                f"{label}: {target}": {"network": f"{LITE0_NAME}-{weights}", "target": target}
                for label, weights in (("trained", "lite0"), ("untrained", "random0 (untrained)"))
                for target in TARGETS
            },
        ),
        "generated-erased-inside": ERASED_INSIDE,
    },
    "photographs": {
        "photographs-stages": Table(
            "stages",
            (),
            STAGES,
            {
                f"{label}: {target}": (network, f"target={target}")
                for label, network in (
                    ("trained, zeros", VGG),
                    ("trained, no padding", UNPADDED),
                    ("untrained, zeros", UNTRAINED),
                )
                for target in TARGETS
            },
        ),
        "photographs-pixels": Table(
            "stages",
            ("network=pixels", "input=full"),
            {target: f"target={target}" for target in TARGETS},
            {"plain pixels": ()},
        ),
        "photographs-paddings": Table(
            "stages",
            ("input=full",),
            {target: f"target={target}" for target in TARGETS},
            ALL_PADDINGS,
            corner="padding",
        ),
        "probes-paddings": Table(
            "stages",
            ("input=full", "target=H"),
            {test: f"test={test}" for test in ("noise", "white", "black")},
            ALL_PADDINGS,
            corner="padding",
        ),
        "photographs-readout": Table(
            "backbone_padding",
            (),
            {target: f"target={target}" for target in ("H", "G", "HS")},
            {
                f"{heads}, {images}": (network, f"protocol={protocol}")
                for heads, protocol in (("exact heads", "ridge"), ("the report's training", "report-2020"))
                for images, network in (("zeros", VGG), ("no padding", UNPADDED), ("plain pixels", "network=pixels"))
            },
        ),
        "lite0-stages": LITE0_STAGES,
        "sides": SIDES,
        "kernels-symmetry": Records(
            "symmetry.json",
            {f"blocks.{layer}": {"layer": f"blocks.{layer}.conv_dw"} for layer in ("5.0", "5.1", "5.2", "5.3", "6.0")},
            {"left and right": {"field": "left_right"}, "up and down": {"field": "up_down"}},
            corner="layer",
        ),
        "variance": VARIANCE,
        "directions": DIRECTIONS,
        "rings": Records(
            "rings.json",
            {f"{ring}": {"outer": (ring - 1) / 7, "field": "spc"} for ring in range(1, 8)},
            {label: {"network": network, "target": "H"} for label, network in NETWORKS.items()},
            corner="ring, from the edge",
        ),
        "erasure": Table(
            "erasure",
            (f"{LITE0}-lite0", "input=full:f4"),
            {target: f"target={target}" for target in (*TARGETS, "HS", "VS")},
            {"as they are": ("erase=none",), "H and V erased": ("erase=H+V",)},
        ),
        "erased-inside": ERASED_INSIDE,
        "erased-everywhere": Table(
            "erased_everywhere",
            (),
            {name: condition for name, condition in STAGES.items() if name != "all"},
            {target: (f"target={target}",) for target in TARGETS},
        ),
        "accuracy": Records(
            "accuracy.json",
            {
                "without H and V": {"erased": "H+V", "field": "top1"},
                "change": {"erased": "H+V", "field": "difference"},
                "without random directions": {"erased": "mean of draws", "field": "top1"},
                "change by them": {"erased": "mean of draws", "field": "difference"},
                "H and V less a random draw": {"erased": "H+V", "field": "from_draws"},
            },
            {name: {"stages": stages} for name, stages in ERASED_AT.items()},
            corner="erased at",
            digits=3,
        ),
        "layout": Table(
            "symmetry",
            ("input=full:f4",),
            {"H": "target=H", "abs-ramp:0": "target=abs-ramp:0", "V": "target=V", "abs-ramp:90": "target=abs-ramp:90"},
            {
                "no padding, photographs": (UNPADDED,),
                "no padding, mirrored": (UNPADDED, "run=symmetry-mirrored"),
                "no padding, cropped": (UNPADDED, "run=symmetry-cropped"),
                "zeros, photographs": (VGG,),
                "zeros, cropped": (VGG, "run=symmetry-cropped"),
            },
        ),
    },
}
"""The tables by their names, by the set of runs that they are from."""

FIGURES: Mapping[str, tuple[str, ...]] = {"science": ("rings.png", "variance.png"), "photographs": ()}
"""Figures of docs/images that a set's commands write beside its runs."""
