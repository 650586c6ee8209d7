"""Saves checkpoints without end. ``python checkpoint_writer.py <model> <directory>``"""

import sys
from pathlib import Path

from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.config.tables.learner import LearnerConfig
from tests.support.models.learner_work import save


def main() -> None:
    engine = LearnerEngine(sys.argv[1], LearnerConfig(dtype="float32"), seed=0)
    for step in range(1, 10**6):
        save(Path(sys.argv[2]), step, engine, {"cursor": step})
        print(f"saved {step}", flush=True)


if __name__ == "__main__":
    main()
