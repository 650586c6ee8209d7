"""Loads a taskset once per process, by its id and configuration."""

import itertools
import json
from functools import lru_cache
from typing import Any

from rlserve.errors import InvalidRequest

MAX_TASKS = 1_000_000
"""Of an endless taskset; bounds memory."""


def tasks_of(taskset: str, options: dict[str, Any]) -> tuple[Any, ...]:
    """Every task, in the taskset's order; of an endless one the first ``limit`` of its options, or MAX_TASKS.

    Raises InvalidRequest for a taskset that is not installed or does not accept its options.
    """
    # As text, since the cache needs a key that can be hashed.
    return _load(taskset, json.dumps(options, sort_keys=True))


@lru_cache(maxsize=16)
def _load(taskset: str, options: str) -> tuple[Any, ...]:
    # Imported here: the library takes seconds, and this module is imported to describe the plug-in.
    from verifiers.v1.configs.taskset import TasksetConfig
    from verifiers.v1.utils.generic import concrete_type
    from verifiers.v1.utils.loaders import taskset_class

    given = json.loads(options)
    limit = int(given.pop("limit", MAX_TASKS))
    try:
        kind = taskset_class(taskset)
        config = (concrete_type(kind, TasksetConfig) or TasksetConfig)(**{**given, "id": taskset})
        tasks = tuple(itertools.islice(kind(config), limit))
    # What a wrong id, a module without a taskset, or options that its pydantic configuration refuses raise.
    except (ModuleNotFoundError, AttributeError, TypeError, ValueError) as error:
        raise InvalidRequest(f"taskset: {taskset!r} cannot be loaded: {error}") from error
    if not tasks:
        raise InvalidRequest(f"taskset: {taskset!r} has no tasks")
    return tasks
