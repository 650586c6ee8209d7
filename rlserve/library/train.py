"""``rlserve.train``: keyword arguments to a run, run to its end."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.config.algorithms import DEFAULT, SECTIONS
from rlserve.config.load import merge, read_with_base, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.run import STOPPED, Silent
from rlserve.library.inputs import Inputs
from rlserve.library.keywords import DATA, configured, plain, split_off_data
from rlserve.library.machine import fitting
from rlserve.library.run import Run
from rlserve.library.start import paths_of, start

TEST_FRACTION = 0.1
"""Of ``data`` without a test split: held out, to tell learning from remembering."""
TEST_PROBLEMS = 64
"""Of a measurement of ``data``: before and after, each a few seconds of a small model on processors."""
Config = str | Path | RunConfig | Mapping[str, Any]


def train(
    config: Config | Sequence[Config] | None = None,
    *,
    model: Any = None,
    data: Any = None,
    reward: Any = None,
    environment: Any = None,
    algorithm: Any = None,
    name: str | None = None,
    overwrite: bool = False,
    preflight: bool = True,
    progress: bool = True,
    **keywords: Any,
) -> Run:
    """Train a model to the end of the run, and return the run.

    ``config`` is a TOML file (also a shipped one, ``"configs/quickstart.toml"``), a ``RunConfig`` or a mapping of its
    keys; all that follows goes over it.

    ``model``: checkpoint directory, run directory or Hub name. ``data``: a file, a folder or a Hub name that
    ``datasets`` loads, a list of dicts, a ``datasets.Dataset``, or ``{"train": ..., "test": ...}`` of these.
    ``reward``: a function called with ``prompts``, ``completions`` and the columns of the data, each a list, that
    returns a number a completion; its ``"FILE.py:NAME"``; a list of these, or of ``(function, weight)``.
    ``environment``, in place of ``data``: a plug-in's name, a class, or its ``"FILE.py:NAME"``. ``algorithm``: a name
    such as ``"grpo"``, a class, or its ``"FILE.py:NAME"``.

    Any key of the configuration is a keyword: by its own name if no other table has it (``lr``, ``group_size``,
    ``steps``), or in its table (``learner={"lr": 1e-5}``); so are the options of the environment ``dataset``
    (``prompt_key``, ``answer_key``, ``system``, ``test_fraction``). ``name`` is that of the directory under
    ``directory`` (``"runs"``); by default a new one. An earlier run there is deleted only with ``overwrite``.

    Raises ConfigError, naming every fault, before anything starts; RlserveError when the run fails; KeyboardInterrupt
    after Ctrl-C, when all its processes have ended. ``rlserve.Run(directory).resume()`` then continues it.
    """
    given = Given(model=model, data=data, reward=reward, environment=environment, algorithm=algorithm, name=name)
    planned, inputs = plan(config, given, keywords)
    display = None if progress else Silent()
    status = start(planned, overwrite=overwrite, preflight=preflight, inputs=inputs.files, display=display)
    if status == STOPPED:
        raise KeyboardInterrupt
    return Run(paths_of(planned).root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Arguments of ``train`` that are no keys of the configuration as they stand."""

    model: Any = None
    data: Any = None
    reward: Any = None
    environment: Any = None
    algorithm: Any = None
    name: str | None = None


def plan(
    config: Config | Sequence[Config] | None, given: Given, keywords: Mapping[str, Any]
) -> tuple[RunConfig, Inputs]:
    """The configuration, and the files that it needs in the run's directory. Raises ConfigError, naming every fault."""
    base = _base(config)
    kind = _kind(base if given.algorithm is None else {"algorithm": given.algorithm})
    name = given.name or str(base.get("name") or f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}")
    directory = str(keywords.get("directory") or base.get("directory") or RunConfig.model_fields["directory"].default)
    inputs = Inputs(RunPaths(Path(directory) / name))
    options, others = split_off_data(keywords) if given.data is not None else ({}, keywords)
    over: dict[str, Any] = {"name": name, "directory": directory}
    if given.algorithm is not None:
        over["algorithm"] = _algorithm(given.algorithm, inputs)
    if given.reward is not None:
        over["reward"] = inputs.reward(given.reward)
    if given.model is not None:
        over["model"] = {"path": _path(given.model)} if isinstance(given.model, str | Path) else plain(given.model)
        # A model is given: none is to be made.
        base = {key: value for key, value in base.items() if key not in ("pretrain", "sft")}
    if given.data is not None or given.environment is not None:
        base = {key: value for key, value in base.items() if key not in ("environments", "environment")}
        over["environments"] = [_tasks(given, inputs, options)]
    over = merge(over, configured(others, kind))
    if config is None:
        base = _defaults(over, has_data=given.data is not None)
    values = merge(base, over)
    return validate(RunConfig, {key: value for key, value in values.items() if value is not None}), inputs


def _base(config: Config | Sequence[Config] | None) -> dict[str, Any]:
    """What ``config`` says, later ones over earlier ones. Raises ConfigError."""
    several = config if isinstance(config, Sequence) and not isinstance(config, str) else [config]
    values: dict[str, Any] = {}
    for one in several:
        if isinstance(one, str | Path):
            values = merge(values, read_with_base(one))
        elif isinstance(one, RunConfig | Mapping):
            values = merge(values, plain(one))
        elif one is not None:
            raise ConfigError(f"config: is a {type(one).__name__}; give a TOML file, a RunConfig, or a mapping of keys")
    return values


def _kind(values: Mapping[str, Any]) -> str:
    """The type of the algorithm, whatever form it is given in; the default for a class."""
    algorithm = plain(values.get("algorithm", DEFAULT))
    found = algorithm.get("type", DEFAULT) if isinstance(algorithm, Mapping) else algorithm
    return found if isinstance(found, str) and found in SECTIONS else DEFAULT


def _algorithm(given: Any, inputs: Inputs) -> dict[str, Any]:
    table = plain(given)
    return dict(table) if isinstance(table, Mapping) else {"type": inputs.reference(given, what="algorithm")}


def _tasks(given: Given, inputs: Inputs, options: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of ``data`` or ``environment``, as a table."""
    if given.data is None:
        table = plain(given.environment)
        return dict(table) if isinstance(table, Mapping) else {"name": inputs.reference(table, what="environment")}
    if given.environment is not None:
        raise ConfigError("environment: is given beside data; leave one of the two out")
    asked = {**inputs.data(given.data), **plain(options)}
    if not any(key.startswith("test_") for key in asked):
        asked["test_fraction"] = TEST_FRACTION
    return {"name": DATA, "options": asked}


def _defaults(over: Mapping[str, Any], *, has_data: bool) -> dict[str, Any]:
    model = over.get("model", {})
    values = fitting(str(model.get("path", "")) if isinstance(model, Mapping) else "")
    return values | ({"evaluate": {"problems": TEST_PROBLEMS}} if has_data else {})


def _path(model: str | Path) -> str:
    # Absolute: the script may be started from elsewhere when the run is resumed. A Hub name is no directory here.
    return str(Path(model).expanduser().absolute()) if Path(model).expanduser().exists() else str(model)
