"""The published numbers that ours are compared with, as "SPC MAE" pairs; "-" where the source prints NaN."""

from dataclasses import dataclass

COLUMNS = ("natural", "black", "white", "noise")
RAMPS = ("H", "V", "G")
"""The patterns over which the paper averages its error maps (Eq. 4, Figure 7)."""
MODELS = {"pixels": "PosENet", "vgg16": "VGG", "resnet152": "ResNet"}

# Reproducibility report, Table 2 (natural = one photo, "UoS Bear"). Its HS/black MAE .208 is a misprint of .308:
# no constant can be better than .308 on that map.
_REPORT = """
H PosENet -.138 .279 - .251 - .323 -.030 .274
H VGG .394 .235 .217 .241 .274 .242 .214 .245
H ResNet .703 .186 .438 .247 .109 .252 .470 .234
V PosENet -.120 .255 - .254 - .276 .135 .254
V VGG .439 .238 .349 .242 .430 .244 .075 .267
V ResNet .727 .181 .767 .228 .793 .245 .262 .241
G PosENet -.242 .234 - .196 - .257 -.034 .218
G VGG .775 .141 .398 .195 .487 .193 .170 .188
G ResNet .886 .135 .505 .206 .346 .196 .259 .189
HS PosENet .015 .316 - .208 - .330 -.052 .315
HS VGG .134 .306 .273 .297 .278 .301 .251 .292
HS ResNet .276 .295 .040 .305 -.062 .300 .211 .300
VS PosENet -.017 .319 - .308 - .330 -.045 .315
VS VGG .281 .292 .231 .300 .224 .299 .272 .290
VS ResNet .102 .305 .515 .302 .038 .305 .172 .304
"""

# Islam et al., ICLR 2020, Table 1 (natural = PASCAL-S). Its stripes are not in [0, 1]: an MAE of .7 is impossible there.
_PAPER = """
H PosENet .012 .251 .0 .251 .0 .251 .001 .251
H VGG .742 .149 .751 .164 .873 .157 .591 .173
H ResNet .933 .084 .987 .080 .994 .078 .973 .077
V PosENet .131 .248 .0 .251 .0 .251 .053 .250
V VGG .816 .129 .846 .146 .927 .138 .771 .150
V ResNet .951 .083 .978 .069 .979 .072 .968 .074
G PosENet -.001 .233 .0 .186 .0 .186 -.034 .214
G VGG .814 .109 .842 .123 .898 .116 .762 .129
G ResNet .936 .070 .953 .068 .964 .064 .971 .055
HS PosENet -.001 .712 -.055 .704 .0 .704 .023 .710
HS VGG .405 .556 .532 .583 .576 .574 .375 .573
HS ResNet .534 .528 .566 .518 .562 .515 .471 .530
VS PosENet .006 .723 .081 .709 .081 .709 .018 .714
VS VGG .374 .567 .538 .575 .437 .578 .526 .566
VS ResNet .520 .537 .574 .523 .593 .514 .523 .545
"""


# Table 6: the same head on VGG trained to classify, to find salient objects, to segment (the last two from scratch).
_TASKS = """
H VGG .742 .149 .751 .164 .873 .157 .591 .173
H VGG-SOD .969 .055 .857 .099 .938 .087 .965 .060
H VGG-SS .982 .038 .990 .030 .985 .032 .985 .033
G VGG .814 .109 .842 .123 .898 .116 .762 .129
G VGG-SOD .948 .067 .904 .086 .907 .085 .912 .077
G VGG-SS .971 .055 .984 .050 .989 .046 .982 .051
HS VGG .405 .556 .532 .583 .576 .574 .375 .573
HS VGG-SOD .667 .476 .699 .506 .709 .482 .668 .489
HS VGG-SS .810 .430 .802 .426 .810 .426 .789 .428
"""

# Tables 2a, 2b, 3 and 4, all on PASCAL-S: one column a setting, named on top. Table 2b prints .723 for PosENet, HS, 3x3, where
# Tables 1, 2a and 4 print .712 for the same head; the text speaks of kernels 1, 3, 5, 7, and no number for 5 is printed.
_LAYERS = """
H PosENet .012 .251 .056 .250 .055 .250
H VGG .742 .149 .797 .128 .830 .117
G PosENet -.001 .233 .067 .187 .126 .186
G VGG .814 .109 .828 .105 .835 .104
HS PosENet -.001 .712 -.006 .628 .003 .628
HS VGG .405 .556 .483 .538 .491 .540
"""
_KERNELS = """
H PosENet .013 .251 .012 .251 .060 .250
H VGG .542 .196 .742 .149 .828 .120
G PosENet .017 .188 -.001 .233 .068 .187
G VGG .724 .127 .814 .109 .816 .111
HS PosENet -.004 .628 -.001 .723 .002 .628
HS VGG .317 .576 .405 .556 .487 .532
"""
_STAGES = """
H VGG .101 .249 .344 .225 .472 .203 .610 .181 .657 .177 .742 .149
G VGG .241 .182 .404 .168 .588 .146 .653 .138 .693 .135 .814 .109
"""
_PADDINGS = """
H PosENet .012 .251 .274 .239 .397 .223
G PosENet -.001 .233 .205 .184 .380 .177
HS PosENet -.001 .712 .148 .608 .214 .595
"""
# Table 4 too: the network's own padding removed, its weights kept; the head has none.
_UNPADDED = """
H VGG .742 .149 .381 .223
G VGG .814 .109 .359 .174
HS VGG .405 .556 .011 .628
"""

Setting = str | int
Pair = tuple[float | None, float]
"""SPC (None: undefined) and MAE."""


@dataclass(frozen=True)
class Published:
    """One published table: its source, its columns, and (target, model) -> a Pair a column."""

    source: str
    columns: tuple[Setting, ...]
    numbers: dict[tuple[str, str], tuple[Pair, ...]]

    def at(self, target: str, model: str | None) -> dict[Setting, Pair]:
        """Return column -> Pair of a row; nothing for a row that was not published."""
        pairs = self.numbers.get((target, model or ""))
        return dict(zip(self.columns, pairs, strict=True)) if pairs else {}


def _table(source: str, columns: tuple[Setting, ...], text: str) -> Published:
    numbers = {}
    for line in filter(None, text.split("\n")):
        target, model, *values = line.split()
        pairs = zip(values[::2], values[1::2], strict=True)
        numbers[target, model] = tuple((None if spc == "-" else float(spc), float(mae)) for spc, mae in pairs)
    return Published(source, columns, numbers)


TABLES = (_table("published: report", COLUMNS, _REPORT), _table("published: paper", COLUMNS, _PAPER))
"""What Table 2 shows below ours: the report's Table 2 and the paper's Table 1."""

LAYERS = _table("paper, Table 2a", (1, 2, 3), _LAYERS)
KERNELS = _table("paper, Table 2b", (1, 3, 7), _KERNELS)
STAGES = _table("paper, Table 3", ("f1", "f2", "f3", "f4", "f5", "all"), _STAGES)
PADDINGS = _table("paper, Table 4", (0, 1, 2), _PADDINGS)
UNPADDED = _table("paper, Table 4", ("zeros", "none"), _UNPADDED)
NONE = Published("", (), {})
"""Where nothing was published."""
TASKS = _table("paper, Table 6", COLUMNS, _TASKS)
ALL = {
    "test image": (*TABLES, TASKS),
    "layers of the head": (LAYERS,),
    "kernel size": (KERNELS,),
    "stage": (STAGES,),
    "padding of the head": (PADDINGS,),
    "padding of the network": (UNPADDED,),
}
"""Every published number, by what the columns of its table are."""
