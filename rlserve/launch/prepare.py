"""Makes the start checkpoint of a run, and its teachers, in a process of its own: pretrain, then SFT."""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.actors.process import CONFIGURATION_FAULTS, EXIT_CONFIG, die_with_parent
from rlserve.actors.start_model import model_at, wait_for_start_model
from rlserve.config.digest import check_digest
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.pretrain import PretrainConfig, SftConfig
from rlserve.config.tables.teacher import START, TeacherConfig
from rlserve.idle_threads import sleep_when_idle
from rlserve.observability import logs
from rlserve.observability.events import EventLog

logger = logging.getLogger(__name__)


def prepare(config: RunConfig, paths: RunPaths) -> None:
    """Make ``paths.start_model``, then the teachers' models. Models that exist are kept, so a second call is free."""
    events = EventLog(paths.events)
    _make(config.pretrain, config.sft, config, paths, events)
    for teacher in config.teachers:
        if teacher.is_made_here:
            base = model_of(teacher, config, paths)
            _make(teacher.pretrain, teacher.sft, config, paths.teacher(teacher.name), events, base, of=teacher.name)


def model_of(teacher: TeacherConfig, config: RunConfig, paths: RunPaths) -> str:
    """The model that a teacher serves or is fine-tuned from; empty when it is pretrained here."""
    return wait_for_start_model(config, paths) if teacher.model == START else teacher.model


def _make(
    pretraining: PretrainConfig | None,
    tuning: SftConfig | None,
    config: RunConfig,
    paths: RunPaths,
    events: EventLog,
    base: str = "",
    of: str = "",
) -> None:
    # Here, not above: main() must set OpenMP's idle policy before anything imports torch.
    from rlserve.pretrain.sft import sft
    from rlserve.pretrain.train import pretrain

    # A checkpoint appears by rename, so one that exists is complete.
    if paths.start_model.exists() or not (pretraining or base):
        return
    title = f" {of}" if of else ""

    def report(stage: str) -> Any:
        def write(values: Mapping[str, float]) -> None:
            events.write("prepare", stage=stage, **values)

        return write

    # With SFT behind it the pretrained model is kept under its own name: a restart after a kill continues from there.
    target = paths.pretrained_model if tuning else paths.start_model
    if pretraining:
        events.write("phase", name=f"pretrain{title}")
        if not target.exists():
            pretrain(pretraining, target, config.seed, config.model.max_length, report("pretrain"))
    if tuning:
        events.write("phase", name=f"sft{title}")
        start = target if pretraining else Path(model_at(base))
        sft(tuning, start, paths.start_model, config.seed, report("sft"))


def main() -> int:
    """``python -m rlserve.launch.prepare RUN_DIRECTORY``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    paths = RunPaths(parser.parse_args().run)
    # Before the slow imports, during which a killed launcher would go unnoticed.
    die_with_parent()
    sleep_when_idle()
    logs.set_up("prepare")
    try:
        # Before it is read: the run may have been resumed with other keys since this process was planned.
        check_digest(paths.config)
        prepare(load_run([paths.config]), paths)
    except CONFIGURATION_FAULTS as error:
        logger.error("%s: %s", type(error).__name__, error)
        return EXIT_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
