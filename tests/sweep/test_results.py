"""A run's records: they come back as they were written, and a damaged one is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posenet_store.errors import StoreError
from posenet_store.heads.protocols import PROTOCOLS, Protocol
from posenet_store.sweep.results import Result, RunFiles, load_run
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
    with pytest.raises(StoreError, match="rerun the sweep") as caught:
        load_run(run)
    assert str(path) in str(caught.value)


def test_a_record_under_another_cells_name_is_refused(tmp_path: Path) -> None:
    first, second = cell(constant(0.5)), cell(constant(0.5), kernel=5)
    files = RunFiles(write(tmp_path / "run", [first, second]))
    files.record(first.result.id).write_bytes(files.record(second.result.id).read_bytes())
    with pytest.raises(StoreError, match=second.result.id):
        load_run(files.root)


def test_a_damaged_run_record_is_named(tmp_path: Path) -> None:
    files = RunFiles(write(tmp_path / "run", [cell(constant(0.5))]))
    files.run.write_text("{}")
    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        load_run(files.root)
