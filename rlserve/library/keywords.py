"""Keyword arguments as values of a configuration: ``lr=1e-5`` is ``learner.lr``, ``learner={"lr": 1e-5}`` a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve import plugins
from rlserve.config.algorithms import SECTIONS
from rlserve.config.base import Section
from rlserve.config.load import merge
from rlserve.config.run import RunConfig
from rlserve.config.schema import places_of
from rlserve.errors import ConfigError

DATA = "dataset"
"""The environment behind the keyword ``data``."""


def configured(keywords: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """Values of a configuration; an unknown keyword becomes an unknown key, which validation explains.

    ``algorithm``: the type whose settings may be given by their names alone. Raises ConfigError for a name that is a
    key of several tables.
    """
    values: dict[str, Any] = {}
    for name, value in keywords.items():
        nested: Any = plain(value)
        for part in reversed(_key(name, algorithm).split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    return values


def plain(value: Any) -> Any:
    """Sections as tables, paths as text, tuples as lists."""
    if isinstance(value, Section):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def split_off_data(keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are options of the environment behind ``data``, and the others."""
    options = plugins.parameters_of(plugins.ENVIRONMENT_GROUP, DATA)
    # A run has a name, too; and `verifier` is a table of the run, unless it is the name of one.
    taken = set(RunConfig.model_fields) | {"path"}
    chosen = {
        name: value
        for name, value in keywords.items()
        if name in options and (name not in taken or (name == "verifier" and isinstance(value, str)))
    }
    return chosen, {name: value for name, value in keywords.items() if name not in chosen}


def _key(name: str, algorithm: str) -> str:
    if name in RunConfig.model_fields or "." in name:
        return name
    places = places_of(RunConfig, name)
    if algorithm in SECTIONS and name in SECTIONS[algorithm].model_fields:
        places.append(f"algorithm.{name}")
    if len(places) > 1:
        first = places[0].partition(".")
        raise ConfigError(
            f"{name}: is a key of several tables ({', '.join(places)}); give one, e.g. {first[0]}={{{first[2]!r}: ...}}"
        )
    return places[0] if places else name
