"""A real learner rank: imports, engine, two steps; prints the bytes that were planned and those that it held.

python -m tests.support.memory.learner MODEL LEARNER_AS_JSON WIDTH
"""

import json
import os
import sys
from dataclasses import replace

from rlserve.actors.learner.train.deepspeed_setup import import_libraries
from rlserve.idle_threads import sleep_when_idle


def main() -> None:
    sleep_when_idle()
    import_libraries()
    import torch

    from rlserve.actors.learner.train.engine import LearnerEngine, blank
    from rlserve.algorithms.batch import LossOutput
    from rlserve.config.tables.learner import LearnerConfig

    path, settings, width = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    config = LearnerConfig.model_validate(settings)
    engine = LearnerEngine(path, config, seed=0)
    batch = blank(rows=config.tokens_per_micro_batch // width, width=width, trained=width - 8)
    batch = replace(batch, token_ids=torch.randint(0, engine.vocabulary, batch.token_ids.shape))
    for _ in range(2):
        # Two micro-batches: sums of gradients are there while the second is computed.
        report = engine.step(
            [batch, batch], loss=lambda outputs, its: LossOutput((outputs.logprobs * its.loss_mask).mean(), {}), lr=1e-5
        )
    print(json.dumps({"planned": report.planned_bytes, "measured": report.peak_bytes}), flush=True)
    os._exit(0)  # nothing to clean up, and DeepSpeed's end takes seconds


if __name__ == "__main__":
    main()
