"""What does a GPU give, is it right, and which stage holds it back?

One script for the first five minutes on a machine with a GPU. Sections run in the order of their worth; what there is no time
for is skipped, one that fails is reported and does not end the others, and the result file, `gpu-` and the name of the GPU,
is written after each. VGG-16 has HED's weights where they are installed, else random ones; other networks are random.

error_*                  features on the GPU in a precision : the CPU's in float32, of the root mean square of the worst tap
rows_wrong               builds that differ from a plain one where the GPU is late, buffers hold NaN and batches overlap
bytes_differ             builds in parts, interrupted and resumed, or repeated, whose features are other bytes
copy_overlap             share of the time of copies in which the GPU computes, from CUDA events
waits_in_launch          calls that wait for the GPU while a batch is launched
cpu_while_waiting        seconds of a CPU core while a batch is waited for : seconds of waiting
memory_halved            the batch that is left of 64 when the GPU's memory is limited to 1 GB : 64
tf32_vs_float32_*        images/s of the network alone in TF32 : in float32
bfloat16_vs_float32_*    the same in bfloat16
float16_vs_float32_*     the same in float16
channels_first_vs_last_*  images/s of the network alone with channels first : with channels last
build_vs_forward_*       images/s of a build in a layout and precision : of the network alone
plan_seconds_*           measured seconds of a build : what `--plan` says
sums_error, heads_error  second moments of taps, and heads solved from them, on the GPU : on the CPU
sums_vs_cpu, solve_vs_cpu  seconds of the sums of 1,472 channels, and of solving for a head, on all CPU cores : on the GPU
compiled_vs_eager        images/s of the compiled network : of the plain one, in bfloat16

    python benchmarks/gpu.py [--device cuda] [--budget 270] [--only features,builds] [--out FOLDER] [--json]
"""

import argparse
import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from command import RESULTS, STARTED, report_step, write_result
from extract import write_photographs
from gpu_lab import Lab
from gpu_sections import SECTIONS
from posenet_store.backbones.device import collect_device, describe_device, parse_device
from posenet_store.errors import UsageError, first_line
from posenet_store.images.sources import load_image_set


def run_sections(lab: Lab, names: Sequence[str], budget: float, save: Callable[[], None] = lambda: None) -> list[str]:
    """Run sections while there is time and save after each; return those that failed."""
    failed, deadline = [], time.monotonic() + budget
    for name in names:
        work, seconds = SECTIONS[name]
        if time.monotonic() + seconds > deadline:
            lab.figures[f"{name}: skipped"] = "out of time"
            report_step(f"{name}: skipped, {deadline - time.monotonic():.0f} s are left")
            continue
        report_step(name)
        try:
            work(lab)
        except Exception as error:  # a section's failure is a result
            failed.append(name)
            lab.figures[f"{name}: failed"] = f"{type(error).__name__}: {first_line(error)}"
            report_step(f"  FAILED: {type(error).__name__}: {error}")
        save()
    return failed


def prepare_lab(device: torch.device, root: Path, count: int) -> Lab:
    """Write `count` JPEG files, copies of 128 generated ones, and return the lab."""
    folder, distinct = write_photographs(root / "photos", min(count, 128)), min(count, 128)
    files = [file.read_bytes() for file in sorted(folder.iterdir())]
    for number in range(distinct, count):
        (folder / f"{number:04d}.jpg").write_bytes(files[number % distinct])
    return Lab(device, root, load_image_set(str(folder)))


def main() -> None:
    """Run the sections and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--budget", type=float, default=270, help="seconds for everything")
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--json", action="store_true", help="print the ratios as one flat JSON object")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(SECTIONS)
    try:
        device = parse_device(options.device)
    except UsageError as error:
        sys.exit(str(error))
    label = re.sub(r"[^a-z0-9]+", "-", collect_device(device)["device"].lower()).strip("-")
    command = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        report_step(f"images for {describe_device(device)}")
        lab = prepare_lab(device, Path(folder), options.images)

        def save() -> None:
            write_result(f"gpu-{label}", command, lab.ratios, lab.figures, options.out)

        failed = run_sections(lab, names, options.budget - (time.monotonic() - STARTED), save)
    print(
        json.dumps(lab.ratios) if options.json else "\n".join(f"{k:50} {v}" for k, v in {**lab.figures, **lab.ratios}.items())
    )
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
