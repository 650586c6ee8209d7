"""The manifest of one published version of the weights."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, shape, dtype and digest of one tensor."""

    name: str
    """Hugging Face parameter name."""
    shape: tuple[int, ...]
    dtype: str
    """``"float32"``, ``"bfloat16"`` or ``"float16"``."""
    digest: str
    """Checksum of the little-endian bytes, see ``weight_sync.checksum``."""
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """The manifest of one version of the policy."""

    version: int
    """Number of optimizer steps that made these weights; 0 is the start checkpoint."""
    tensors: tuple[TensorSpec, ...]
    digest: str
    """Digest of all tensors together, see ``rlserve.weight_sync.manifest``."""
    parent_version: int | None = None
    """Version that a delta starts from; None when only a full copy exists."""
    published_unix_seconds: float = 0.0
    run_id: str = ""
    is_final: bool = False

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(t.num_bytes for t in self.tensors)
