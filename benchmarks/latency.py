"""How long does a command take, from typing it to its end? Whole processes, against `python -c "import torch"` in the same run.

A store of noise is swept once by sixty heads (ridge, five targets, two kernels, six inputs); its sums are kept. Commands
take turns, and the least of several times counts: other programs only make them longer.

command_nothing  `sweep` with nothing to train : import torch
command_plan     `sweep --plan` with nothing to train : import torch
command_inspect  `inspect` : import torch
command_stores   `stores` : import torch
command_table    `table` of the sixty heads : import torch
command_compare  `compare` of thirty heads with thirty : import torch
sixty_to_tables  a `sweep` of sixty heads whose sums are kept, until its tables are written : import torch
sixty_to_page    the same, until its page is written and it has ended : import torch

    python benchmarks/latency.py [--images 256] [--json]
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from command import Figures, report_step, run
from plan import write_store
from posenet_store.sweep.results import RunFiles

REPEATS = 5
SWEEP = """
title = "latency"
tests = ["probes"]
protocols = ["ridge"]
kernels = [1, 3]
inputs = ["aligned", "aligned:f1", "aligned:f2", "aligned:f3", "aligned:f4", "aligned:f5"]
"""
PROGRAM = (sys.executable, "-c", "from posenet_store.cli import main; main()")
TORCH = (sys.executable, "-c", "import torch")
COMMANDS = {
    "command_nothing": (*PROGRAM, "sweep", "latency.toml", "--run", "done"),
    "command_plan": (*PROGRAM, "sweep", "latency.toml", "--run", "done", "--plan"),
    "command_inspect": (*PROGRAM, "inspect", "STORE"),
    "command_stores": (*PROGRAM, "stores"),
    "command_table": (*PROGRAM, "table", "done"),
    "command_compare": (*PROGRAM, "compare", "done", "--between", "kernel=1,3"),
}


def time_command(command: tuple[str, ...], folder: Path) -> float:
    """Return the seconds of one process; raises SystemExit with its errors if it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds


def time_sweep(folder: Path) -> tuple[float, float]:
    """Train the sixty heads anew; return the seconds to the tables and to the end, which is the page."""
    shutil.rmtree(folder / "warm", ignore_errors=True)
    began = time.time()
    seconds = time_command((*PROGRAM, "sweep", "latency.toml", "--run", "warm"), folder)
    return RunFiles(folder / "warm").json.stat().st_mtime - began, seconds


def measure(images: int, folder: Path) -> tuple[Figures, Figures]:
    """Return each command's time : import torch, and the seconds."""
    os.environ.pop("POSENET_STORES", None)
    write_store(folder / "stores", images)
    (store,) = (folder / "stores").iterdir()
    (folder / "latency.toml").write_text(SWEEP, encoding="utf-8")
    report_step("the first sweep, whose sums are kept")
    time_command((*PROGRAM, "sweep", "latency.toml", "--run", "done"), folder)
    times: dict[str, list[float]] = {}
    for number in range(REPEATS):
        report_step(f"round {number + 1} of {REPEATS}")
        times.setdefault("torch", []).append(time_command(TORCH, folder))
        for name, command in COMMANDS.items():
            words = tuple(str(store) if word == "STORE" else word for word in command)
            times.setdefault(name, []).append(time_command(words, folder))
        for name, seconds in zip(("sixty_to_tables", "sixty_to_page"), time_sweep(folder), strict=True):
            times.setdefault(name, []).append(seconds)
    least = {name: min(seconds) for name, seconds in times.items()}
    figures: Figures = {f"{name} s": seconds for name, seconds in least.items()}
    return {name: seconds / least["torch"] for name, seconds in least.items() if name != "torch"}, figures


if __name__ == "__main__":
    run(__doc__, 256, measure)
