"""Ask a Dask scheduler for its workers, and give up those that do not answer: stopped, swapping, or cut off."""

from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

Workers = Mapping[str, Mapping[str, Any]]
"""By address, what the scheduler knows: `nthreads`, `resources`, `memory_limit` in bytes, `last_seen`, `status`."""
NANNY = 5.0
"""Seconds for a nanny to kill its worker; the scheduler then removes the worker."""


def _ask(client: "Client", question: str, answer: float, **arguments: Any) -> Any:
    """Call a method of the scheduler; raises OSError if it does not answer in `answer` seconds."""
    if client.scheduler is None:
        raise OSError("the client gave up")
    return client.sync(getattr(client.scheduler, question), callback_timeout=answer, **arguments)


def read_workers(client: "Client", answer: float) -> Workers:
    """Return the workers; raises OSError if the scheduler does not answer in `answer` seconds."""
    workers: Workers = _ask(client, "identity", answer)["workers"]
    return workers


class SilentWorkers:
    """Workers without a heartbeat, of which there is one a second also while a worker computes.

    One that has been silent for `silence` seconds is announced. After `patience` seconds its nanny restarts it, or the
    scheduler removes it, and its task goes to another.
    """

    def __init__(
        self, client: "Client", announce: Callable[[str], None], *, silence: float, patience: float, answer: float
    ) -> None:
        self._client, self._announce = client, announce
        self._silence, self._patience, self._answer = silence, patience, answer
        self._seen: dict[str, tuple[float, float]] = {}  # the last heartbeat of each worker, and when it was seen
        self._announced: set[str] = set()

    def check(self, workers: Workers, busy: Collection[str]) -> None:
        """Announce, then give up, silent workers at `busy` addresses."""
        now = monotonic()
        heartbeats = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        self._seen = {
            address: seen if (seen := self._seen.get(address)) and seen[0] == heartbeat else (heartbeat, now)
            for address, heartbeat in heartbeats.items()
        }
        silent = {address: now - since for address, (_, since) in self._seen.items() if now - since > self._silence}
        self._announced &= set(silent)
        for address in silent.keys() & busy:
            self._give_up(address, silent[address])

    def _give_up(self, address: str, seconds: float) -> None:
        if address not in self._announced:
            self._announced.add(address)
            self._announce(
                f"the worker {address} has not answered for {seconds:.0f} s (stopped, or its machine is too busy); "
                f"after {self._patience:.0f} s its task goes to another"
            )
        if seconds > self._patience:
            options = {"timeout": NANNY, "wait_for_workers": False, "on_error": "return", "stimulus_id": "silent-worker"}
            _ask(self._client, "restart_workers", self._answer, workers=[address], **options)
