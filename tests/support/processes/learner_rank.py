"""One rank of a learner of several, as a process. ``python learner_rank.py <directory>``; RANK and so on are set.

Reads ``jobs.json`` in the directory; for each job rank 0 trains as it says, and writes what came of it into the job's
own directory. All jobs share the process and its process group.
"""

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlserve.actors.checkpoints import latest
from rlserve.actors.learner.train.deepspeed_setup import RankInfo, import_deepspeed, init_process_group
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.gather import full_numel, held_bytes
from rlserve.actors.learner.train.ranks import Rank, follow, needs_reference
from rlserve.actors.learner.train.reference import Reference
from rlserve.actors.learner.train.saving.checkpoint import restore
from rlserve.actors.learner.train.scorer import load_model
from rlserve.actors.learner.train.trainer import Trainer
from rlserve.algorithms import registry
from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.masked import denominator
from rlserve.batching.collate import OptimizerBatch
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.engines.vllm.readback import read_checked
from rlserve.errors import RlserveError
from tests.support.models.families import Several, family_batch
from tests.support.models.learner_work import random_batch, split

LR = 3e-3


def optimizer_batch(seed: int, ranks: int) -> OptimizerBatch:
    """Four micro-batches, laid out over the ranks; the same whole batch for any number of them."""
    return laid_out(random_batch(seed), ranks)


def laid_out(whole: TokenBatch, ranks: int) -> OptimizerBatch:
    """Four micro-batches over the ranks."""
    parts = split(whole, 4)
    shares = tuple(tuple(parts[rank::ranks]) for rank in range(ranks))
    total = denominator([whole], num_sequences=16, num_groups=4)
    return OptimizerBatch(micro_batches=shares, denominator=total, summary={})


def trainer_of(rank: Rank, directory: Path) -> Trainer:
    """A trainer that leads ``rank``, for a run in ``directory``."""
    # The least room: every copy waits for the one before it to be written.
    config = RunConfig.model_validate(
        {
            "name": "r",
            "model": {"path": "m"},
            "environments": [{"name": "arithmetic"}],
            "learner": {"dtype": "float32"},
            "checkpoint": {"buffer_gib": 1e-6},
        }
    )
    return Trainer(config, RunPaths(directory), rank)


def create_rank(directory: Path, job: dict[str, Any], rank_info: RankInfo) -> Rank:
    """At the start of the job: from its model, or from the checkpoint in the directory."""
    kept = latest(directory / "checkpoints") if job["first"] else None
    path = str(kept.model_path) if kept else job["model"]
    several = job.get("algorithm") == "several"
    algorithm = Several() if several else registry.create(GrpoConfig.model_validate(job.get("algorithm", {})))
    engine = LearnerEngine(path, LearnerConfig.model_validate(job["learner"]), seed=0, rank_info=rank_info)
    if kept:
        restore(kept, engine)
    reference = None
    if needs_reference(algorithm):
        refreshed = kept.reference_path if kept else None
        source = str(refreshed or job["model"])
        reference = Reference(source, engine.config, rank_info, parallel=engine.parallel)
        reference.is_start = refreshed is None
    return Rank(engine=engine, algorithm=algorithm, reference=reference)


def train(directory: Path, job: dict[str, Any], trainer: Trainer, ranks: int) -> tuple[dict[str, Tensor], list[Any]]:
    """Rank 0: the steps of the job, a checkpoint among them; (weights and log-probabilities, reports)."""
    reports = []
    for step in range(job["first"], job["last"]):
        several = job.get("algorithm") == "several"
        batch = laid_out(family_batch(step), ranks) if several else optimizer_batch(step, ranks)
        report = trainer.step(batch, lr=LR)
        reports.append([report.loss, report.grad_norm, report.metrics["entropy"]])
        print(f"stepped {step}", flush=True)
        if step + 1 == job.get("refresh_at"):
            trainer.refresh_reference()
        if step + 1 == job.get("save_at"):
            trainer.save(step + 1, {"step": step + 1})
    if job.get("save_again"):
        trainer.save(job["last"] + 1, {"step": job["last"] + 1})
    trainer.wait()
    scored = trainer.logprobs(optimizer_batch(99, ranks).micro_batches)
    assert_published_whole(trainer)
    result = dict(trainer.weights(torch.float32))
    if job.get("algorithm") != "several":
        result["output_gradient_norm"] = torch.tensor([trainer.output_gradient_norm(optimizer_batch(98, ranks))])
    for part in range(4):
        result[f"logprobs/{part}"] = scored[part % ranks][part // ranks].logprobs
    return result, reports


def assert_published_whole(trainer: Trainer) -> None:
    """What workers would fetch is what the ranks hold, however it is partitioned over them."""
    trainer.publish(1)
    trainer.publishing.wait()
    kept = trainer.publisher.get(1)
    found = read_checked(kept.policy, kept.path)
    held = dict(trainer.weights(torch.bfloat16))
    assert found.keys() == held.keys() and all(torch.equal(found[name], held[name]) for name in held)


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    directory = Path(sys.argv[1])
    jobs = json.loads((directory / "jobs.json").read_text())
    rank_info = RankInfo.from_environment(os.environ)
    for number, job in enumerate(jobs, 1):
        place = directory / job["name"]
        if "measure" in job:
            measure_loading(place, job, rank_info)
            continue
        rank = create_rank(place, job, rank_info)
        if number < len(jobs):
            leave_group(rank.engine)
        try:
            if rank_info.rank:
                follow(rank)
            else:
                lead(place, job, trainer_of(rank, place), rank_info.world_size // rank.engine.config.sequence_parallel)
        except RlserveError as error:
            print(f"failed {type(error).__name__}: {error}", flush=True)
            sys.exit(3)


def leave_group(engine: LearnerEngine) -> None:
    """The next engine of this process meets the same ranks: closing this one does not part them."""

    def close() -> None:
        engine.links.close()
        engine.deepspeed.destroy()

    engine.close = close  # type: ignore[method-assign]


def lead(directory: Path, job: dict[str, Any], trainer: Trainer, ranks: int) -> None:
    try:
        result, reports = train(directory, job, trainer, ranks)
    finally:
        trainer.close()
    save_file(result, directory / "result.safetensors")
    (directory / "result.json").write_text(json.dumps(reports))


def measure_loading(directory: Path, job: dict[str, Any], rank_info: RankInfo) -> None:
    """Bytes of the whole model, those that this rank holds once it is loaded, and the most memory it took meanwhile."""
    config = LearnerConfig.model_validate(job["learner"])
    init_process_group(import_deepspeed(rank_info.device), rank_info, timeout_seconds=config.rank_timeout_seconds)
    before, seen, over = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            seen.append(anonymous_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    model = load_model(job["measure"], config, rank_info.device)
    over.set()
    watching.join()
    held = held_bytes(model) + sum(p.nbytes for p in model.parameters())
    whole = sum(full_numel(p) * p.element_size() for p in model.parameters())
    found = {"whole": whole, "held": held, "peak": max(seen) - before}
    (directory / f"rank-{rank_info.rank}.json").write_text(json.dumps(found))


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    with open("/proc/self/status", encoding="ascii") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
