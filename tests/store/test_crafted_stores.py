"""Whatever stands in a store's JSON files is a sentence, and never ends a command that meets it among other stores."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posenet_store.errors import PosenetStoreError
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import describe_outdated, list_stores
from posenet_store.store.reader import open_store
from posenet_store.store.removal import find_leftovers
from posenet_store.store.verify import find_damage
from tests.support.sign import sign_content
from tests.support.small import built_store, folder, tiny_backbone, write_images

HOLE = "@hole@"
UNWRITTEN = ("NaN", "1e999", "9" * 5000, "[" * 100_000 + "]" * 100_000)
"""What no JSON of this program holds, so that no digest can be made for it."""
VALUES = ("null", "true", "-1", "0", "0.5", "9" * 400, '"x"', '"../x"', '"\\u0000"', '"\\ud800"', "[]", "[null]", '{"a": null}',
          "[" * 300 + "]" * 300)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crafted")
    images = load_image_set(str(write_images(root / "photos", 3)))
    return folder(built_store(root / "stores", images, tiny_backbone(), block_rows=2))


def list_fields(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the (container, key) of every field, at any depth; of a list only the first value."""
    for key in list(content) if isinstance(content, dict) else range(min(1, len(content))):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from list_fields(content[key])


def sign(text: str) -> str:
    """Give a record or manifest its digest, or a plan its fingerprint, if that is possible."""
    try:
        return json.dumps(sign_content(json.loads(text)))
    except (ValueError, TypeError, RecursionError):
        return text


def mutate(content: dict[str, Any]) -> Iterator[str]:
    """Yield the JSON text of a content with each field replaced by each value, or removed."""
    for container, key in list_fields(content):
        original = container[key]
        container[key] = HOLE
        text = json.dumps(content)
        yield from (text.replace(f'"{HOLE}"', value) for value in UNWRITTEN)
        yield from (sign(text.replace(f'"{HOLE}"', value)) for value in VALUES)
        del container[key]
        yield sign(json.dumps(content))
        if isinstance(container, dict):
            container[key] = original
        else:
            container.insert(key, original)


def use_everything(root: Path, store: Path) -> None:
    """List, describe, open, show and verify; only this package's own errors may come."""
    infos, _ = list_stores(root)
    json.dumps([info.to_dict() for info in infos])
    describe_outdated(infos)
    find_leftovers(root, older=True)
    for use in (lambda: repr(open_store(store, unsealed=True)), lambda: list(find_damage(store))):
        try:
            use()
        except PosenetStoreError as error:
            assert str(error)


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.system)])
@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "commits/b00000.json"])
def test_no_value_of_any_field_ends_a_command(store: Path, tmp_path: Path, name: str, step: int) -> None:
    """Each `step`-th case."""
    crafted = Path(shutil.copytree(store, tmp_path / "stores" / store.name))
    if name != "manifest.json":
        (crafted / "manifest.json").unlink()  # it would vouch for the others
    texts = list(dict.fromkeys(mutate(json.loads((store / name).read_text()))))
    for text in texts[::step]:
        (crafted / name).write_text(text)
        use_everything(crafted.parent, crafted)
    assert len(texts) > 300
