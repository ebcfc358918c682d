"""The range of every number that a user can set, in a TOML file, in a name or on the command line."""

from posenet_store.errors import UsageError, show_value

SEEDS = 2**32 - 1
RANGES: dict[str, tuple[float, float]] = {
    # of image sets and builds
    "limit": (1, 10**9),
    "generated": (1, 10**7),
    "image_size": (28, 4096),
    "batch_size": (1, 2**16),
    "max_unreadable": (0, 1),
    "part": (1, 10**6),
    # of sweeps
    "train_images": (0, 10**9),
    "holdout": (0, 0.999),
    "range": (-1e6, 1e6),
    "kernels": (1, 83),
    "paddings": (0, 28),
    "seeds": (0, SEEDS),
    # of heads that are trained by gradient steps
    "learning_rate": (1e-12, 1e6),
    "weight_decay": (0, 1e6),
    "momentum": (0, 0.9999),
    "drop": (0, 10_000),
    "epochs": (1, 10_000),
    "min_steps": (0, 10**7),
    "order_seed": (0, SEEDS),
    "layers": (1, 32),
    "hidden": (0, 4096),
    "size": (0, 2048),
    # of heads that are solved exactly
    "lambdas": (1e-30, 1e12),
    "validation": (0.001, 0.999),
    "folds": (0, 1000),
    "iterations": (1, 10**6),
    # of where it runs, and what is shown
    "cores": (1, 4096),
    "workers": (1, 10_000),
    "rows_shown": (1, 10**9),
}
"""Name of a key or an option -> least and largest value."""


def check_range(name: str, value: float, where: str) -> None:
    """Raise UsageError that says the accepted range if a number, called `where`, is out of the range `name`.

    >>> check_range("epochs", 15, "epochs")
    """
    low, high = RANGES[name]
    if not low <= value <= high:  # nor is NaN
        raise UsageError(f"{where} = {show_value(value)} is not accepted; give {low:,} to {high:,}")


def parse_whole_number(name: str, text: str, where: str) -> int:
    """Return the number that `text` spells; raises UsageError if it is no whole number in the range `name`.

    >>> parse_whole_number("seeds", "7", "seed")
    7
    """
    low, high = RANGES[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(high)) and low <= int(text) <= high):
        raise UsageError(f"{where} = {show_value(text)} is not accepted; give a whole number from {low:,} to {high:,}")
    return int(text)
