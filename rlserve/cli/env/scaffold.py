"""Writes a small working package: one class, one entry point, one test."""

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
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"name: is {name!r}; give lower-case letters, digits and underscores, a letter first")
    # Of two packages with one name in a group none is loaded: the plug-in's owner would be ambiguous.
    if name in plugins.names(group):
        raise InvalidRequest(f"name: {name!r} is already registered here; give another name")
    if directory.exists():
        raise InvalidRequest(f"directory: {str(directory)!r} exists already; give another with --directory")
    words = {
        "name": name,
        # Distribution names have dashes by custom (PEP 503 treats both alike); modules need underscores.
        "dashed": name.replace("_", "-"),
        "module": f"rlserve_{name}",
        "class_name": "".join(part.title() for part in name.split("_")) + kind,
        "group": group,
        "description": description,
    }
    for path, text in {"pyproject.toml": PYPROJECT, **files}.items():
        target = directory / fill(path, words)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(fill(text, words), encoding="utf-8")
    return directory


def fill(text: str, words: Mapping[str, str]) -> str:
    """Replace ``{word}`` for each key of ``words``; other braces are kept."""
    # Not str.format: the templates are Python source, full of braces of its own.
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), text)
