"""How a task is sampled: what the lease says, then the task, then its environment's spec, then the run."""

import logging

import pytest

from rlserve.actors.rollout.worker import GroupWorker
from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.engines.base import SamplingChoice
from rlserve.records import Lease, Purpose, RolloutGroup, Sampling, Task, Verdict
from rlserve.tokens.model_tokens import ModelTokens
from tests.support.models import characters
from tests.support.models.scripted_engine import ScriptedEngine

END = characters.tokenizer().eos_token_id


async def sampled(*, own: Sampling, lease: Lease) -> tuple[SamplingChoice, RolloutGroup]:
    """What the engine was asked, and the group."""
    task = Task(
        environment="e", split="train", index=0, task_id="t", prompt="1+1=", verifier="v", payload=b"", sampling=own
    )

    async def get_task(_: Lease) -> Task:
        return task

    async def judge(_: Task, prompt: str, texts: object) -> list[Verdict | None]:
        return [None]

    engine = ScriptedEngine(lambda call, number: [*characters.ids("#2"), END])
    worker = GroupWorker(
        engine=engine,  # type: ignore[arg-type]
        tokens=ModelTokens.of(characters.tokenizer()),
        get_task=get_task,
        verify=judge,  # type: ignore[arg-type]
        rollout=RolloutConfig(max_new_tokens=30, temperature=0.9),
        model=ModelConfig(path="m", max_length=64),
        worker_id="w",
        run_id="r",
    )
    group = await worker.work(lease)
    return engine.calls[0].sampling, group


def lease(**fields: object) -> Lease:
    return Lease(
        group_id="g",
        environment="e",
        split="train",
        index=0,
        seed=1,
        num_samples=1,
        limit_seconds=9,
        **fields,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("fields", "own", "usual", "expected"),
    [
        ({}, Sampling(), Sampling(), (0.9, 30, ())),
        ({}, Sampling(), Sampling(temperature=0.5, max_new_tokens=7, stop=("x",)), (0.5, 7, ("x",))),
        ({}, Sampling(temperature=0.2, stop=("y",)), Sampling(temperature=0.5, max_new_tokens=7), (0.2, 7, ("y",))),
        ({"temperature": 0.1}, Sampling(temperature=0.2), Sampling(temperature=0.5), (0.1, 30, ())),
    ],
)
async def test_the_lease_goes_before_the_task_and_the_task_before_its_spec(
    fields: dict[str, object], own: Sampling, usual: Sampling, expected: tuple[float, int, tuple[str, ...]]
) -> None:
    choice, group = await sampled(own=own, lease=lease(usual_sampling=usual, **fields))
    assert (choice.temperature, choice.max_new_tokens, choice.stop) == expected
    assert choice.stop_token_ids == (END,)
    assert group.trajectories[0].temperature == expected[0]
    assert group.task.sampling.max_new_tokens == (own.max_new_tokens or usual.max_new_tokens)


async def test_training_samples_from_the_whole_vocabulary_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    narrow = Sampling(top_p=0.8)
    with caplog.at_level(logging.WARNING):
        choice, _ = await sampled(own=narrow, lease=lease())
    assert choice.top_p == 1.0
    assert "task.sampling.top_p: is 0.8 in environment 'e'" in caplog.text
    choice, _ = await sampled(own=narrow, lease=lease(purpose=Purpose.EVALUATE))
    assert choice.top_p == 0.8
