"""Load a sweep from a TOML file, checked key by key, as a frozen SweepSpec."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import product, takewhile
from math import prod
from pathlib import Path
from typing import Any

from posenet_store.errors import UsageError, show_value, suggest, unknown
from posenet_store.files import expand_user
from posenet_store.heads.own_maps import load_target
from posenet_store.heads.protocols import OPTIMIZERS, PROTOCOLS, GradientProtocol, Protocol, RidgeProtocol
from posenet_store.heads.targets import TARGETS, make_native_map, make_target_map
from posenet_store.sweep.cell import output_size
from posenet_store.toml_config import check_value, fill_defaults, read_toml

MAX_HEADS = 100_000
"""Heads that a sweep may train from one store: each is an object in memory before the first is trained."""


@dataclass(frozen=True)
class SweepSpec:
    """A product of choices. `networks`, `train` and `tests` are patterns over the stores below the root.

    `holdout` is the share of each training store's rows that is kept for testing; with `tests`, further image sets
    of the same network are scored. `train_images` are how many of the other rows train, 0 for all. Without `inputs` each
    protocol reads its own. `recipes` are protocols with changed settings, one for each combination that the sweep tries.
    `variance` asks for the share of variance that is position in each training store too.
    """

    title: str
    networks: tuple[str, ...] = ("*",)
    train: tuple[str, ...] = ("*",)
    tests: tuple[str, ...] = ("probes",)
    holdout: float = 0.2
    train_images: tuple[int, ...] = (0,)
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = TARGETS
    range: tuple[float, float] = (0.0, 1.0)
    normalise: bool = False
    kernels: tuple[int, ...] = (3,)
    paddings: tuple[int, ...] = (0,)
    protocols: tuple[str, ...] = ("report-2020",)
    seeds: tuple[int, ...] = (0, 1, 2)
    variance: bool = False
    recipes: tuple[Protocol, ...] = ()

    def list_protocols(self) -> list[Protocol]:
        """List every protocol with every combination of its settings that the sweep tries."""
        return [
            protocol
            for name in self.protocols
            for protocol in [recipe for recipe in self.recipes if recipe.name == name] or [PROTOCOLS[name]]
        ]


def load_own_maps(spec: SweepSpec, folder: Path = Path()) -> SweepSpec:
    """Return a sweep whose targets, also those that are erased, are named as cells have them; own maps are known from now."""

    def load(targets: Sequence[str]) -> tuple[str, ...]:
        return tuple(load_target(target, folder) for target in targets)

    recipes = (replace(r, erase=load(r.erase)) if isinstance(r, RidgeProtocol) else r for r in spec.recipes)
    return replace(spec, targets=load(spec.targets), recipes=tuple(recipes))


def _check(spec: SweepSpec, where: str) -> SweepSpec:
    """Return `spec`; raises UsageError that names the key, what came and what is accepted."""
    for name in spec.protocols:
        if name not in PROTOCOLS:
            raise unknown(f"protocol in {where}", name, tuple(PROTOCOLS))
    erased = {recipe.erase for recipe in spec.recipes if isinstance(recipe, RidgeProtocol)} - {()}
    for targets in (spec.targets, *sorted(erased)):
        for target in targets:
            make_native_map(target)
        if len(set(targets)) < len(targets):
            raise UsageError(f"{where}: targets = {show_value(list(targets))} has one map twice")
    if erased and "ridge" not in spec.protocols:
        raise UsageError(f'{where}: [erase] is for exact heads; add "ridge" to protocols = {show_value(list(spec.protocols))}')
    if len(spec.range) != 2:
        raise UsageError(f"{where}: range = {show_value(list(spec.range))} is not accepted; give [low, high]")
    choices = (spec.train_images, spec.inputs or "-", spec.targets, spec.kernels, spec.paddings, spec.seeds)
    if (heads := prod(map(len, choices)) * len(spec.list_protocols())) > MAX_HEADS:
        raise UsageError(f"{where} makes {heads:,} heads of each store; {MAX_HEADS:,} are the most")
    depths = {protocol.layers for protocol in spec.list_protocols() if isinstance(protocol, GradientProtocol)}
    for kernel, padding, layers in product(spec.kernels, spec.paddings, depths | {1}):
        make_target_map("H", output_size(kernel, padding, layers), (spec.range[0], spec.range[1]))
    return spec


def _check_protocol(protocol: Protocol, where: str) -> Protocol:
    """Check one protocol's settings; raises UsageError that names the key, what came and what is accepted."""
    if not isinstance(protocol, GradientProtocol):
        if protocol.folds == 1:
            raise UsageError(f"{where}: folds = 1 is not accepted; give 0 (none) or at least 2")
        return protocol
    if protocol.optimizer not in OPTIMIZERS:
        raise unknown(f"optimizer in {where}", protocol.optimizer, OPTIMIZERS)
    if protocol.size == 1 or (protocol.optimizer == "adam" and protocol.momentum):
        raise UsageError(f"{where}: size must be 0 or at least 2, and momentum is SGD's only")
    return protocol


@dataclass(frozen=True)
class Erasure:
    """The table [erase]: the targets that are erased from the features of exact heads, which are trained before and after."""

    targets: tuple[str, ...] = ("H", "V")


def _add_erasure(protocols: Sequence[Protocol], section: Any, where: str) -> list[Protocol]:
    """Return protocols with each exact one twice, before and after an erasure; raises UsageError for a table that is wrong."""
    if not isinstance(section, dict):
        raise UsageError(f"{where} = {show_value(section)} is not accepted; write a table [erase]")
    erasure = fill_defaults(Erasure(), section, where)
    exact = [protocol for protocol in protocols if isinstance(protocol, RidgeProtocol)] or [RidgeProtocol()]
    others = [protocol for protocol in protocols if protocol not in exact]
    return others + [replace(protocol, erase=targets) for protocol in exact for targets in ((), erasure.targets)]


def _parse_protocol(name: str, section: Mapping[str, Any], where: str) -> list[Protocol]:
    """Return the protocol `name` with the settings of its table, once for each combination of the settings that are lists."""
    default = PROTOCOLS[name]
    lists = {
        key: check_value(value, (getattr(default, key),), key, f"{where}: {key}")
        for key, value in section.items()
        if isinstance(value, list) and hasattr(default, key) and not isinstance(getattr(default, key), tuple)
    }
    single = {key: value for key, value in section.items() if key not in lists}
    base = fill_defaults(default, single, where, hidden=("name", "erase"))
    if (combinations := prod(map(len, lists.values()))) > MAX_HEADS:
        raise UsageError(f"{where} makes {combinations:,} combinations of settings; {MAX_HEADS:,} are the most")
    choices = (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))
    return [_check_protocol(replace(base, **choice), where) for choice in choices]


EXPERIMENTS = Path(str(files("posenet_store"))) / "experiments"
"""The sweeps that come with the package; in a checkout this is a link to `pipeline/experiments`."""


@dataclass(frozen=True)
class Experiment:
    """A sweep that comes with the package: its name, title, question, and TOML file."""

    name: str
    title: str
    question: str
    path: Path


def list_experiments() -> list[Experiment]:
    """Return the sweeps that come with the package by name, each with the question that the comment on top of its file asks."""
    return [_read_experiment(path) for path in sorted(EXPERIMENTS.glob("*.toml"))]


def _read_experiment(path: Path) -> Experiment:
    comment = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    question = re.match(r"(?:Question: )?(.*?[?.])(?: |$)", text)
    return Experiment(path.stem, load_sweep(path).title, question[1] if question else text, path)


def find_experiment(name: str) -> Path:
    """Return the TOML file of an experiment that comes with the package; raises UsageError for an unknown name.

    >>> find_experiment("table2").name
    'table2.toml'
    """
    known = sorted(path.stem for path in EXPERIMENTS.glob("*.toml"))
    if name not in known:
        raise unknown("experiment", name, known)
    return EXPERIMENTS / f"{name}.toml"


def find_sweep(source: str | Path) -> Path:
    """Return the TOML file of a sweep: `source` is a file, or the name of an experiment that comes with the package.

    Raises UsageError for a file that does not exist, or an unknown name.

    >>> find_sweep("table2").name
    'table2.toml'
    """
    path = expand_user(source)
    if path.is_file():
        return path
    if path.suffix != ".toml" and len(path.parts) == 1:
        return find_experiment(str(source))
    known = [experiment.stem for experiment in sorted(EXPERIMENTS.glob("*.toml"))]
    raise UsageError(
        f"sweep file {path} does not exist{suggest(path.stem, known)}; give a TOML file, or the name of an experiment: "
        f"{', '.join(known)}"
    )


def load_sweep(source: str | Path) -> SweepSpec:
    """Read a sweep from a TOML file, or from an experiment's name such as `table2` (see `find_sweep`).

    Raises UsageError that names the key and what is accepted.
    """
    path = find_sweep(source)
    table = read_toml(path, "sweep file", "`experiments` lists those that come with the package")
    protocols: list[Protocol] = []
    for name in PROTOCOLS:
        section = table.pop(name, None)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise UsageError(f"{path}: {name} = {show_value(section)} is not accepted; write a table [{name}]")
        protocols += _parse_protocol(name, section, f"{path} [{name}]")
    if (section := table.pop("erase", None)) is not None:
        protocols = _add_erasure(protocols, section, f"{path} [erase]")
    sections = (*PROTOCOLS, "erase")
    spec = fill_defaults(SweepSpec(title=path.stem), table, str(path), hidden=("recipes",), sections=sections)
    return _check(load_own_maps(replace(spec, recipes=tuple(protocols)), path.parent), str(path))
