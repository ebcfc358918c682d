"""The tutorial does what it says: every block is executed, in order, in an empty folder."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from posenet_store.cli import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|toml|python)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = re.findall(r"this is `(\w+\.toml)`|This is `(\w+\.toml)`", TEXT)


def words_of(line: str) -> list[str]:
    """Return the words of a command as a shell gives them: comments dropped, patterns replaced by the folders they match."""
    program, *words = shlex.split(line, comments=True)
    assert program == "posenet-store"
    return [match for word in words for match in sorted(map(str, Path().glob(word))) or [word]]


def test_every_block_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = iter([first or second for first, second in FILES])
    shared: dict[str, Any] = {}
    outputs = []
    for kind, code in BLOCKS:
        if kind == "toml":
            Path(next(names)).write_text(code, encoding="utf-8")
        elif kind == "python":
            exec(compile(code, "tutorial", "exec"), shared)
        else:
            for line in code.splitlines():
                result = CliRunner().invoke(main, words_of(line))
                assert result.exit_code == 0, f"{line}\n{result.output}"
                outputs.append(result.stdout)
    assert next(names, None) is None
    assert "undef." in outputs[-1]
    assert (tmp_path / "paddings.png").stat().st_size > 10_000
    spc = {(r.cell.target, r.cell.padding): r.scores["held-out"].spc for r in shared["run"].results}
    assert spc["H", 0] < 0.15 < spc["H", 1]
    position = {
        (record.labels.network.split("-own")[0], record.cell.input): record.scores["held-out"].spc
        for record in shared["open_run"]("runs/mine").results
        if record.cell.target == "H"
    }
    assert position["mine-zeros", "full:f1"] < position["mine-zeros", "full:f3"]
    assert position["mine-zeros", "full:f3"] > position["mine-circular", "full:f3"] + 0.3
