"""The command line that all benchmarks share: `--images N` and `--json`, ratios and the figures behind them."""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

Figures = dict[str, float | str]


def run(
    doc: str | None, images: int, measured: Callable[[int, Path], tuple[Mapping[str, float | str], Mapping[str, float | str]]]
) -> None:
    """Measure in a temporary folder and print; `measured(images, folder)` returns ratios and figures, `doc` is the help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ratios, facts = measured(options.images, Path(folder))
    if options.json:
        print(json.dumps({name: value if isinstance(value, str) else round(value, 4) for name, value in ratios.items()}))
        return
    for name, value in {**facts, **ratios}.items():
        print(f"{name:40} {value:>11}" if isinstance(value, str) else f"{name:40} {value:11.3f}")
