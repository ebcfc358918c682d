"""What a store should hold by now, as a dictionary of its files that follows every change."""

from pathlib import Path

from posenet_store.store.access import MANIFEST, PLAN, name_record
from posenet_store.store.formats import list_block_files
from posenet_store.store.formats.hdf5 import WHOLE
from posenet_store.store.plan import Plan
from tests.support.hands import Change


class StoreModel:
    """Whether each file of the store in the folder `path` is right; files that are not there yet are not in `files`.

    `calm` means that a hand has no reason to take anything away: nothing was damaged, nobody killed.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.calm, self.sealed, self.changes = path, True, False, 0
        self.files: dict[str, bool] = {}
        self._moved: dict[Path | None, bool] = {}
        self._blocks = {b: [name_record(b), *list_block_files(plan.spec, b)] for b in range(len(plan.bounds))}
        self._data = {name for names in self._blocks.values() for name in names[1:]}

    def damage(self, path: Path) -> None:
        """A file was damaged or removed."""
        self.files[path.relative_to(self.path).as_posix()] = self.calm = False

    def follow(self, change: Change) -> None:
        """A hand makes a change, unless what it needs is not there or, for a link, in its way."""
        self.changes += 1
        if change.comes == self.path and not self.path.exists():  # a new store
            self.files, self.sealed = {}, False
        if (name := self._name(change.goes)) and (self.path / name).exists():
            self._moved[change.target] = self.files.pop(name, True)
            self.sealed &= name != MANIFEST or self.calm
        if (name := self._name(change.comes)) and not (change.links and (self.path / name).exists()):
            self.files[name] = self._moved.pop(change.source, True)
            self.sealed |= name == MANIFEST
            if name == PLAN:  # the manifest names another, until the store is sealed again
                self.files[MANIFEST] = self.sealed = False

    def settle(self) -> None:
        """No command runs any more: if the store is sealed and right, nobody has a reason to change it from now on."""
        self.calm |= self.sealed and all(self.files.values())

    @property
    def can_be_opened(self) -> bool:
        """Whether everything but the data of blocks is right."""
        return self.path.exists() and all(right for name, right in self.files.items() if name not in {*self._data, WHOLE})

    def list_right_blocks(self) -> list[int]:
        """List the blocks that are committed and right."""
        return [block for block, names in self._blocks.items() if all(self.files.get(name) for name in names)]

    def _name(self, path: Path | None) -> str:
        return path.relative_to(self.path).as_posix() if path and path != self.path and path.is_relative_to(self.path) else ""
