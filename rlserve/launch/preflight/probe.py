"""The checks that run plug-ins, in a process that may hang, crash or print.

``python -m rlserve.launch.preflight.probe``: reads ``{"config": ..., "skip": [...]}``, writes JSON lines:
``{"stage": NAME}`` before each stage, ``{"finding": ...}``, at the end ``{"done": true}``.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rlserve import plugins
from rlserve.actors.process import die_with_parent
from rlserve.config.algorithms import BUILT_IN
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import RlserveError
from rlserve.launch.preflight.finding import Finding
from rlserve.launch.preflight.models import asked_models, look_at_model, look_at_prompts
from rlserve.launch.preflight.tasks import Taken, look_at_corpora, look_at_environment
from rlserve.launch.preflight.verdicts import look_at_options, look_at_verifier, wanted
from rlserve.nearest import known_names
from rlserve.plugins import describe_exception
from rlserve.trackers.registry import tracker_problems

PROMPTS = "prompts"


def main() -> int:
    """Run all stages; returns the exit code."""
    # First: a plug-in that hangs during its import must not outlive a killed launcher.
    die_with_parent()
    # Line-buffered: the parent must know a stage before it hangs or crashes.
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what plug-ins print goes to the log, not between the JSON lines
    order = json.load(sys.stdin)
    config, skip = RunConfig.model_validate(order["config"]), set(order["skip"])
    faulty: set[str] = set()

    def stage(name: str, look: Iterator[Finding]) -> None:
        if name in skip:
            return
        print(json.dumps({"stage": name}), file=out)
        # The checks are generators: nothing of a stage runs before its name is out.
        for finding in _guarded(name, look):
            if finding.is_fault:
                faulty.add(name)
            print(json.dumps({"finding": finding.to_json()}), file=out)

    taken: list[Taken] = []
    # The order is that of needs: prompts and verifiers are tried on the tasks that environments gave, prompts in the
    # tokens of a model that was found sound.
    stage("algorithm", _look_at_algorithm(config))
    for index in range(len(config.trackers)):
        stage(f"trackers.{index}", _look_at_tracker(config, index))
    stage("verifier.options", look_at_options(config.verifier.options))
    for index in range(len(config.environments)):
        stage(f"environments.{index}", look_at_environment(config, index, taken))
    stage("corpora", look_at_corpora(config))
    for asked in asked_models(config):
        stage(asked.stage, look_at_model(asked))
    if "model model.path" not in faulty | skip:
        stage(PROMPTS, look_at_prompts(config, taken))
    for name, (key, task, answer) in wanted(taken).items():
        stage(f"verifier {name}", look_at_verifier(config, name, key, task, answer))
    print(json.dumps({"done": True}), file=out)
    out.flush()
    os._exit(0)  # not sys.exit: it would wait for threads of plug-ins


def _guarded(name: str, look: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from look
    except RlserveError as error:
        yield Finding(f"{name}: {error}")
    except Exception as error:
        yield Finding(f"{name}: {describe_exception(error)}")


def _look_at_tracker(config: RunConfig, index: int) -> Iterator[Finding]:
    root = RunPaths(Path(config.directory) / config.name).root
    yield from (Finding(problem) for problem in tracker_problems(config, index, root))


def _look_at_algorithm(config: RunConfig) -> Iterator[Finding]:
    kind = config.algorithm.type
    if kind in BUILT_IN:
        return
    known = plugins.names(plugins.ALGORITHM_GROUP)
    if not plugins.is_known(plugins.ALGORITHM_GROUP, kind):
        yield Finding(f"algorithm.type: {kind!r} is not registered{known_names(kind, known)}")
        return
    from rlserve.algorithms.registry import create  # loads torch

    try:
        create(config.algorithm)
    except RlserveError as error:
        yield Finding(f"algorithm.type: {str(error).removeprefix(plugins.ALGORITHM_GROUP + ': ')}")


if __name__ == "__main__":
    sys.exit(main())
