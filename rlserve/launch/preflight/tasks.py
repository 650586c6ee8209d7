"""Checks environments and corpora: makes them as the run will, and tries some tasks of each split."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlserve import plugins
from rlserve.actors.environment.rewarded import options_of, rewarded
from rlserve.config.run import RunConfig
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.config.tables.pretrain import CorpusConfig
from rlserve.errors import PluginFailed, UnknownName
from rlserve.launch.preflight.finding import Finding
from rlserve.nearest import known_names
from rlserve.plugins import ENVIRONMENT_GROUP, Environment, describe_exception
from rlserve.records import Task

TASKS_TRIED = 64
"""Tasks tried of a split, spread evenly over a finite one: enough to meet a fault that every tenth task has."""
NOTHING_TO_MEASURE = (
    "; give it one (options.test_path, of data sets also test_split or test_fraction), or set evaluate.problems = 0 to "
    "measure nothing"
)
UNJUDGED = (
    "gives tasks that nothing judges; name the column of the right answer (options.answer_key of data sets), a "
    'verifier, or a function of yours (reward = "FILE.py:NAME")'
)
SECONDS_TRIED = 2.0
"""Tasks of a slow environment are tried for this long only: a user waits for the start."""


@dataclass(slots=True)
class Taken:
    """Tasks of one split of one environment."""

    index: int
    """Index of the environment in the configuration."""
    split: str
    tasks: list[Task] = field(default_factory=list)
    answer: str = ""
    """A right completion of the first task, if the environment can demonstrate."""


def look_at_environment(config: RunConfig, index: int, taken: list[Taken]) -> Iterator[Finding]:
    """Faults of ``environments.<index>``; its tasks are added to ``taken``."""
    section = config.rewarded_environments[index]
    where = f"environments.{index}"
    key = f"{where}.{'plugin' if section.plugin else 'name'}"
    options = _options(section)
    environment, problem = _made(section.plugin or section.name, options, key, f"{where}.options")
    if problem:
        yield Finding(problem)
        return
    if not isinstance(environment, Environment):
        yield Finding(
            f"{key}: {section.name!r} lacks name, version, verifier, splits or task(); see environments/README"
        )
        return
    # As the environment server does: tasks carry the name in the mixture.
    environment.name = section.name
    if section.verifier:
        environment = rewarded(environment, section.verifier)
    try:
        # A property of a plug-in: it may read files, and raise.
        splits = dict(environment.splits)
    except Exception as error:
        yield Finding(f"{where}: {section.name!r} raised in `splits`: {describe_exception(error)}")
        return
    for split_key, split in _wanted(config, section, where):
        if split not in splits:
            known = known_names(split, splits)
            hint = NOTHING_TO_MEASURE if split_key.endswith("eval_split") else ""
            yield Finding(f"{split_key}: {section.name!r} has no split {split!r}{known}{hint}")
            continue
        found = Taken(index, split)
        taken.append(found)
        if problem := _take(environment, splits[split], found):
            yield Finding(f"{where}: {section.name!r} {problem}")


def _options(section: EnvironmentConfig) -> Mapping[str, Any]:
    try:
        return options_of(section)
    except (UnknownName, PluginFailed):
        return section.options  # its making tells the same


def _wanted(config: RunConfig, section: EnvironmentConfig, where: str) -> Iterator[tuple[str, str]]:
    """(key, split) of each split that the run draws from."""
    # Training never draws from an environment of weight 0.
    if section.weight > 0:
        key = f"{where}.{'levels' if section.levels else 'split'}"
        yield from ((key, split) for split in section.levels or (section.split,))
    if config.evaluate.problems and section.share_in_evaluation > 0 and not config.evaluate.from_training:
        yield f"{where}.eval_split", section.eval_split
    for index, part in enumerate(config.evaluate.sets):
        if part.environment == section.name:
            yield f"evaluate.sets.{index}.split", part.split or section.eval_split


def _take(environment: Environment, size: int, found: Taken) -> str:
    """Fill ``found``; returns a message about a fault, or an empty text."""
    started = time.monotonic()
    # Spread over the split: files are often sorted, so that the first rows are all of one kind.
    step = max(size // TASKS_TRIED, 1)
    for position in range(min(size, TASKS_TRIED) if size else TASKS_TRIED):
        index = position * step
        try:
            task = environment.task(found.split, index, index)
        except Exception as error:
            return f"gives no task {index} of split {found.split!r}: {describe_exception(error)}"
        if not isinstance(task, Task):
            return f"gives a {type(task).__name__} as task {index} of split {found.split!r}; give a Task"
        if not (task.verifier or task.multi_turn or task.given):
            return UNJUDGED
        found.tasks.append(task)
        if time.monotonic() - started > SECONDS_TRIED:
            break
    demonstrate = getattr(environment, "demonstration", None)
    if demonstrate and found.tasks:
        try:
            found.answer = str(demonstrate(found.split, 0, 0)[1])
        except Exception:
            found.answer = ""  # not every row has one, and corpora have a check of their own
    return ""


def _made(name: str, options: Mapping[str, Any], key: str, where: str) -> tuple[Any, str]:
    """The plug-in, or a message about its fault. ``key`` names it, ``where`` its options."""
    try:
        return plugins.make(ENVIRONMENT_GROUP, name, options, where=where), ""
    except UnknownName as error:
        return None, f"{key}: {_without_group(error)}"
    except PluginFailed as error:
        return None, str(error) if str(error).startswith(where) else f"{key}: {_without_group(error)}"
    except Exception as error:
        return None, str(error)


def _without_group(error: Exception) -> str:
    return str(error).removeprefix(f"{ENVIRONMENT_GROUP}: ")


def corpora(config: RunConfig) -> Iterator[tuple[str, CorpusConfig]]:
    """(key, corpus) of each pretraining and fine-tuning stage."""
    stages = [("", config.pretrain, config.sft)]
    stages += [(f"teachers.{i}.", t.pretrain, t.sft) for i, t in enumerate(config.teachers)]
    for prefix, pretrain, sft in stages:
        for name, section in (("pretrain", pretrain), ("sft", sft)):
            if section is not None:
                yield from _flat(f"{prefix}{name}.stage.corpus", section.stage.corpus)


def _flat(key: str, corpus: CorpusConfig) -> Iterator[tuple[str, CorpusConfig]]:
    if not corpus.mixture:
        yield key, corpus
    for index, part in enumerate(corpus.mixture):
        yield from _flat(f"{key}.mixture.{index}", part)


def look_at_corpora(config: RunConfig) -> Iterator[Finding]:
    """Faults of the corpora of pretraining and fine-tuning."""
    seen: set[str] = set()
    for key, corpus in corpora(config):
        # Stages and teachers often share a corpus, and reading a large file takes seconds.
        identity = json.dumps([corpus.environment, corpus.options, corpus.path], sort_keys=True, default=str)
        if identity in seen:
            continue
        seen.add(identity)
        if corpus.path:
            if not Path(corpus.path).is_file():
                yield Finding(f"{key}.path: there is no file {corpus.path!r}; give JSON lines")
            continue
        environment, problem = _made(corpus.environment, corpus.options, f"{key}.environment", f"{key}.options")
        if problem:
            yield Finding(problem)
        # EnvironmentCorpus refuses it too, but only in the process that prepares, beside actors that wait for the
        # model.
        elif not hasattr(environment, "demonstration"):
            yield Finding(f"{key}.environment: {corpus.environment!r} cannot demonstrate; take another, or a path")
