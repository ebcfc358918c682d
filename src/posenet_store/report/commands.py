"""The commands that made a result, from the records of its run: its store, its sweep, and how to score its head again."""

import shlex

from posenet_store.provenance import format_command
from posenet_store.sweep.results import Result, RunRecord


def find_store(run: RunRecord, result: Result) -> str | None:
    """Return the name of the store that a head was trained from, None if the run does not say."""
    return next((name for name in run.stores if name.endswith(result.cell.store[:8])), None)


def evaluate_command(run: RunRecord, folder: str, result: Result) -> str:
    """Return the command that scores a cell's head again, on the store that it was trained from."""
    words = shlex.split(format_command(run.provenance["command"]))
    program = words[: words.index("sweep")] if "sweep" in words else ["posenet-store"]
    root = words[words.index("--stores") + 1] if "--stores" in words[:-1] else "stores"
    head = f"{folder}/heads/{result.id}.safetensors"
    return shlex.join([*program, "evaluate", "--head", head, "--store", f"{root}/{find_store(run, result) or 'STORE'}"])


def list_commands(run: RunRecord, result: Result) -> tuple[str, str]:
    """Return the commands that built the store and ran the sweep of a result, "" for a build that the run has no record of."""
    build = run.provenance.get("builds", {}).get(find_store(run, result), "")
    return format_command(build) if build else "", format_command(run.provenance["command"])
