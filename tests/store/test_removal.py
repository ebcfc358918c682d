"""Removing stores and leftovers: only what is one, only below the root, never without consent, never through a link."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from posenet_store.cli import main
from posenet_store.errors import UsageError
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.store.removal import Removal, find_leftovers, find_store, remove
from posenet_store.temporaries import name_temporary
from tests.support.runs import cli
from tests.support.small import built_store, folder, tiny_backbone, write_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Stores of two versions of a folder, moments of one of them and of a store that is gone, and two temporaries: of a
    process that lives, and of one that ended."""
    root = tmp_path / "stores"
    for seed in (0, 1):
        images = load_image_set(str(write_images(tmp_path / "pictures", 3, seed)))
        store = folder(built_store(root, images, tiny_backbone(), "aligned"))
        _make_file(root / "moments" / store.name / "sums-1.safetensors")
    _make_file(root / "moments/gone-1234/sums-1.safetensors")
    own = name_temporary(store / "commits/b00000.json")
    for name in (own.name, own.name.replace(f"-{os.getpid()}-", "-4194305-")):  # more than any process's number
        _make_file(own.with_name(name))
    return root


def _make_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 10)
    return path


def _list_names(root: Path) -> list[str]:
    return sorted(info.path.name for info in list_stores(root).stores)


def test_a_store_is_removed_with_its_moments_and_only_with_consent(root: Path) -> None:
    first, second = _list_names(root)
    asked = cli("stores", "--stores", root, "--remove", first)
    assert (asked.exit_code, "--yes" in asked.stderr) == (2, True)
    assert first in asked.stdout
    assert _list_names(root) == [first, second]
    done = cli("stores", "--stores", root, "--remove", first, "--yes")
    assert done.exit_code == 0, done.output
    assert "removed 2 entries" in done.stderr
    assert _list_names(root) == [second]
    assert not (root / "moments" / first).exists()
    assert not list(root.glob(".*"))
    near = cli("stores", "--stores", root, "--remove", second[:-1], "--yes")
    assert (near.exit_code, f"did you mean {second!r}" in near.stderr) == (2, True)


@pytest.mark.parametrize("name", ["../pictures", ".", "moments", "/", ""])
def test_what_is_no_store_is_not_removed(root: Path, name: str) -> None:
    assert cli("stores", "--stores", root, "--remove", name, "--yes").exit_code == 2
    assert (root.parent / "pictures").is_dir()
    assert len(_list_names(root)) == 2


def test_links_are_neither_removed_nor_followed(root: Path, tmp_path: Path) -> None:
    name = _list_names(root)[0]
    shared = Path(shutil.move(root / name, tmp_path / "shared"))
    (root / name).symlink_to(shared)
    assert cli("stores", "--stores", root, "--remove", name, "--yes").exit_code == 2
    outside = _make_file(tmp_path / "outside/a")
    (root / "moments/gone-1234/link").symlink_to(outside.parent)
    assert cli("prune", "--stores", root, "--older", "--yes").exit_code == 0
    assert (shared / "plan.json").is_file()
    assert outside.is_file()
    for path in (root / name, tmp_path / "outside"):
        with pytest.raises(UsageError, match="link or not below"):
            remove(Removal(root, path, 0, ""))


def test_prune_removes_orphan_moments_and_old_temporaries_and_older_stores_if_asked(root: Path) -> None:
    names = {removal.path.name for removal in find_leftovers(root)}
    assert {"-4194305-" in name for name in names - {"gone-1234"}} == {True}
    assert len(names) == 2
    assert {removal.bytes for removal in find_leftovers(root)} == {10}
    assert cli("prune", "--stores", root).exit_code == 2
    assert {removal.path.name for removal in find_leftovers(root)} == names
    assert cli("prune", "--stores", root, "--yes").exit_code == 0
    assert find_leftovers(root) == []
    assert len(_list_names(root)) == 2
    assert len(list(root.glob("*/commits/.*.tmp"))) == 1
    older = find_leftovers(root, older=True)
    assert [removal.reason for removal in older][:1] == ["store"]
    assert cli("prune", "--stores", root, "--older", "--yes").exit_code == 0
    assert len(_list_names(root)) == 1
    assert "nothing to remove" in cli("prune", "--stores", root, "--older").stderr
    assert len(find_store(root, _list_names(root)[0])) == 2


@pytest.mark.parametrize(("answer", "stores"), [("n\n", 2), ("y\n", 1)])
def test_in_a_terminal_the_question_is_asked(root: Path, monkeypatch: pytest.MonkeyPatch, answer: str, stores: int) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    words = ["stores", "--stores", str(root), "--remove", _list_names(root)[0]]
    result = CliRunner().invoke(main, words, input=answer)
    assert result.exit_code == 0, result.output
    assert "remove 2 entries" in result.stdout
    assert len(_list_names(root)) == stores
