"""What do kernels 5 and 7 cost at the report's own size, and does their plan say so?

The report's recipe (15 epochs, batches of 4, five targets) on generated aligned features of 10,553 images, with the memory that
a single worker gets here. Each kernel is planned and run once, in a process of its own.

seconds_KERNEL  measured seconds : planned ones
memory_KERNEL   measured peak : planned one, with what the libraries hold

    python benchmarks/kernels.py [--images 10553] [--json]
"""

from pathlib import Path

from command import Figures, report_step, run
from plan import run_case, write_store
from posenet_store.parallel.machine import share_memory


def measure(images: int, root: Path) -> tuple[Figures, Figures]:
    """Return measured : planned of each kernel, and the figures."""
    write_store(root / "stores", images)
    ratios: Figures = {}
    figures: Figures = {}
    for kernel in (5, 7):
        report_step(f"kernel {kernel}")
        strategy, planned, seconds, memory, peak = run_case(root / "stores", {"kernels": (kernel,), "memory": share_memory()})
        ratios |= {f"seconds_{kernel}": seconds / planned, f"memory_{kernel}": peak / memory}
        figures |= {f"kernel {kernel}: strategy": strategy, f"kernel {kernel}: planned s": planned}
        figures |= {f"kernel {kernel}: measured s": seconds, f"kernel {kernel}: measured MB": peak / 1e6}
        report_step(f"  {strategy}: {seconds:.0f} s of {planned:.0f} planned")
    return ratios, figures


if __name__ == "__main__":
    run(__doc__, 10_553, measure)
