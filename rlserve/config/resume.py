"""Keys that may not change when a run is resumed, because its optimizer and its weights depend on them.

The keys that its stored groups depend on are in ``rlserve.store.binding``.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError

FIXED: Mapping[str, str] = {
    "algorithm.type": "the optimizer's state and the stored groups belong to it",
    "model.path": "the run continues from its own checkpoint",
    "learner.lora": "the optimizer's state and the adapters belong to it",
    "pretrain": "the run continues from its own checkpoint",
    "sft": "the run continues from its own checkpoint",
}
"""Keys, and the reason why each is fixed."""


def refuse_changes(before: RunConfig, after: RunConfig) -> None:
    """Raises one ConfigError that names every fixed key in which the two differ."""
    if problems := list(_changes(before, after)):
        raise ConfigError("\n".join(problems))


def _changes(before: RunConfig, after: RunConfig) -> Iterator[str]:
    # Dumped, so that a default and the same value written out count as equal.
    old, new = before.model_dump(), after.model_dump()
    for key, why in FIXED.items():
        was, now = _at(old, key), _at(new, key)
        if was == now:
            continue
        change = f"would become {now!r}, but the run began with {was!r}" if _is_plain(was, now) else "would change"
        yield f"{key}: {change}, and {why}; leave it as it is, or start a new run under another name"


def _at(values: Mapping[str, Any], key: str) -> Any:
    return reduce(lambda inside, part: inside[part], key.split("."), values)


def _is_plain(*values: Any) -> bool:
    return not any(isinstance(value, Mapping) for value in values)
