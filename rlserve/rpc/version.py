"""What two actors must have in common to understand each other: the version of rlserve, and its protocol."""

import functools
import hashlib
import importlib
import pkgutil

import rlserve
import rlserve.v1


@functools.cache
def version() -> str:
    """For example ``"0.1.0 (protocol 3f2a9c41d0b7)"``; the second part changes with any ``.proto`` file."""
    digest = hashlib.sha256()
    for module in sorted(found.name for found in pkgutil.iter_modules(rlserve.v1.__path__)):
        if module.endswith("_pb2"):
            digest.update(importlib.import_module(f"rlserve.v1.{module}").DESCRIPTOR.serialized_pb)
    return f"{rlserve.__version__} (protocol {digest.hexdigest()[:12]})"
