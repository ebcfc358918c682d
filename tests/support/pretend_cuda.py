"""A pretend CUDA on the CPU: the code for a GPU runs, streams and events follow torch's rules, and a race is noticed.

- Tensors "on the GPU" are on the CPU; convolutions take time of the GPU's compute stream, on a virtual clock.
- An event is recorded on the current stream of the current GPU, which is the first one unless a context says otherwise.
- A copy that does not block (features to the host) is carried out as late as CUDA may: when an event behind it is waited for.
- A copy that starts before what it reads is computed, or reads memory that is not kept for its stream, is a race.
- Locked memory is full of NaN until something is copied there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

NAME = "Pretend H100"
CONVOLUTION = 1e-3  # seconds of the virtual clock
BYTES_PER_SECOND = 25e9


def find_index(device: Any) -> int:
    """Return the number of a GPU, given in any of torch's ways."""
    return device if isinstance(device, int) else torch.device(device).index or 0


class Stream:
    """A queue of work that ends at `end` of the virtual clock."""

    def __init__(self, device: Any = 0) -> None:
        self.device, self.end = find_index(device), 0.0


class PretendCuda(TorchFunctionMode):
    """The state of the GPUs: the current one, the current stream of each, and the copies that are still to be carried out."""

    def __init__(self, network: Any = "cuda") -> None:
        """Prepare GPUs; the network is on the GPU `network`."""
        super().__init__()
        self.device, self.network = 0, find_index(network)
        self.compute = {index: Stream(index) for index in range(8)}
        self.current = dict(self.compute)
        self.copies: list[tuple[Tensor, Tensor, Stream] | None] = []
        self.unkept: dict[int, str] = {}
        self.races: list[str] = []
        self.calls: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call one of torch's functions for the CPU instead of the GPU."""
        name, named = getattr(func, "__name__", ""), dict(kwargs or {})
        if func is torch.device:
            return func(*args, **named)
        if name == "copy_" and named.get("non_blocking"):
            return self._copy(args[0], args[1])
        if name == "pin_memory":
            return args[0]
        if name == "conv2d":
            self.compute[self.network].end += CONVOLUTION
        locked = named.pop("pin_memory", False)
        args = tuple(torch.device("cpu") if is_gpu(arg) else arg for arg in args)
        result = func(*args, **{key: torch.device("cpu") if is_gpu(value) else value for key, value in named.items()})
        if locked and name == "empty" and result.is_floating_point():
            result.fill_(torch.nan)
        return result

    def _copy(self, target: Tensor, source: Tensor) -> Tensor:
        stream = self.current[self.device]
        if stream.end < self.compute[self.network].end - 1e-12 and stream is not self.compute[self.network]:
            self.races.append(f"a copy starts at {stream.end:.4f} s, before its source is computed")
        stream.end += source.numel() * source.element_size() / BYTES_PER_SECOND
        self.copies.append((target, source, stream))
        self.unkept[id(source)] = "memory that is copied is not kept for the stream of the copy"
        return target

    def finish(self, stream: Stream, count: int) -> None:
        """Carry out those of the first `count` copies that are on `stream`."""
        self.races.extend(self.unkept.values())
        self.unkept.clear()
        for number, copy in enumerate(self.copies[:count]):
            if copy is not None and copy[2] is stream:
                with torch.inference_mode():
                    copy[0].copy_(copy[1])
                self.copies[number] = None


def is_gpu(value: object) -> bool:
    """Return whether an argument names a GPU."""
    return isinstance(value, str | torch.device) and str(value).partition(":")[0] == "cuda"


def make_event(cuda: PretendCuda) -> type:
    """Return the class of events of these GPUs."""

    class Event:
        def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
            self.blocking = blocking

        def record(self, stream: Stream | None = None) -> None:
            self.stream = stream or cuda.current[cuda.device]
            self.at, self.count = self.stream.end, len(cuda.copies)

        def wait(self, stream: Stream | None = None) -> None:
            waiting = stream or cuda.current[cuda.device]
            waiting.end = max(waiting.end, self.at)

        def synchronize(self) -> None:
            cuda.calls["blocking" if self.blocking else "spinning"] += 1
            cuda.finish(self.stream, self.count)

        def query(self) -> bool:
            return True

        def elapsed_time(self, other: "Event") -> float:
            return 1000 * (other.at - self.at)

    return Event


@contextmanager
def pretend_cuda(network: Any = "cuda") -> Iterator[PretendCuda]:
    """Run the code of the context as if there were GPUs; the network is on the GPU `network`."""
    cuda = PretendCuda(network)

    @contextmanager
    def use_stream(stream: Stream) -> Iterator[None]:
        before = cuda.device, cuda.current[stream.device]
        cuda.device, cuda.current[stream.device] = stream.device, stream
        yield
        cuda.device, cuda.current[stream.device] = before

    @contextmanager
    def use_device(device: Any) -> Iterator[None]:
        before, cuda.device = cuda.device, find_index(device)
        yield
        cuda.device = before

    def note(name: str, result: Any = None) -> Callable[..., Any]:
        return lambda *_, **__: (cuda.calls.update([name]), result)[1]

    patches = {
        "Event": make_event(cuda), "Stream": Stream, "stream": use_stream, "device": use_device,
        "current_stream": lambda device=None: cuda.current[cuda.device if device is None else find_index(device)],
        "is_available": lambda: True, "device_count": lambda: 8, "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: (9, 0), "get_arch_list": lambda: ["sm_90"],
        "mem_get_info": lambda *_: (80 << 30, 80 << 30),
    } | {
        name: note(name, result)
        for name, result in {
            "empty_cache": None, "synchronize": None, "set_sync_debug_mode": None, "set_per_process_memory_fraction": None,
            "_sleep": None, "max_memory_reserved": 3 << 30, "max_memory_allocated": 2 << 30, "reset_peak_memory_stats": None,
        }.items()
    }  # fmt: skip
    autocast = torch.autocast
    with ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(Tensor, "record_stream", lambda source, _: cuda.unkept.pop(id(source), None)))
        stack.enter_context(mock.patch.object(torch, "autocast", lambda kind, dtype: autocast("cpu", dtype)))
        stack.enter_context(cuda)
        yield cuda
