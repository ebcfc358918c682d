"""Every path option given something that it is not: one sentence that names it, exit code 2, and nothing is made."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from posenet_store.errors import UsageError
from posenet_store.files import check_file_path, check_writable
from tests.support.runs import cell, cli, constant, write
from tests.support.small import write_images

PIXELS = ["--backbone", "pixels", "--images", "photos"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a file, a sweep and a finished run."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "photos", 2)
    (home / "file").write_text("a file")
    (home / "mine.toml").write_text('protocols = ["ridge"]')
    write(home / "run", [cell(constant(0.5))])
    return home


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/x", "/proc/x/y"])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--stores", ["build-store", *PIXELS]),
        ("--stores", ["evaluate", "--head", "file", "--images", "photos"]),
        ("--stores", ["convert", "run", "--format", "hdf5"]),
        ("--run", ["sweep", "mine.toml"]),
        ("--stores", ["run", "photos", "--backbone", "pixels"]),
        ("--out", ["run", "photos", "--backbone", "pixels"]),
        ("--out", ["report", "run"]),
        ("--figures", ["report", "run"]),
        ("--maps", ["evaluate", "--head", "file", "--images", "photos"]),
        ("--data-root", ["fetch", "duts-te", "--url", "http://127.0.0.1:9/x.zip"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_can_not_be_written_is_said_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, option: str, words: Sequence[str], path: str
) -> None:
    monkeypatch.chdir(home)
    before = sorted(home.rglob("*"))
    if words[0] == "report" and option == "--out" and path == "file":
        path = "photos"  # a file is what it should be; a folder is not
    result = cli(*words, option, path)
    assert result.exit_code == 2, result.output
    assert path in result.stderr
    assert option in result.stderr
    assert "Traceback" not in result.output
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        ["stores", "--stores", "file"],
        ["sweep", "mine.toml", "--stores", "file"],
        ["sweep", "photos"],
        ["table", "file"],
        ["table", "/proc/x"],
        ["compare", "file", "run"],
        ["report", "/proc/x"],
        ["inspect", "file"],
        ["inspect", "/proc/x"],
        ["verify", "file"],
        ["evaluate", "--head", "photos", "--store", "run"],
        ["evaluate", "--head", "file", "--store", "file"],
        ["build-store", "--backbone", "pixels", "--images", "/proc/x"],
        ["build-store", "--backbone", "vgg16", "--images", "photos", "--weights", "photos"],
        ["table", "n" * 300],
        ["build-store", "--backbone", "pixels", "--images", "~nobody-knows/photos"],
        ["build-store", "--backbone", "vgg16", "--images", "photos", "--weights", "~nobody-knows/x.pth"],
        ["sweep", "~nobody-knows/x.toml"],
        ["inspect", "~nobody-knows/x"],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_what_can_not_be_read_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[str]) -> None:
    monkeypatch.chdir(home)
    result = cli(*words)
    assert result.exit_code in (1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert len(result.stderr.strip().splitlines()) <= 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build-store", "--backbone", "vgg16", "--images", "nowhere"], "'nowhere' is not a folder"),
        (["build-store", "--backbone", "vgg16", "--images", "photo"], "did you mean 'photos'"),
        (["build-store", "--backbone", "vgg-16", "--images", "photos"], "did you mean 'vgg16'"),
        (["build-store", "--backbone", "resnet125x", "--images", "photos", "--weights", "imagnet"], "did you mean 'imagenet'"),
        (["build-store", "--backbone", "vgg16", "--images", "photos", "--device", "cudda"], "did you mean 'cuda'"),
        (["build-store", "--backbone", "vgg16", "--images", "photos", "--stores", "file"], "--stores file"),
        (["run", "nowhere", "--backbone", "vgg16"], "'nowhere' is not a folder"),
        (["run", "photos", "--backbone", "vgg16", "--out", "file"], "'--out'"),
        (["sweep", "tabel2"], "did you mean 'table2'"),
        (["sweep", "mine.toml", "--run", "file"], "--run file"),
        (["report", "run", "--out", "photos"], "--out photos"),
        (["evaluate", "--head", "none", "--images", "photos"], "none does not exist"),
        (["evaluate", "--head", "file", "--images", "nowhere"], "'nowhere' is not a folder"),
    ],
    ids=lambda value: " ".join(value[:5]) if isinstance(value, list) else "",
)
def test_a_mistake_is_found_before_torch_is_imported(home: Path, words: Sequence[str], message: str) -> None:
    code = "import sys; sys.modules['torch'] = None; from posenet_store.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "POSENET_DATA"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="can't be written"):
        check_writable(tmp_path / "stores", "--stores")
    with pytest.raises(UsageError, match="can't be written"):
        check_file_path(tmp_path / "page.html", "--out")


def test_a_link_that_leads_nowhere_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "stores").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UsageError, match=r"is a link to .*unmounted, which does not exist"):
        check_writable(tmp_path / "stores", "--stores")
