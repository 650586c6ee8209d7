"""Memory of a GPU that two processes of one host share: the learner writes a version there, an engine reads it. And
memory of the host that a GPU copies from and to by itself (``pin``).

What crosses the process border is a ``DeviceMemory``: plain bytes that the CUDA driver makes and opens, never a pickle.
Memory of the host, by a name in ``/dev/shm``, stands in where there is no GPU: the same protocol runs on both.

The memory is asked of the driver itself, not of torch, whose pool hands out parts of larger pieces.
"""

import ctypes
import logging
import mmap
import os
import weakref
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rlserve.errors import WeightsMismatch
from rlserve.weight_sync.host import SHARED_MEMORY, host_id
from rlserve.weight_sync.own_directory import OwnDirectory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

logger = logging.getLogger(__name__)

HOST = "host"
"""Names of devices begin with this, or with the following."""
CUDA = "cuda"
SPARE_BYTES = 2**30
"""Left free on a GPU beside the memory: training and generation allocate a little now and then."""
HANDLE_BYTES = 64
"""Size of a ``CUipcMemHandle``."""
LAZY_PEER_ACCESS = 1
"""``CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS``, the only flag that opening a handle takes."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Where a version's bytes are, for another process of this host."""

    device: str
    """``device_name`` of the device."""
    handle: bytes
    """What opens it there."""
    size: int


def device_name(device: "torch.device") -> str:
    """Equal for two processes that see one device."""
    if device.type != CUDA:
        return f"{HOST}:{host_id()}"
    import torch

    return f"{CUDA}:{torch.cuda.get_device_properties(device).uuid}"


def pin(content: npt.NDArray[np.uint8]) -> bool:
    """Lock mapped memory of the host for the current GPU's copies; False where that fails: copies are slower then."""
    try:
        _use_current_gpu()
        _call("cuMemHostRegister_v2", ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.nbytes), 0)
    except OSError as error:
        logger.warning("%d bytes of weights cannot be locked, copies of them are slower: %s", content.nbytes, error)
        return False
    return True


def unpin(content: npt.NDArray[np.uint8]) -> None:
    """Undo ``pin``, before the memory is unmapped."""
    _call("cuMemHostUnregister", ctypes.c_void_p(content.ctypes.data))


class SharedMemory:
    """Memory that this process made; freed with it, or with ``close``."""

    def __init__(self, device: "torch.device", size: int) -> None:
        """Raises OSError when the device has no room."""
        memory = (_OnGpu if device.type == CUDA else _OnHost).made(device, size)
        self.content: Tensor = memory.tensor(device)
        """``[size]`` uint8 on the device."""
        self.memory = DeviceMemory(device_name(device), memory.handle, size)
        self._own = memory

    def close(self) -> None:
        """Free it."""
        del self.content
        self._own.free()


class Mappings:
    """Memory of another process, opened here; the last one stays open, since the next version comes in the same."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self._open: tuple[DeviceMemory, _OnGpu | _OnHost] | None = None

    def content(self, memory: DeviceMemory) -> "Tensor":
        """``[size]`` uint8 on the device. Raises WeightsMismatch when it cannot be opened here."""
        if memory.device != device_name(self._device):
            raise WeightsMismatch(f"weights: the memory is of device {memory.device[:60]!r}, not of this one")
        if self._open is None or self._open[0] != memory:
            self.close()
            try:
                kind = _OnGpu if self._device.type == CUDA else _OnHost
                self._open = memory, kind.opened(memory, self._device)
            except (OSError, ValueError) as error:
                raise WeightsMismatch(f"weights: the learner's memory cannot be opened here ({error})") from error
        return self._open[1].tensor(self._device)

    def close(self) -> None:
        """Unmap it. No tensor of ``content`` may be used afterwards."""
        opened, self._open = self._open, None
        if opened is not None:
            opened[1].free()


class _OnHost:
    """A file in shared memory, mapped."""

    def __init__(self, pages: mmap.mmap, handle: bytes, own: OwnDirectory | None) -> None:
        self._pages, self._own = pages, own
        self.handle = handle

    @classmethod
    def made(cls, device: "torch.device", size: int) -> "_OnHost":
        own = OwnDirectory.below(SHARED_MEMORY)
        descriptor = own.create("memory")
        try:
            os.posix_fallocate(descriptor, 0, size)
            return cls(mmap.mmap(descriptor, size), os.fsencode(own.path / "memory"), own)
        except BaseException:
            own.close()
            raise
        finally:
            os.close(descriptor)

    @classmethod
    def opened(cls, memory: DeviceMemory, device: "torch.device") -> "_OnHost":
        path = Path(os.fsdecode(memory.handle))
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if os.fstat(descriptor).st_size != memory.size:
                raise ValueError(f"{path} has another size")
            # Writable, since torch has no tensors that may not be written; no code writes here.
            pages = mmap.mmap(descriptor, memory.size)
        finally:
            os.close(descriptor)
        return cls(pages, memory.handle, None)

    def tensor(self, device: "torch.device") -> "Tensor":
        import torch

        return torch.frombuffer(self._pages, dtype=torch.uint8)

    def free(self) -> None:
        if self._own is not None:
            self._own.close()


class _OnGpu:
    """Memory that the CUDA driver gave, or opened."""

    def __init__(self, address: int, handle: bytes, size: int, release: str) -> None:
        self.handle = handle
        # Read by torch, which keeps this object as long as a tensor uses the memory.
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }
        self._free = weakref.finalize(self, _call, release, ctypes.c_uint64(address))
        # At exit the driver frees everything, and may be gone already.
        self._free.atexit = False

    @classmethod
    def made(cls, device: "torch.device", size: int) -> "_OnGpu":
        import torch

        with torch.cuda.device(device):
            free, _ = _use_current_gpu()
        if free < size + SPARE_BYTES:
            raise OSError(f"{device} has {free} bytes free, and {size} are needed beside {SPARE_BYTES}")
        address, handle = ctypes.c_uint64(), _Handle()
        _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        made = cls(address.value, b"", size, "cuMemFree_v2")
        _call("cuIpcGetMemHandle", ctypes.byref(handle), address)
        made.handle = bytes(handle.reserved)
        return made

    @classmethod
    def opened(cls, memory: DeviceMemory, device: "torch.device") -> "_OnGpu":
        import torch

        if len(memory.handle) != HANDLE_BYTES:
            raise ValueError(f"a handle of {len(memory.handle)} bytes")
        with torch.cuda.device(device):
            _use_current_gpu()
        address, handle = ctypes.c_uint64(), _Handle()
        ctypes.memmove(ctypes.byref(handle), memory.handle, HANDLE_BYTES)
        _call("cuIpcOpenMemHandle_v2", ctypes.byref(address), handle, ctypes.c_uint(LAZY_PEER_ACCESS))
        return cls(address.value, memory.handle, memory.size, "cuIpcCloseMemHandle")

    def tensor(self, device: "torch.device") -> "Tensor":
        import torch

        return torch.as_tensor(self, device=device)

    def free(self) -> None:
        """Freed with the last tensor that uses it."""


def _use_current_gpu() -> tuple[int, int]:
    """Make the GPU's context that of this thread, which the driver's own calls need; its free and total bytes."""
    import torch

    return torch.cuda.mem_get_info()


class _Handle(ctypes.Structure):
    """``CUipcMemHandle``, which the driver takes by value."""

    _fields_ = (("reserved", ctypes.c_ubyte * HANDLE_BYTES),)


def _call(name: str, *arguments: Any) -> None:
    if status := getattr(_driver(), name)(*arguments):
        raise OSError(f"the CUDA driver's {name} failed with {status}")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
