"""Tasks that bring their completions: nothing is sampled, roles and weights arrive at the algorithm."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.actors.learner.ingest.checks import check_against_lease
from rlserve.actors.rollout.worker import GroupWorker
from rlserve.algorithms import registry
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.batching.collate import BatchLayout, collate
from rlserve.batching.filters import why_drop
from rlserve.config.algorithms.distillation import MixedConfig
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.algorithms.preference import DpoConfig
from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.environments.files.examples import ExamplesEnvironment
from rlserve.environments.files.pairs import PairsEnvironment
from rlserve.errors import InvalidRequest, TaskRefused
from rlserve.records import FinishReason, Lease, PreferenceRole, RolloutGroup, Task
from rlserve.rpc import codec
from rlserve.tokens.model_tokens import ModelTokens
from tests.support.models import characters

GIVEN_PAIRS = DpoConfig.model_validate({"pairs": {"selection": "given"}})


class IdleEngine:
    """Samples nothing: a call to it would fail the test."""

    version = 7

    def forget(self, request_id: str) -> None:
        """Nothing was sampled."""


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


async def group_of(task: Task, *, max_length: int = 40) -> RolloutGroup:
    async def get_task(lease: Lease) -> Task:
        return codec.task_from_proto(codec.task_to_proto(task))

    async def judge(task: Task, prompt: str, texts: Any) -> Any:
        raise AssertionError("there is no verifier")

    worker = GroupWorker(
        engine=IdleEngine(),  # type: ignore[arg-type]
        tokens=ModelTokens.of(characters.tokenizer()),
        get_task=get_task,
        verify=judge,
        rollout=RolloutConfig(max_new_tokens=8),
        model=ModelConfig(path="m", max_length=max_length),
        worker_id="w",
        run_id="r",
    )
    lease = Lease(
        group_id="g", environment=task.environment, split="train", index=0, seed=1, num_samples=8, limit_seconds=9
    )
    group = await worker.work(lease)
    check_against_lease(group, lease, temperature=1.0)
    return codec.group_from_bytes(
        codec.group_to_bytes(group), limits=codec.GroupLimits(vocab_size=64, max_tokens=max_length)
    )


async def test_a_pair_of_a_file_trains_dpo_as_given(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", {"prompt": "3+4=", "chosen": "#7", "rejected": "3+4=8;#8"})
    group = await group_of(PairsEnvironment(path=path).task("train", 0, 0))
    assert [t.preference_role for t in group.trajectories] == [PreferenceRole.CHOSEN, PreferenceRole.REJECTED]
    assert {t.finish_reason for t in group.trajectories} == {FinishReason.GIVEN}
    assert group.trajectories[0].token_ids.tolist()[-3:] == characters.ids("#7<eos>")
    algorithm = registry.create(GIVEN_PAIRS)
    assert why_drop(group, algorithm) is None
    batch = collate([group], algorithm, BatchLayout(tokens_per_micro_batch=200, max_new_tokens=8), version=9)
    (micro,) = batch.micro_batches[0]
    assert micro.preferred is not None and micro.was_given is not None
    assert micro.preferred[:, 0].tolist() == [1.0, 0.0]
    assert bool(micro.was_given[micro.loss_mask > 0].all())
    # Their author is unknown: they do not count in the mismatch of trainer and generator.
    logprobs = -torch.ones_like(micro.loss_mask) * micro.loss_mask
    reference = {"reference_logprobs": logprobs}
    from dataclasses import replace

    out = algorithm.loss(PolicyOutputs(logprobs=logprobs), replace(micro, **reference), batch.denominator)
    assert float(out.metrics["mismatch_kl"].value) == 0
    assert float(out.metrics["tokens"].value) == 12
    assert float(out.loss) == pytest.approx(0.693147, abs=1e-5)


async def test_examples_train_the_supervised_part_of_a_mixture_and_no_policy_gradient(tmp_path: Path) -> None:
    path = write(tmp_path / "examples.jsonl", {"prompt": "3+4=", "completion": "#7"})
    group = await group_of(ExamplesEnvironment(path=path, weight=0.5).task("train", 0, 0))
    assert why_drop(group, registry.create(GrpoConfig())) == "no_verdict"
    mixed = registry.create(MixedConfig(reward=GrpoConfig(), supervised_weight=1.0))
    assert why_drop(group, mixed) is None
    batch = collate([group], mixed, BatchLayout(tokens_per_micro_batch=200, max_new_tokens=8), version=7)
    assert batch.denominator.supervised_tokens == 1.5
    assert batch.denominator.tokens == 0
    assert why_drop(await group_of(ExamplesEnvironment(path=path, weight=0).task("train", 0, 0)), mixed) is not None


async def test_a_completion_that_does_not_fit_is_refused_and_never_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "examples.jsonl", {"prompt": "3+4=", "completion": "1" * 14})
    task = ExamplesEnvironment(path=path).task("train", 0, 0)
    assert len((await group_of(task, max_length=20)).trajectories[0].token_ids) == 20
    with pytest.raises(TaskRefused, match=r"has 15 tokens and its prompt 5, but model.max_length is 19") as caught:
        await group_of(task, max_length=19)
    assert caught.value.reason == "completion_too_long"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "3+4=", "chosen": "#7"}, "line 1: rejected: is missing"),
        ({"prompt": "3+4=", "rejected": "#7"}, "line 1: chosen: is missing"),
        ({"chosen": "#7", "rejected": "#8"}, "line 1: prompt: is missing"),
        ({"prompt": "3+4=", "chosen": "#7", "rejected": "#7"}, "both are '#7'"),
        ({"prompt": [], "chosen": "#7", "rejected": "#8"}, "prompt: is"),
    ],
)
def test_a_pair_with_a_missing_side_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        PairsEnvironment(path=write(tmp_path / "pairs.jsonl", row))


def test_an_example_needs_both_texts_and_a_sensible_weight(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="completion: is missing"):
        ExamplesEnvironment(path=write(tmp_path / "examples.jsonl", {"prompt": "1"}))
    path = write(tmp_path / "examples.jsonl", {"prompt": "1", "completion": "2"})
    with pytest.raises(InvalidRequest, match="weight: is -1"):
        ExamplesEnvironment(path=path, weight=-1)
