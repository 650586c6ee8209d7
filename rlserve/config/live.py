"""Keys that may change while a run goes on: ``rlserve set`` writes them into the run directory, the learner reads them
before each step, and a resume finds them in ``config.toml``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from rlserve.config.load import merge, parse_override, validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.nearest import nearest

LIVE = (
    "steps",
    "stop_reward",
    "stop_groups",
    "learner.lr",
    "learner.ess_warn",
    "evaluate.every_steps",
    "evaluate.patience",
    "checkpoint.every_steps",
)
"""What the training loop alone reads; other actors keep the configuration with which they started."""

Changes = Mapping[str, Any]
"""Values by dotted key."""


def parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """``["learner.lr=1e-5"]`` as changes. Raises ConfigError for a key that may not change in a running run."""
    return dict(change for text in overrides for change in _leaves(parse_override(text)))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
            continue
        if key not in LIVE:
            near = nearest(key, LIVE)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ConfigError(
                f"{key}: cannot change while a run goes on{hint} (what can: {', '.join(LIVE)}); for another key stop "
                f"the run, then rlserve run --resume RUN --set {key}=VALUE"
            )
        yield key, value


def applied(config: RunConfig, changes: Changes) -> RunConfig:
    """The configuration with the changes. Raises ConfigError when it cannot work."""
    values = config.model_dump(exclude_none=True)
    for key, value in changes.items():
        values = merge(values, reduce(lambda inside, part: {part: inside}, reversed(key.split(".")), value))
    return validate(RunConfig, values)


def differences(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Live keys in which the two differ, with both values."""
    pairs = {key: (_at(before, key), _at(after, key)) for key in LIVE}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def _at(config: RunConfig, key: str) -> Any:
    return reduce(getattr, key.split("."), config)


def read_changes(path: Path) -> dict[str, Any]:
    """The changes in a file of ``rlserve set``; empty without one. Raises ConfigError for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.name}: cannot be read ({error}); delete it, or use rlserve set again") from None
    if not isinstance(values, dict) or (odd := set(values) - set(LIVE)):
        raise ConfigError(f"{path.name}: has {sorted(odd) if isinstance(values, dict) else values!r}; use rlserve set")
    return values
