"""Batches through the network: halved where memory runs out, checked before the cast, the same on every device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import BuildError
from posenet_store.extraction import forward as forward_module
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.forward import Forward, PendingBatch, allocate_arrays, choose_batch_size
from posenet_store.extraction.timing import StageTimer
from posenet_store.images.sources import load_image_set
from posenet_store.specs import Preprocess, Tap
from tests.support.small import contents, tiny_backbone, write_images

ARRAYS = {"f1": (3, 4, 4)}


SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),  # outside of torch's allocator
    RuntimeError("GET was unable to find an engine to execute this computation"),  # cuDNN: no plan had room
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
)


class _Small(nn.Module):
    """A device on which `room` images fit."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.image, self.room, self.error, self.sizes = nn.Identity(), room, error, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.error
        output: Tensor = self.image(images)
        return output


def small(room: int, error: Exception = SHORTAGES[0]) -> tuple[Backbone, _Small]:
    module, taps = _Small(room, error), (Tap("f1", "image", (3, 4, 4)),)
    preprocess = Preprocess(4, 1.0, (0.0,) * 3, (1.0,) * 3)
    return Backbone("small", "", "00", "", taps, preprocess, module, torch.device("cpu")), module


def launched(forward: Forward, pixels: Tensor, readable: Tensor | None = None, dtype: str = "float32") -> Tensor:
    targets = allocate_arrays(ARRAYS, len(pixels), dtype, pinned=False)
    readable = torch.ones(len(pixels), dtype=torch.bool) if readable is None else readable
    for flight in forward.launch(pixels, readable, targets):
        flight.wait()
    return targets["f1"]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: str(error)[:30])
def test_a_batch_is_halved_until_it_fits_and_later_ones_begin_there(error: Exception) -> None:
    backbone, module = small(room=3, error=error)
    forward, pixels = Forward(backbone, ARRAYS, StageTimer()), torch.randint(0, 256, (10, 4, 4, 3), dtype=torch.uint8)
    for _ in range(2):
        assert torch.equal(launched(forward, pixels), pixels.permute(0, 3, 1, 2).float())
    assert module.sizes == [10, 5, 2, 2, 2, 2, 2] + [2] * 5
    assert forward.limit == 2


def test_a_batch_that_was_halved_grows_again_once_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_module, "PATIENCE", 4)
    backbone, module = small(room=3)
    forward, pixels = Forward(backbone, ARRAYS, StageTimer()), torch.randint(0, 256, (8, 4, 4, 3), dtype=torch.uint8)
    launched(forward, pixels)
    assert (module.sizes, forward.limit) == ([8, 4, 2, 2, 2, 2], 4)
    module.room = 99
    for _ in range(3):
        assert torch.equal(launched(forward, pixels), pixels.permute(0, 3, 1, 2).float())
    assert module.sizes[6:] == [4, 4, 4, 4, 8]


def test_memory_that_does_not_suffice_for_one_image_is_an_error_that_says_so() -> None:
    with pytest.raises(BuildError, match=r"the memory of cpu does not suffice for one image .*Tried to allocate"):
        launched(Forward(small(room=0)[0], ARRAYS, StageTimer()), torch.zeros(4, 4, 4, 3, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="shapes differ"):
        launched(Forward(small(0, RuntimeError("shapes differ"))[0], ARRAYS, StageTimer()), torch.zeros(4, 4, 4, 3).byte())


def test_a_build_that_runs_out_of_memory_in_the_middle_is_the_store_of_smaller_batches(tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 14)))
    (backbone, module), (roomy, _) = small(room=99), small(room=99)
    plan = plan_store(images, backbone, "native", "float32", 8)

    def shrink(count: int) -> None:
        module.room = 2  # another process takes the memory

    store = build_store(images, backbone, plan, tmp_path / "one", batch_size=8, advance=shrink).path
    assert max(module.sizes) == 8
    assert module.sizes[-1] <= 2
    assert contents(store) == contents(build_store(images, roomy, plan, tmp_path / "two", batch_size=2).path)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_rows_without_an_image_are_not_judged(memory: torch.memory_format) -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            actual: Tensor = self.image((images * 1000).contiguous(memory_format=memory))
            return actual

    backbone, _ = small(room=9)
    forward = Forward(replace(backbone, module=Loud()), ARRAYS, StageTimer())
    pixels = torch.full((3, 4, 4, 3), 2, dtype=torch.uint8)
    pixels[1, 3, 2, 1] = 255
    readable = torch.tensor([True, False, True])
    assert launched(forward, pixels, readable, "float16")[[0, 2]].unique().tolist() == [2000.0]
    assert len(launched(forward, pixels, torch.zeros(3, dtype=torch.bool), "float16")) == 3
    with pytest.raises(BuildError, match=r"tap f1 reaches 2\.55e\+05"):
        launched(forward, pixels, dtype="float16")


def test_a_batch_is_sixteen_on_a_processor_and_a_block_on_cuda() -> None:
    backbone, _ = small(room=1)
    assert choose_batch_size(backbone, 64) == 16
    assert choose_batch_size(replace(backbone, device=torch.device("cuda")), 64) == 64


def test_the_tiny_network_of_the_tests_runs_through_it() -> None:
    backbone = tiny_backbone()
    shapes = {tap.name: tap.shape for tap in backbone.taps}
    targets = allocate_arrays(shapes, 3, "float16", pinned=False)
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    (flight,) = Forward(backbone, shapes, StageTimer()).launch(pixels, torch.ones(3, dtype=torch.bool), targets)
    flight.wait()
    for name, value in backbone.features(pixels).items():
        assert torch.equal(targets[name], value.half())


def test_a_pass_on_cuda_is_made_on_the_networks_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are recorded on the current GPU: on another than the network's they would not wait for its features."""
    current: list[object] = [torch.device("cuda:0")]

    @contextmanager
    def make_current(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", make_current)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: device)
    backbone = replace(small(room=4)[0], device=torch.device("cuda:1"))
    forward, clock = Forward(backbone, ARRAYS, StageTimer()), StageTimer()
    used: list[object] = []

    def run(*batch: object) -> PendingBatch:
        used.append(current[-1])
        return PendingBatch((), "float32", torch.zeros(0, 2), clock)

    monkeypatch.setattr(forward, "_run_on_cuda", run)
    forward.launch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.ones(2, dtype=torch.bool), {})
    assert used == [torch.device("cuda:1")]
    assert current == [torch.device("cuda:0")]
