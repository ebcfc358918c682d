"""A real notebook, executed by a real kernel: what a user sees of each object, of progress, and of a mistake."""

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.small import write_images

CELLS = """
import posenet_store
images = posenet_store.load_image_set("pictures")
backbone = posenet_store.load_backbone("pixels")
result = posenet_store.build_store(images, backbone, posenet_store.plan_store(images, backbone, "aligned", "float32"), "stores")
---
reader = posenet_store.open_store(result.path)
reader
---
reader.spec
---
reader["aligned"][reader.rows_of("image003.png")].shape
---
posenet_store.list_stores()
---
spec = posenet_store.load_sweep("sweep.toml")
plan = posenet_store.plan_sweep(spec)
plan
---
posenet_store.run_sweep(spec, plan, "run", scheduler="inline")
---
run = posenet_store.open_run("run")
run
---
run.table2()
---
run.to_pandas()[["target", "network"]]
---
complete = get_ipython().kernel.do_complete
complete('reader["a', 9)["matches"], complete("reader.ro", 9)["matches"]
---
reader.batches(["f55"])
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """The outputs of each cell."""
    home = tmp_path_factory.mktemp("notebook")
    write_images(home / "pictures", 12)
    (home / "sweep.toml").write_text('train = ["pictures"]\ntargets = ["H"]\nprotocols = ["ridge"]\n')
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS.split("---")])
    NotebookClient(book, timeout=300, allow_errors=True, resources={"metadata": {"path": str(home)}}).execute()
    return [cell.outputs for cell in book.cells]


def read_output(outputs: list[list[dict[str, Any]]], cell: int, kind: str = "text/html") -> str:
    return "".join(output.get("data", {}).get(kind, "") for output in outputs[cell])


def test_a_notebook_shows_bars_tables_and_one_sentence_for_a_mistake(outputs: list[list[dict[str, Any]]]) -> None:
    errors = [output["ename"] for cell in outputs[:-1] for output in cell if output["output_type"] == "error"]
    assert errors == []
    facts = {
        0: ["<progress", 'value="12"', 'max="12"', "pixels on pictures: 12 of 12 images"],
        1: ["<table>", "pixels-pictures", "12 of 12 rows readable"],
        2: ["<table>", "images_sha256", "aligned"],
        4: ["<table>", "pixels-pictures", "sealed"],
        5: ["<table>", "1 heads", "ridge"],
        6: ["<progress", "1 of 1 heads"],
        7: ["<table>", "held-out", "ridge"],
        8: ["<table>", "PosENet"],
        9: ["<table", "pixels"],
    }
    for cell, words in facts.items():
        assert all(word in read_output(outputs, cell) for word in words), outputs[cell]
    assert read_output(outputs, 3, "text/plain") == "(1, 3, 28, 28)"
    assert "1 heads trained" in read_output(outputs, 6, "text/plain")
    assert all(word in read_output(outputs, 10, "text/plain") for word in ("aligned", "rows_of"))
    (error,) = outputs[-1]
    assert error["ename"] == "UsageError"
    assert "f55" in error["evalue"]
    assert "accepted: aligned" in error["evalue"]
