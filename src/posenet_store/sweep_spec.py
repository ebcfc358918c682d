"""A sweep as the user writes it: a TOML file, checked key by key, as a frozen SweepSpec."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posenet_store.cells import PROTOCOLS, Protocol, Report, Ridge, output_size
from posenet_store.errors import UsageError, unknown
from posenet_store.settings import filled, read_toml, typed
from posenet_store.targets import TARGETS, target_map

LISTS = {"learning_rate": "learning_rates", "weight_decay": "weight_decays"}
"""Keys of [report] that may be lists: each entry makes heads of its own."""


@dataclass(frozen=True)
class SweepSpec:
    """A product of choices. `networks`, `train` and `tests` are patterns over the stores below the root.

    `holdout` is the share of each training store's rows that is kept for testing; with `tests`, further image sets
    of the same network are scored. `learning_rates` and `weight_decays` are set where [report] gives lists of them.
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
    learning_rates: tuple[float, ...] = ()
    weight_decays: tuple[float, ...] = ()
    report: Report = field(default_factory=Report)
    ridge: Ridge = field(default_factory=Ridge)

    def recipes(self, name: str) -> list[Protocol]:
        """Return the settings of the protocol `name`: of `report` one for each learning rate and weight decay."""
        if name != "report":
            return [self.ridge]
        rates = self.learning_rates or (self.report.learning_rate,)
        decays = self.weight_decays or (self.report.weight_decay,)
        return [replace(self.report, learning_rate=rate, weight_decay=decay) for rate in rates for decay in decays]


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
    positive = (
        *spec.learning_rates,
        spec.report.learning_rate,
        spec.report.epochs,
        spec.report.batch_size,
        *spec.ridge.lambdas,
    )
    at_least_zero = (*spec.weight_decays, spec.report.weight_decay, spec.report.min_steps, spec.report.order_seed, *spec.seeds)
    if min(positive) <= 0 or min(at_least_zero) < 0 or not 0 < spec.ridge.validation < 1:
        raise UsageError(
            f"{where}: learning_rate, epochs, batch_size and lambdas must be positive, weight_decay, "
            "min_steps, order_seed and seeds at least 0, validation between 0 and 1"
        )
    return spec


def load_sweep(path: Path) -> SweepSpec:
    """Read a sweep's TOML file; raises UsageError that names the key and what is accepted."""
    table = read_toml(path, "sweep file", "the ready ones are in pipeline/experiments/")
    nested: dict[str, Protocol] = {}
    lists: dict[str, Any] = {}
    for name, kind in PROTOCOLS.items():
        section = table.pop(name, {})
        if not isinstance(section, dict):
            raise UsageError(f"{path}: {name} = {section!r} is not accepted; write a table [{name}]")
        if name == "report":
            lists = {key: section.pop(key) for key in LISTS if isinstance(section.get(key), list)}
        nested[name] = filled(kind(), section, f"{path} [{name}]", hidden=("name",))
    plural = {LISTS[key]: typed(value, (0.1,), f"{path} [report]: {key}") for key, value in lists.items()}
    spec = filled(SweepSpec(title=path.stem), table, str(path), hidden=tuple(LISTS.values()), sections=tuple(PROTOCOLS))
    return _check(replace(spec, **nested, **plural), str(path))
