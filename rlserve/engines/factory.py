"""The engines by name, and the one place that chooses among them (``rollout.engine``)."""

import importlib
from collections.abc import Mapping
from typing import Any

from rlserve.engines.base import RolloutEngine
from rlserve.errors import ConfigError
from rlserve.nearest import known_names

ENGINES: Mapping[str, str] = {
    "vllm": "rlserve.engines.vllm.engine:VllmEngine",
}
"""``module:class`` of each rollout engine. Text, so that a host imports only the engine it runs."""

OPTION_CHECKS: Mapping[str, str] = {
    "vllm": "rlserve.engines.vllm.options:check_given",
}
"""What looks at the ``rollout.options`` of an engine, without importing it; those of others are looked at by itself."""


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError, which names the option, unless the engine takes these options."""
    if options and name in OPTION_CHECKS:
        imported(OPTION_CHECKS, name, key="rollout.engine")(options)


def engine_class(name: str) -> type[RolloutEngine]:
    """The class of a rollout engine. Imports its module. Raises ConfigError for an unknown name."""
    found: type[RolloutEngine] = imported(ENGINES, name, key="rollout.engine")
    return found


def check_engine(engines: Mapping[str, str], name: str, *, key: str) -> None:
    """Raise ConfigError, which blames the configuration's ``key``, unless the engine exists."""
    if name not in engines:
        raise ConfigError(f"{key}: {name!r} is unknown{known_names(name, engines)}")


def imported(engines: Mapping[str, str], name: str, *, key: str) -> Any:
    """What the ``module:attribute`` of an engine names. Raises ConfigError as ``check_engine`` does."""
    check_engine(engines, name, key=key)
    module, _, attribute = engines[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
