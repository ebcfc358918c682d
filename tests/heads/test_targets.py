"""The five target maps against the published formulas, restated here, and the numbers that follow from them."""

import hashlib
import math

import numpy as np
import pytest
from PIL import Image

from posenet_store.errors import UsageError
from posenet_store.heads.targets import DESCRIPTIONS, TARGETS, make_native_map, make_target_map

SIDE = 256


def test_h_is_its_column_and_v_its_row() -> None:
    rows, columns = np.indices((SIDE, SIDE))
    assert (make_native_map("H") == columns).all()
    assert (make_native_map("V") == rows).all()


def test_g_is_the_floor_of_the_stretched_bell() -> None:
    black = math.exp(-1)
    gaussian = make_native_map("G")
    for y in range(SIDE):
        for x in range(SIDE):
            bell = math.exp(-((x - 128) ** 2 + (y - 128) ** 2) / (2 * 128**2))
            assert gaussian[y, x] == math.floor(255 * (bell - black) / (1 - black)), (y, x)


def test_g_is_white_at_128_and_black_in_the_first_corner() -> None:
    gaussian = make_native_map("G")
    assert (gaussian[128, 128], gaussian[0, 0]) == (255, 0)
    assert (gaussian == gaussian.T).all()
    # The published map's centre is half a pixel off the image's: one pixel more lies on the low side.
    assert (gaussian[1:, 1:] == gaussian[1:, 1:][::-1, ::-1]).all()
    assert (gaussian != gaussian[::-1]).any()


def test_stripes_are_the_cosine_to_one_grey_level() -> None:
    profile = make_native_map("HS")[:, 0].astype(int)
    for y in set(range(SIDE)) - {0, 102, 255}:
        cosine = round(127 + 127 * math.cos(2 * math.pi * 2.5 * (y + 0.5) / SIDE))
        assert abs(profile[y] - cosine) <= 1, y


def test_three_rows_of_the_stripes_are_as_published() -> None:
    assert make_native_map("HS")[[0, 102, 255], 7].tolist() == [251, 255, 3]


def test_horizontal_stripes_vary_along_y_only() -> None:
    assert (make_native_map("HS") == make_native_map("HS")[:, :1]).all()
    assert np.ptp(make_native_map("HS")[:, 0]) == 255


def test_patterns_of_the_published_numbers_are_the_published_maps() -> None:
    for pattern, name in (("ramp:0", "H"), ("ramp:90", "V"), ("gaussian:0.5", "G")):
        assert (make_native_map(pattern) == make_native_map(name)).all()
    for pattern, name in (("stripes:2.5:0", "VS"), ("stripes:2.5:90", "HS")):
        assert (
            np.abs(make_native_map(pattern).astype(int) - make_native_map(name)).max() <= 4
        )  # the published ends leave the cosine


@pytest.mark.parametrize("angle", [30.0, 45.0, 120.0, -15.0])
def test_a_ramp_grows_in_its_direction(angle: float) -> None:
    ramp = make_native_map(f"ramp:{angle}").astype(float)
    down, across = (np.diff(ramp, axis=axis).mean() for axis in (0, 1))
    assert math.degrees(math.atan2(down, across)) == pytest.approx(angle, abs=0.5)
    assert (ramp.min(), ramp.max()) == (0, 255)


def test_a_ramp_is_odd_and_its_absolute_value_even() -> None:
    columns = np.abs(np.arange(SIDE) - 127.5)
    expected = np.round(255 * (columns - 0.5) / 127)
    assert (make_native_map("abs-ramp:0") == expected).all()
    assert (make_native_map("abs-ramp:90") == expected[:, None]).all()
    for angle in (0, 90):
        odd, even = (make_target_map(f"{kind}:{angle}", 28) for kind in ("ramp", "abs-ramp"))
        assert np.abs(odd + odd[::-1, ::-1] - 1).max() <= 1.001 / 255  # PIL rounds to grey levels
        assert np.abs(even - even[::-1, ::-1]).max() <= 1.001 / 255
    diagonal = make_native_map("abs-ramp:45")
    assert (diagonal[0, 0], diagonal[255, 255], diagonal[0, 255], diagonal[128, 127]) == (255, 255, 0, 0)


@pytest.mark.parametrize("name", ["abs-ramp", "abs-ramp:x", "abs-ramp:inf", "abs-ramp:1:2"])
def test_an_absolute_ramp_needs_its_angle(name: str) -> None:
    with pytest.raises(UsageError, match="abs-ramp:ANGLE"):
        make_native_map(name)


def test_a_narrower_gaussian_falls_faster() -> None:
    narrow, wide = make_native_map("gaussian:0.1"), make_native_map("gaussian:2")
    assert narrow[128, 128] == wide[128, 128] == 255
    assert narrow[128, 200] < make_native_map("G")[128, 200] < wide[128, 200]


@pytest.mark.parametrize("periods", [1, 4, 13])
def test_stripes_have_their_periods(periods: int) -> None:
    spectrum = np.abs(np.fft.rfft(make_native_map(f"stripes:{periods}:0")[0].astype(float) - 127.5))
    assert spectrum.argmax() == periods


@pytest.mark.parametrize(
    "name", ["ramp", "ramp:", "ramp:x", "ramp:nan", "gaussian:0", "gaussian:99", "stripes:4", "stripes:14:0"]
)
def test_a_pattern_without_its_numbers_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="accepted: H, V, G, HS, VS, ramp:ANGLE, gaussian:SIGMA, stripes:PERIODS:ANGLE"):
        make_native_map(name)


@pytest.mark.parametrize(("name", "transposed"), [("H", "V"), ("HS", "VS")])
def test_targets_are_transposes_of_each_other(name: str, transposed: str) -> None:
    assert (make_native_map(name) == make_native_map(transposed).T).all()
    assert (make_target_map(name, 28) == make_target_map(transposed, 28).T).all()


def test_a_resized_g_is_its_own_transpose_to_a_grey_level() -> None:
    # PIL rounds after the horizontal pass and again after the vertical one.
    target = make_target_map("G", 28)
    assert np.abs(target - target.T).max() <= 1.001 / 255


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        # H, V and G are the pixels of the authors' gt_hor, gt_ver and gt_gau.png.
        ("H", "7daca2095d0438260fa849183dfc67faa459fdf4936e1bc91eec6b281b27e4c2"),
        ("V", "173444ecfa293433329a333289983a665c481d913e9fd1c2778b55380ca4dd31"),
        ("G", "30ec59f64e8c34e5d6d3b060612e3fc29dd0370710d7c7e86bc383eed594b58d"),
        ("HS", "5dd0eeae1851e286f3ddf1ab0bed0b0bb563746818ece8c2b0cfbf9c4c8126fa"),
        ("VS", "5dd54796974cf01b8bf248e7ac89375a0ce2c4ef816037f2414a670b5f5e4cf0"),
    ],
)
def test_the_native_maps_never_change(name: str, digest: str) -> None:
    native = make_native_map(name)
    assert native.shape == (SIDE, SIDE)
    assert native.dtype == np.uint8
    assert hashlib.sha256(native.tobytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("size", "normalise", "errors"),
    [
        (224, True, {"H": 0.2510, "V": 0.2510, "G": 0.1968, "HS": 0.3174, "VS": 0.3174}),
        (26, False, {"H": 0.2507, "V": 0.2507, "G": 0.1951, "HS": 0.3080, "VS": 0.3080}),
    ],
)
def test_the_error_of_the_best_constant(size: int, normalise: bool, errors: dict[str, float]) -> None:
    # These floors stand beside every table: an MAE is only good below them.
    assert set(errors) == set(TARGETS)
    for name, expected in errors.items():
        target = make_target_map(name, size, (0.0, 1.0), normalise)
        assert round(float(np.abs(target - np.median(target)).mean()), 4) == expected, name


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("size", [2, 26, 28, 224, 300])
def test_other_sizes_are_pils_resize_of_the_8_bit_map(name: str, size: int) -> None:
    resized = Image.fromarray(make_native_map(name)).resize((size, size), Image.Resampling.BILINEAR)
    assert (make_target_map(name, size) * 255).round(9).tolist() == np.asarray(resized).tolist()


@pytest.mark.parametrize("name", TARGETS)
def test_the_native_size_is_the_native_map(name: str) -> None:
    assert (make_target_map(name, SIDE) == make_native_map(name) / 255).all()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("size", [2, 3, 26, 28, 224])
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (-3.0, 255.0)])
def test_normalised_targets_fill_their_range(name: str, size: int, value_range: tuple[float, float]) -> None:
    target = make_target_map(name, size, value_range, normalise=True)
    assert (target.min(), target.max()) == value_range
    assert target.shape == (size, size)
    assert target.dtype == np.float64


@pytest.mark.parametrize("name", TARGETS)
def test_a_range_says_what_black_and_white_mean(name: str) -> None:
    unit = make_target_map(name, 26)
    signed = make_target_map(name, 26, (-1.0, 1.0))
    assert np.abs(signed - (2 * unit - 1)).max() < 1e-15
    assert signed.min() >= -1
    assert signed.max() <= 1


def test_without_normalising_the_ends_of_a_ramp_are_not_reached() -> None:
    # The antialiased mean of the first ten columns is not black.
    assert make_target_map("H", 26)[0, [0, -1]] * 255 == pytest.approx([5, 250])


def test_a_target_cannot_be_written_to() -> None:
    # The cached array is shared by all cells of a sweep.
    target = make_target_map("G", 28)
    with pytest.raises(ValueError, match="read-only"):
        target[0, 0] = 3
    assert make_target_map("G", 28) is target


def test_native_maps_are_not_shared() -> None:
    make_native_map("V")[:] = 7
    assert make_native_map("V")[0, 0] == 0


@pytest.mark.parametrize("name", ["h", "HH", "", "VSS"])
def test_an_unknown_target_is_refused_with_what_is_accepted(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown target '{name}'.*accepted: H, V, G, HS, VS"):
        make_target_map(name, 28)
    with pytest.raises(UsageError, match="unknown target"):
        make_native_map(name)


@pytest.mark.parametrize(
    "value_range", [(1.0, 0.0), (0.5, 0.5), (math.nan, 1.0), (0.0, math.nan), (-math.inf, 1.0), (0.0, math.inf)]
)
def test_a_bad_range_is_refused(value_range: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=r"target range \[.*\] is not accepted; give \[low, high\] with low < high"):
        make_target_map("H", 28, value_range)


@pytest.mark.parametrize("size", [1, 0, -4])
def test_a_size_without_positions_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"a target of size {size} has no positions"):
        make_target_map("H", size)


def test_every_target_is_described() -> None:
    assert tuple(DESCRIPTIONS) == TARGETS
