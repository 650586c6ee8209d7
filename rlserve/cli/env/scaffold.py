"""Writes a small working package (one class, one entry point, one test), or files alone."""

import re
from collections.abc import Mapping
from pathlib import Path

from rlserve import plugins
from rlserve.errors import InvalidRequest

PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "rlserve-{dashed}"
version = "0.1.0"
description = "{description}"
requires-python = ">=3.11"
dependencies = ["rlserve"]

[project.entry-points."{group}"]
{name} = "{module}:{class_name}"

[tool.setuptools]
py-modules = ["{module}"]
"""
NAME = re.compile(r"[a-z][a-z0-9_]{1,40}")


def write_package(
    name: str, directory: Path, *, group: str, kind: str, description: str, files: Mapping[str, str]
) -> Path:
    """A new directory with ``pyproject.toml`` and ``files``; returns it.

    In each text ``{name}``, ``{module}`` and ``{class_name}`` are filled in. Raises InvalidRequest for a malformed or
    already registered name, or an existing directory.
    """
    check_name(name)
    # Of two packages with one name in a group none is loaded: the plug-in's owner would be ambiguous.
    if name in plugins.names(group):
        raise InvalidRequest(f"name: {name!r} is already registered here; give another name")
    words = {
        # Distribution names have dashes by custom (PEP 503 treats both alike); modules need underscores.
        "dashed": name.replace("_", "-"),
        "module": f"rlserve_{name}",
        "class_name": "".join(part.title() for part in name.split("_")) + kind,
        "group": group,
        "description": description,
    }
    return write_files(name, directory, files={"pyproject.toml": PYPROJECT, **files}, **words)


def write_files(name: str, directory: Path, *, files: Mapping[str, str], **words: str) -> Path:
    """A new directory with ``files``, in which ``{name}`` and each of ``words`` is filled in; returns it.

    Raises InvalidRequest for a malformed name or an existing directory.
    """
    check_name(name)
    if directory.exists():
        raise InvalidRequest(f"directory: {str(directory)!r} exists already; give another with --directory")
    for path, text in files.items():
        target = directory / fill(path, {"name": name, **words})
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(fill(text, {"name": name, **words}), encoding="utf-8")
    return directory


def check_name(name: str) -> None:
    """Raise InvalidRequest for a malformed name."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"name: is {name!r}; give lower-case letters, digits and underscores, a letter first")


def fill(text: str, words: Mapping[str, str]) -> str:
    """Replace ``{word}`` for each key of ``words``; other braces are kept."""
    # Not str.format: the templates are Python source, full of braces of its own.
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), text)
