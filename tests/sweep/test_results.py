"""A run's records: they come back as they were written, and a damaged one is named."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posenet_store.errors import DamageWarning, StoreError, UsageError
from posenet_store.heads.protocols import PROTOCOLS, Protocol
from posenet_store.store.records import add_digest
from posenet_store.sweep.results import Result, RunFiles, load_run, read_result, read_run
from tests.support.runs import cell, constant, write


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_result_comes_back_from_json_unchanged(protocol: Protocol) -> None:
    result = cell(constant(0.5), protocol=protocol).result
    back = Result.from_dict(json.loads(json.dumps(result.to_dict())), "a record")
    assert back == replace(result)
    assert back.id == result.id


@pytest.mark.parametrize(
    "harm",
    [
        lambda record: record.pop("labels"),
        lambda record: record["labels"].pop("weights_kind"),
        lambda record: record["cell"].update(kernel=5),
        lambda record: record["cell"]["protocol"].update(name="other"),
        lambda record: record["scores"].update(white=None),
        lambda record: record.update(seconds="long"),
    ],
    ids=["no labels", "a label", "another cell", "a protocol", "a score", "seconds"],
)
def test_a_damaged_record_is_named(tmp_path: Path, harm: Any) -> None:
    partner = cell(constant(0.5))
    run = write(tmp_path / "run", [partner])
    path = RunFiles(run).record(partner.result.id)
    record = json.loads(path.read_text())
    harm(record)
    path.write_text(json.dumps(record))
    for text in (json.dumps(record), json.dumps(add_digest(record))):
        path.write_text(text)
        with pytest.raises(StoreError, match="rerun the sweep") as caught:
            read_result(RunFiles(run), partner.result.id)
        assert str(path) in str(caught.value)


def list_flips(path: Path, change: Callable[[int], int], step: int = 1) -> Iterator[int]:
    """Change every byte, or every few, of a file in turn; yield those offsets at which a file has other values than before."""
    original = path.read_bytes()
    for offset, byte in enumerate(original):
        if offset % step:
            continue
        data = original[:offset] + bytes([change(byte)]) + original[offset + 1 :]
        if data == original or (path.suffix == ".json" and is_same_json(data, original)):
            continue
        path.write_bytes(data)
        yield offset
    path.write_bytes(original)


def is_same_json(data: bytes, original: bytes) -> bool:
    try:
        return bool(json.loads(data) == json.loads(original))  # the 17th digit of a number may change nothing
    except ValueError:
        return False


CHANGES: dict[str, Callable[[int], int]] = {
    "bit": lambda byte: byte ^ 1,
    "digit": lambda byte: b"0123456789"[(byte - 47) % 10] if byte in b"0123456789" else byte,
}


@pytest.mark.parametrize(("change", "step"), [("digit", 1), ("bit", 5)])
def test_every_digit_of_a_cell_counts_and_every_bit(tmp_path: Path, change: str, step: int) -> None:
    """Of its record, its head and its scores: changed, it is no result any more."""
    partner = cell(constant(0.5))
    files, name = RunFiles(write(tmp_path / "run", [partner])), partner.result.id
    noticed = 0
    for path in (files.record(name), files.head(name), files.scores(name)):
        for _ in list_flips(path, CHANGES[change], step):
            with pytest.raises(StoreError, match=name):
                read_result(files, name)
            noticed += 1
        assert read_result(files, name) == partner.result
    assert noticed > 300


def test_every_bit_of_the_runs_record_counts(tmp_path: Path) -> None:
    files = RunFiles(write(tmp_path / "run", [cell(constant(0.5))]))
    record = read_run(files)
    for _ in list_flips(files.run, CHANGES["bit"], 3):
        with pytest.raises(StoreError, match=r"run\.json .* damaged"):
            load_run(files.root)
    assert read_run(files) == record


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"sha256": NaN}', '{"seconds": 2e305}'])
def test_a_record_that_is_none_does_not_hide_the_other_cells(tmp_path: Path, text: str) -> None:
    first, second = cell(constant(0.5)), cell(constant(0.5), kernel=5)
    files = RunFiles(write(tmp_path / "run", [first, second]))
    files.record(first.result.id).write_text(text)
    with pytest.warns(DamageWarning, match=first.result.id):
        assert load_run(files.root).results == [second.result]


def test_a_record_under_another_cells_name_is_no_result(tmp_path: Path) -> None:
    first, second = cell(constant(0.5)), cell(constant(0.5), kernel=5)
    files = RunFiles(write(tmp_path / "run", [first, second]))
    for path in (files.record, files.head, files.scores):  # with all that belongs to it
        path(first.result.id).write_bytes(path(second.result.id).read_bytes())
    with pytest.warns(DamageWarning, match=rf"{first.result.id}.json is the record of another cell, {second.result.id}"):
        assert load_run(files.root).results == [second.result]
    files.record(second.result.id).unlink()
    with pytest.warns(DamageWarning), pytest.raises(UsageError, match="no finished cell"):
        load_run(files.root)
