"""A minute of hostile inputs for everything that reads what strangers send; `make fuzz` goes on for an hour."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fuzz_targets import TARGETS

SECONDS, SEED = 60, 0
MEMORY = 1 << 30
"""Bytes that the process of no input grows by, as the fuzzer itself enforces."""


@pytest.mark.system
def test_hostile_inputs_end_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "tests.support.fuzz", "--json", "--seconds", str(SECONDS), "--seed", str(SEED)]
    done = subprocess.run([*command, "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    reports = json.loads(done.stdout or "{}")
    texts = [path.read_text() for path in sorted(tmp_path.glob("*.txt"))]
    assert done.returncode == 0, "\n".join([*texts, done.stderr])
    assert set(reports) == set(TARGETS)
    for name, report in reports.items():
        assert report["inputs"] > report["accepted"] >= 0, name
        assert not report["findings"]
        assert report["peak"] < MEMORY
    with capsys.disabled():
        print(f"\n{sum(report['inputs'] for report in reports.values()):,} hostile inputs, each a sentence or accepted")
