"""A sweep as the user writes it: a TOML file, checked key by key, as a frozen SweepSpec."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from posenet_store.cells import PROTOCOLS, Protocol, Report, Ridge, output_size
from posenet_store.errors import UsageError, unknown
from posenet_store.targets import TARGETS, target_map


@dataclass(frozen=True)
class SweepSpec:
    """A product of choices. `networks`, `train` and `tests` are patterns over the stores below the root.

    `holdout` is the share of each training store's rows that is kept for testing; with `tests`, further image sets
    of the same network are scored.
    """

    title: str
    networks: tuple[str, ...] = ("*",)
    train: tuple[str, ...] = ("*",)
    tests: tuple[str, ...] = ("probes",)
    holdout: float = 0.2
    inputs: tuple[str, ...] = ("aligned",)
    targets: tuple[str, ...] = TARGETS
    range: tuple[float, float] = (0.0, 1.0)
    normalise: bool = False
    kernels: tuple[int, ...] = (3,)
    paddings: tuple[int, ...] = (0,)
    protocols: tuple[str, ...] = ("report",)
    seeds: tuple[int, ...] = (0, 1, 2)
    report: Report = field(default_factory=Report)
    ridge: Ridge = field(default_factory=Ridge)

    def protocol(self, name: str) -> Protocol:
        """Return the settings of the protocol `name`."""
        return self.report if name == "report" else self.ridge


def _plain(value: Any, kind: type, where: str) -> Any:
    """Check one TOML value; whole numbers pass as floats."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        raise UsageError(f"{where} = {value!r} is not accepted; give {names[kind]}")
    return value


def _typed(value: Any, example: Any, where: str) -> Any:
    """Check a TOML value against the default it replaces: a plain value, or a list of such."""
    if not isinstance(example, tuple):
        return _plain(value, type(example), where)
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where} = {value!r} is not accepted; give a list with at least one entry")
    entries = tuple(_plain(entry, type(example[0]), where) for entry in value)
    if len(set(entries)) != len(entries):
        raise UsageError(f"{where} = {value!r} names an entry twice")
    return entries


def _filled(defaults: Any, table: Mapping[str, Any], where: str, skip: tuple[str, ...] = ()) -> Any:
    """Return `defaults` with the table's values; raises UsageError for a key that does not exist, with those that do."""
    known = [f.name for f in fields(defaults) if f.name not in skip]
    for key in table:
        if key not in known:
            raise unknown(f"key in {where}", key, [*known, *(f"[{name}]" for name in skip if name in PROTOCOLS)])
    typed = {key: _typed(value, getattr(defaults, key), f"{where}: {key}") for key, value in table.items()}
    return replace(defaults, **typed)


def _check(spec: SweepSpec, where: str) -> SweepSpec:
    for name, table, known in (("target", spec.targets, TARGETS), ("protocol", spec.protocols, tuple(PROTOCOLS))):
        for entry in table:
            if entry not in known:
                raise unknown(f"{name} in {where}", entry, known)
    if not 0 <= spec.holdout < 1:
        raise UsageError(f"{where}: holdout = {spec.holdout} is not accepted; give 0 to less than 1")
    if len(spec.range) != 2:
        raise UsageError(f"{where}: range = {list(spec.range)} is not accepted; give [low, high]")
    for kernel in spec.kernels:
        for padding in spec.paddings:
            target_map("H", output_size(kernel, padding), (spec.range[0], spec.range[1]))
    positive = (spec.report.learning_rate, spec.report.epochs, spec.report.batch_size, *spec.ridge.lambdas)
    at_least_zero = (spec.report.weight_decay, spec.report.min_steps, spec.report.order_seed, *spec.seeds)
    if min(positive) <= 0 or min(at_least_zero) < 0 or not 0 < spec.ridge.validation < 1:
        raise UsageError(
            f"{where}: learning_rate, epochs, batch_size and lambdas must be positive, weight_decay, "
            "min_steps, order_seed and seeds at least 0, validation between 0 and 1"
        )
    return spec


def load_sweep(path: Path) -> SweepSpec:
    """Read a sweep's TOML file; raises UsageError that names the key and what is accepted."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"sweep file {path} does not exist; the ready ones are in pipeline/experiments/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"sweep file {path} can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    nested: dict[str, Protocol] = {}
    for name, kind in PROTOCOLS.items():
        section = table.pop(name, {})
        if not isinstance(section, dict):
            raise UsageError(f"{path}: {name} = {section!r} is not accepted; write a table [{name}]")
        nested[name] = _filled(kind(), section, f"{path} [{name}]", skip=("name",))
    spec = _filled(SweepSpec(title=path.stem), table, str(path), skip=tuple(PROTOCOLS))
    return _check(replace(spec, **nested), str(path))
