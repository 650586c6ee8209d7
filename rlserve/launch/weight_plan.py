"""Room that published weights need on this machine, printed before a run."""

from pathlib import Path

from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.weight_sync.host import SHARED_MEMORY
from rlserve.weight_sync.weight_files import COPIES, free_bytes

GIB = 2**30  # bytes


def weight_plan(config: RunConfig, paths: RunPaths, *, shared: Path = SHARED_MEMORY) -> str:
    """One line: how much room weights take, where they go, and how to change that."""
    free = free_bytes(shared)
    size = checkpoint_bytes(Path(config.model.path)) if config.model.path else 0
    need = f"{COPIES} x {size / GIB:.2f} GiB (as the checkpoint has them)" if size else f"{COPIES} x their size"
    fits = f"{shared} ({free / GIB:.2f} GiB free)"
    if not size:
        return f"weights: {need} in {fits}, else in {paths.root}"
    if COPIES * size <= free:
        return f"weights: {need} in {fits}"
    return f"weights: {need} in {paths.root}, for {fits} is too small; in a container give it --shm-size"


def checkpoint_bytes(directory: Path) -> int:
    """Bytes of the weights in a checkpoint directory; 0 when it is none."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors")) if directory.is_dir() else 0
