"""Chooses the Python that runs in the boxes and finds its third-party packages.

By default it is the running interpreter without packages; an operator may name another one, which keeps its packages.
A virtual environment has no interpreter of its own: boxes start its base and see its packages. Directories named in
``.pth`` files count as packages too; code in ``.pth`` files is not run.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rlserve.sandbox.walls.tiers import real_python

MAX_PTH_BYTES = 65536
"""Any value of this size will do: a ``.pth`` file has a few lines."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python interpreter for the boxes."""

    path: str
    """The interpreter itself: no link, no version manager's script."""
    packages: Sequence[str] = ()
    """Directories of third-party packages."""


def interpreter_of(python: str = "") -> Interpreter:
    """The interpreter at the path ``python``; for an empty path this interpreter, without packages."""
    if not python:
        return Interpreter(real_python())
    path = os.path.abspath(python)
    home = os.path.dirname(os.path.dirname(path))
    real = os.path.realpath(path)
    base = os.path.dirname(os.path.dirname(real))
    settings = _environment(home)
    homes = [home, *([base] if settings.get("include-system-site-packages") == "true" else [])] if settings else [base]
    return Interpreter(real, _packages(homes))


def _environment(home: str) -> dict[str, str]:
    """The settings of a virtual environment; empty for a directory that is not one."""
    try:
        with open(os.path.join(home, "pyvenv.cfg"), encoding="utf-8") as file:
            lines = [line.partition("=") for line in file]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in lines}


def _packages(homes: Sequence[str]) -> Sequence[str]:
    found: dict[str, None] = {}
    for home in homes:
        for name in ("site-packages", "dist-packages"):
            for directory in sorted(glob.glob(f"{glob.escape(home)}/lib*/python3*/{name}")):
                found[os.path.realpath(directory)] = None
                found |= dict.fromkeys(_named_in(directory))
    return list(found)


def _named_in(directory: str) -> Sequence[str]:
    """The directories named by the ``.pth`` files of a directory."""
    found = []
    for path in sorted(glob.glob(f"{glob.escape(directory)}/*.pth")):
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(MAX_PTH_BYTES).splitlines()
        # Lines that begin with "import" are code for the module site; joined to a directory they name no directory.
        named = [os.path.join(directory, line.strip()) for line in lines if line.strip() and line[0] not in "#"]
        found += [os.path.realpath(place) for place in named if os.path.isdir(place)]
    return found
