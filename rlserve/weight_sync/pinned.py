"""Pages that a GPU may copy from and to by itself, without the driver's staging buffer."""

import contextlib
import logging
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)


def pin(content: npt.NDArray[np.uint8]) -> bool:
    """Register mapped memory with the CUDA driver; False where that fails, and copies are slower then."""
    import torch

    driver: Any = torch.cuda.cudart()
    problem = int(driver.cudaHostRegister(content.ctypes.data, content.nbytes, 0))
    if not problem:
        return True
    size = content.nbytes
    logger.warning("the CUDA driver cannot lock %d bytes of weights (error %d): copies are slower", size, problem)
    # The driver reports its last error once more to whoever asks next; an operation of no consequence asks here.
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")
    return False


def unpin(content: npt.NDArray[np.uint8]) -> None:
    """Undo ``pin``, before the memory is unmapped."""
    import torch

    driver: Any = torch.cuda.cudart()
    driver.cudaHostUnregister(content.ctypes.data)
