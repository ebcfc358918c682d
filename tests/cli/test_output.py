"""What the command line shows while it works."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.progress import Progress

from posenet_store.cli import main, output
from posenet_store.cli.output import (
    CoarseTimeLeft,
    format_progress,
    print_above,
    print_line,
    print_path,
    print_table,
    progress,
)
from posenet_store.cli.termination import check_sigterm, end_on_sigterm
from tests.support.small import write_images


def test_the_time_left_of_long_steps_is_what_is_said() -> None:
    """Rich's own column forgets steps after half a minute."""
    bars = Progress()
    bar = bars.add_task("passes", total=10, completed=4, left=None)

    def shown() -> str:
        return CoarseTimeLeft().render(bars.tasks[0]).plain

    assert shown() == "?"
    bars.update(bar, left=120.0)
    assert shown() == "2 min 0 s"
    bars.update(bar, completed=10)
    assert shown() == "0 s"


def test_nothing_is_left_of_what_was_finished_before() -> None:
    bars = Progress()
    bars.add_task("passes", total=10, completed=10)
    bars.advance(bars.task_ids[0], 0)
    assert CoarseTimeLeft().render(bars.tasks[0]).plain == "0 s"


def test_a_log_gets_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a batch job: images done of all, rate, the stage that binds, time left; nothing where a command is short."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress() as bars:
        bar = bars.add_task("vgg16 on photos", total=1000, unit="images")
        for done in (0, 50, 100, 150):
            monkeypatch.setattr(bars, "get_time", lambda: now[0])
            bars.update(bar, completed=done, unit="images", bound_by="decode")
            now[0] += 25
        bars.advance(bar, 50)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("vgg16 on photos: 100 of 1,000 images, ")
    assert "/s; bound by decode; " in lines[0]
    assert lines[0].endswith(" left")


def test_a_line_says_what_is_known() -> None:
    bars = Progress()
    bar = bars.add_task("download", total=None, unit="MB")
    assert format_progress(bars.tasks[bar]) == "download: 0 of ? MB; 0 s so far"
    bar = bars.add_task("table2: 1/3 passes", total=20, completed=5, left=90.0, unit="heads  12 images/s")
    assert format_progress(bars.tasks[bar]) == "table2: 1/3 passes: 5 of 20 heads  12 images/s; 0 s so far, 1 min 30 s left"
    bar = bars.add_task("vgg16 on photos", total=20, left=90.0, unit="images", place="in float32 on cpu of node7, part 2/8")
    assert format_progress(bars.tasks[bar]).endswith("1 min 30 s left; in float32 on cpu of node7, part 2/8")


def test_long_commands_say_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.cli.output.SECONDS_A_LINE", 0.0)
    photos = str(write_images(tmp_path / "photos", 5))

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.stderr
        return result.stderr

    lines = run("build-store", "--images", photos, "--stores", str(tmp_path), "--backbone", "pixels", "--no-probes")
    assert re.search(r"pixels on photos: 5 of 5 images.*; bound by \w+; ", lines)
    store = next(str(path) for path in tmp_path.glob("pixels-*"))
    assert "5 of 5 images" in run("verify", store, "--deep")
    assert "to hdf5: 5 of 5 images" in run("convert", store, "--format", "hdf5")


def test_a_termination_that_was_swallowed_is_raised_at_the_next_check() -> None:
    """Python ignores what a signal raises inside a weak reference's callback."""
    with end_on_sigterm():
        check_sigterm()
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit, match="143"):
            check_sigterm()
    with end_on_sigterm():
        check_sigterm()


HOSTILE = "a\x1b[31m\x07\x9b2J\r\n\u202eb"


def test_lines_and_paths_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(HOSTILE)
    print_line(Path(HOSTILE), err=True)
    print_path(HOSTILE)
    print_table([HOSTILE], [[HOSTILE]], HOSTILE)
    with progress() as bars:
        bar = bars.add_task(HOSTILE, total=1, unit="images")
        bars.update(bar, description=HOSTILE)
        assert bars.tasks[bar].description.isprintable()
        print_above(bars)(HOSTILE)
    captured = capsys.readouterr()
    assert all(line.isprintable() for line in (captured.out + captured.err).splitlines())
    assert captured.out.count("a\\x1b[31m\\x07\\x9b2J\\r\\n\\u202eb") == 5


def test_a_path_that_is_not_utf8_reaches_a_pipe_as_it_is() -> None:
    code = r"from posenet_store.cli.output import print_path; import os; print_path(os.fsdecode(b'caf\xe9'))"
    environment = {"PYTHONIOENCODING": "utf-8:surrogateescape", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, check=True)
    assert done.stdout == b"caf\xe9\n"


def test_all_text_of_the_commands_is_printed_in_one_place() -> None:
    """Which escapes what could move the cursor; `click.confirm` shows counts and sizes only."""
    for path in Path(output.__file__).parent.glob("*.py"):
        calls = re.findall(r"\b(?:click\.(?:echo|secho|style|prompt)|print|sys\.std(?:out|err)\.write)\(", path.read_text())
        assert path.name == "output.py" or not calls, (path, calls)


def test_the_first_of_many_unreadable_images_are_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 30)
    for index in range(300):
        (folder / f"bad{index:03d}.png").write_bytes(b"no image")
    words = ["build-store", "--images", str(folder), "--stores", str(tmp_path), "--backbone", "pixels", "--no-probes"]
    built = CliRunner().invoke(main, [*words, "--max-unreadable", "1"])
    assert built.exit_code == 0, built.output
    store = built.stdout.strip()
    inspected = CliRunner().invoke(main, ["inspect", store])
    for lines in (built.stderr.splitlines(), inspected.stdout.splitlines()):
        assert sum(line.startswith("quarantined: bad") for line in lines) == 10
        assert sum("290 more images are quarantined" in line for line in lines) == 1
    assert len(json.loads(CliRunner().invoke(main, ["inspect", store, "--json"]).stdout)["quarantined"]) == 300
