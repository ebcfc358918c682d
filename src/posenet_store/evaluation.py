"""Scoring one trained head on any store of the same network."""

from pathlib import Path
from typing import Any

from posenet_store.cells import target_of
from posenet_store.errors import UsageError
from posenet_store.heads import load_head
from posenet_store.inputs import parse_input
from posenet_store.reader import Reader
from posenet_store.scoring import Scorable, columns_of, score_heads


def evaluate_head(path: Path, reader: Reader) -> list[dict[str, Any]]:
    """Return a row a test column: target, test, SPC, MAE, counts; raises UsageError if the store is of another network."""
    heads, made = load_head(path)
    if made["network_key"] != reader.spec.network_key:
        raise UsageError(
            f"{path.name} reads features of {made['network']}; {reader.name} holds those of "
            f"{reader.spec.network} (backbone, weights, taps and preprocessing must be the same)"
        )
    cell = made["cell"]
    source = parse_input(cell["input"], reader.spec)
    target = target_of(cell)
    rows = []
    for name, blocks in columns_of(reader, source):
        ((scored,),) = score_heads(blocks, [Scorable(heads, [target])])
        rows.append({"target": cell["target"], "test": name} | scored.scores.summary())
    return rows
