"""A store's identity: what changes its fingerprint, and how its plan comes back from JSON."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from posenet_store import specs
from posenet_store.errors import StoreError, UsageError
from posenet_store.specs import BackboneSpec, Preprocess, StoreSpec, Tap, unit

TAPS = (Tap("f1", "features.4", (8, 16, 16)), Tap("f2", "features.9", (12, 8, 8)))
PREPROCESS = Preprocess(32, 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SPEC = StoreSpec(
    backbone="vgg16",
    weights="imagenet",
    weights_sha256="ab" * 32,
    tap_set="report",
    taps=TAPS,
    preprocess=PREPROCESS,
    images="duts-te",
    images_sha256="cd" * 32,
    rows=5019,
    layout="native",
    dtype="float16",
    block_rows=64,
)
LABELS: dict[str, Any] = {"weights": "my file", "weights_kind": "random", "images": "my folder"}
MATTERING: dict[str, Any] = {
    "backbone": "resnet18",
    "weights_sha256": "ab" * 31 + "ac",
    "tap_set": "all",
    "taps": TAPS[:1],
    "preprocess": replace(PREPROCESS, size=33),
    "images_sha256": "cd" * 31 + "ce",
    "rows": 5018,
    "layout": "aligned",
    "dtype": "float32",
    "block_rows": 65,
    "format": "hdf5",
    "permutation_seed": 1,
    "compute": "bfloat16",
    "padding": "none",
    "tokens": (0, 1),
    "extended_at": (5000,),
}
OF_THE_NETWORK = {"backbone", "weights_sha256", "tap_set", "taps", "preprocess", "compute", "padding"}


def test_the_tables_of_this_file_name_every_field() -> None:
    # A field added later must be put in one of them.
    assert {field.name for field in fields(StoreSpec)} == set(MATTERING) | set(LABELS)


@pytest.mark.parametrize("field", MATTERING)
def test_the_fingerprint_changes_with_every_field_that_decides_bytes(field: str) -> None:
    assert replace(SPEC, **{field: MATTERING[field]}).fingerprint != SPEC.fingerprint


@pytest.mark.parametrize("field", LABELS)
def test_the_fingerprint_does_not_change_with_a_label(field: str) -> None:
    changed = replace(SPEC, **{field: LABELS[field]})
    assert changed.fingerprint == SPEC.fingerprint
    assert changed.network_key == SPEC.network_key


@pytest.mark.parametrize("field", [*MATTERING, *LABELS])
def test_the_network_key_changes_with_the_network_only(field: str) -> None:
    changed = replace(SPEC, **{field: (MATTERING | LABELS)[field]})
    assert (changed.network_key != SPEC.network_key) == (field in OF_THE_NETWORK)


@pytest.mark.parametrize(
    "tap",
    [replace(TAPS[0], name="f9"), replace(TAPS[0], module="features.5"), replace(TAPS[0], shape=(8, 16, 17))],
    ids=["name", "module", "shape"],
)
def test_every_part_of_a_tap_counts(tap: Tap) -> None:
    changed = replace(SPEC, taps=(tap, TAPS[1]))
    assert changed.fingerprint != SPEC.fingerprint
    assert changed.network_key != SPEC.network_key


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 33), ("scale", 1.0), ("mean", (0.485, 0.456, 0.407)), ("std", (0.229, 0.224, 0.226)), ("order", "BGR"),
        ("crop_mode", "center"), ("crop_pct", 0.875), ("interpolation", "bicubic"),
    ],
)  # fmt: skip
def test_every_part_of_the_preprocessing_counts(field: str, value: Any) -> None:
    changed = replace(SPEC, preprocess=replace(PREPROCESS, **{field: value}))
    assert changed.fingerprint != SPEC.fingerprint
    assert changed.network_key != SPEC.network_key


def test_the_order_of_taps_counts() -> None:
    # The aligned array concatenates them.
    assert replace(SPEC, taps=TAPS[::-1]).fingerprint != SPEC.fingerprint


def test_the_fingerprint_changes_with_the_format_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = replace(SPEC).fingerprint
    monkeypatch.setattr(specs, "FORMAT_VERSION", specs.FORMAT_VERSION + 1)
    assert replace(SPEC).fingerprint != before


def test_fingerprints_of_existing_stores_are_still_found() -> None:
    # Were either to change without a new FORMAT_VERSION, every store on disk would be rebuilt and every head refused.
    assert SPEC.fingerprint == "ce11582e606d56d46c79969fdcc8d1659e1601ae54ba636e12f2c629dbb318f3"
    assert SPEC.network_key == "2927fc508dddcb9e3a8dbed6ed201f1c36fdd63d2e4131ed44a271556ada4b8e"


def test_a_spec_comes_back_from_json_unchanged() -> None:
    back = StoreSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert back == SPEC
    assert hash(back) == hash(SPEC)
    assert (back.fingerprint, back.network_key) == (SPEC.fingerprint, SPEC.network_key)


def test_a_spec_of_cropped_images_comes_back_from_json_unchanged() -> None:
    cropped = replace(SPEC, preprocess=replace(PREPROCESS, crop_mode="center", crop_pct=0.9, interpolation="bicubic"))
    assert StoreSpec.from_dict(json.loads(json.dumps(cropped.to_dict()))) == cropped


def test_from_dict_does_not_change_its_argument() -> None:
    plain = json.loads(json.dumps(SPEC.to_dict()))
    StoreSpec.from_dict(plain)
    assert plain == json.loads(json.dumps(SPEC.to_dict()))


@pytest.mark.parametrize("field", ["taps", "preprocess", "rows", "images_sha256"])
def test_a_missing_field_is_named(field: str) -> None:
    plain = SPEC.to_dict()
    del plain[field]
    with pytest.raises(StoreError, match=f"plan.json lacks or has a foreign field.*{field}"):
        StoreSpec.from_dict(plain)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"preprocess": SPEC.to_dict()["preprocess"] | {"crop": 1}}, "crop"),
        ({"preprocess": {"size": 32}}, "mean"),
        ({"preprocess": None}, ""),
        ({"taps": [{"name": "f1", "module": "0"}]}, "shape"),
        ({"taps": 3}, ""),
    ],
)
def test_a_foreign_or_broken_field_is_a_store_error(change: dict[str, Any], named: str) -> None:
    with pytest.raises(StoreError, match=f"plan.json lacks or has a foreign field.*{named}"):
        StoreSpec.from_dict(SPEC.to_dict() | change)


def test_an_unknown_layout_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(UsageError) as raised:
        replace(SPEC, layout="alined")
    assert str(raised.value) == "unknown layout 'alined' (did you mean 'aligned'?); accepted: native, readout, aligned"


def test_an_unknown_dtype_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(UsageError) as raised:
        replace(SPEC, dtype="int8")
    assert str(raised.value) == "unknown dtype 'int8'; accepted: float16, float32"


def test_an_unknown_padding_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(UsageError, match=r"unknown padding 'zero' .did you mean 'zeros'.*accepted: zeros, none, reflect"):
        replace(SPEC, padding="zero")


def test_a_spec_says_how_its_network_is_loaded_again() -> None:
    spec = replace(SPEC, padding="none", preprocess=unit(448), compute="bfloat16")
    assert spec.backbone_spec("hed", "cpu") == BackboneSpec("vgg16", "hed", "report", "cpu", "bfloat16", "none", "unit", 448)
    assert SPEC.backbone_spec("imagenet", "cpu").preprocess == "weights"


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SPEC.rows = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("weights", "tap_set", "network"),
    [
        ("imagenet", "report", "vgg16-imagenet"),
        ("imagenet", "official", "vgg16-imagenet-official"),
        ("", "report", "vgg16"),
        ("", "layer1.0,layer1.1", "vgg16-taps-cc52ae"),
    ],
)
def test_the_short_name_of_a_network(weights: str, tap_set: str, network: str) -> None:
    assert replace(SPEC, weights=weights, tap_set=tap_set).network == network
    assert replace(SPEC, weights=weights, tap_set=tap_set, padding="none").network == f"{network}-padding-none"


def test_the_folder_name_holds_the_fingerprint_so_that_stores_never_share_one() -> None:
    assert SPEC.folder == f"vgg16-duts-te-{SPEC.fingerprint[:8]}"
    assert replace(SPEC, dtype="float32").folder != SPEC.folder


def test_a_native_store_holds_its_taps_and_the_aligned_array() -> None:
    assert SPEC.arrays == {"f1": (8, 16, 16), "f2": (12, 8, 8), "aligned": (6, 28, 28)}


def test_an_aligned_store_holds_the_aligned_array_only() -> None:
    assert replace(SPEC, layout="aligned").arrays == {"aligned": (6, 28, 28)}
