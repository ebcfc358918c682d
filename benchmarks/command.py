"""The command line and the result files that all benchmarks share.

A benchmark measures ratios against named baselines in one run. `run` prints them and writes `benchmarks/results/NAME.json`,
from which documents are rendered: no number is typed twice.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from posenet_store.files import write_json
from posenet_store.provenance import collect_versions
from posenet_store.threads import count_cpus

Figures = dict[str, float | str]
Measure = Callable[..., tuple[Mapping[str, float | str], Mapping[str, float | str]]]
RESULTS = Path(__file__).parent / "results"
STARTED = time.monotonic()


def report_step(text: str) -> None:
    """Print on standard error what is measured next, with the seconds since the start."""
    print(f"{time.monotonic() - STARTED:6.0f} s  {text}", file=sys.stderr, flush=True)


def describe_machine() -> dict[str, object]:
    """Return CPU model, cores, memory in bytes, system and versions; nothing that names the machine or its user."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name") or platform.processor(),
        "instructions": [name for name in ("avx2", "avx512f", "amx_tile") if name in flags],
        "cores": count_cpus(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": collect_versions(),
    }


def _commit() -> str:
    """Return the checkout's commit, empty outside of one."""
    command = ("git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD")
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_result(
    name: str, command: str, ratios: Mapping[str, float | str], figures: Mapping[str, float | str], folder: Path = RESULTS
) -> None:
    """Write the result file of a benchmark."""
    rounded = [{key: v if isinstance(v, str) else round(v, 7) for key, v in part.items()} for part in (ratios, figures)]
    content = {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "command": command,
        "seconds": round(time.monotonic() - STARTED, 1),
        "machine": describe_machine(),
        "ratios": rounded[0],
        "figures": rounded[1],
    }
    write_json(folder / f"{name}.json", content)


def run(doc: str | None, images: int, measure: Measure, **options_help: str) -> None:
    """Measure in a temporary folder, print, and write the result file; `measure(images, folder)` returns (ratios, figures).

    Each keyword is one more option, a text, with its help; `measure` gets it by its name.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--json", action="store_true", help="print the ratios as one flat JSON object")
    parser.add_argument("--no-write", action="store_true", help="leave the result file as it is")
    for option, text in options_help.items():
        parser.add_argument(f"--{option}", default="", help=text)
    options = parser.parse_args()
    more = {option: getattr(options, option) for option in options_help}
    name = Path(sys.argv[0]).stem
    with tempfile.TemporaryDirectory() as folder:
        report_step(f"{name}: {options.images} images")
        measured = measure(options.images, Path(folder), **more)
        report_step(f"{name}: done")
    ratios, figures = ({key: v if isinstance(v, str) else round(v, 4) for key, v in part.items()} for part in measured)
    if not options.no_write:
        write_result(name, shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]), ratios, figures)
    if options.json:
        print(json.dumps(ratios))
        return
    for key, value in {**figures, **ratios}.items():
        print(f"{key:40} {value:>11}" if isinstance(value, str) else f"{key:40} {value:11.3f}")
