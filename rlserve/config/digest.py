"""Which configuration a run was started with: actors compare, so that none works by another one."""

import hashlib
import os
from pathlib import Path

from rlserve.errors import ConfigError

DIGEST = "RLSERVE_CONFIG_DIGEST"
"""Environment variable by which a launcher tells its actors the digest of ``config.toml``."""


def digest_of(text: bytes) -> str:
    """Digest of the text of a configuration."""
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def check_digest(path: Path) -> None:
    """Raises ConfigError when ``path`` is not what the launcher started the run with; by hand there is none to ask."""
    expected = os.environ.get(DIGEST)
    if expected and digest_of(path.read_bytes()) != expected:
        raise ConfigError(
            f"config: {str(path)!r} was changed while the run goes on, and this actor would work by another "
            "configuration than the others; stop the run, then continue with rlserve run --resume"
        )
