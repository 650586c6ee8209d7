"""Makes the start checkpoint of a run in a process of its own: pretrain, then SFT."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.actors.process import die_with_parent
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability import logs
from rlserve.observability.events import EventLog


def prepare(config: RunConfig, paths: RunPaths) -> None:
    """Make ``paths.start_model``; what is already there is kept, so a second call costs nothing."""
    from rlserve.pretrain.sft import sft
    from rlserve.pretrain.train import pretrain

    events = EventLog(paths.events)
    if config.pretrain is None or paths.start_model.exists():
        return

    def report(stage: str) -> Any:
        def write(values: Mapping[str, float]) -> None:
            events.write("prepare", stage=stage, **values)

        return write

    seed, length = config.seed, config.model.max_length
    target = paths.pretrained_model if config.sft else paths.start_model
    events.write("phase", name="pretrain")
    if not target.exists():
        pretrain(config.pretrain, target, seed, length, report("pretrain"))
    if config.sft:
        events.write("phase", name="sft")
        sft(config.sft, paths.pretrained_model, paths.start_model, seed, report("sft"))


def main() -> int:
    """``python -m rlserve.launch.prepare RUN_DIRECTORY``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    paths = RunPaths(parser.parse_args().run)
    die_with_parent()
    logs.set_up("prepare")
    prepare(load_run([paths.config]), paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
