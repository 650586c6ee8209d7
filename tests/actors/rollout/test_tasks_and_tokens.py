"""From a task to a group: what is refused and why, at which tokens the engine stops, what the verifier reads."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlserve.actors.rollout.worker import GroupWorker
from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.errors import TaskRefused
from rlserve.records import GivenCompletion, Lease, Message, Purpose, RolloutGroup, Sampling, Task, Verdict
from rlserve.rpc import codec
from rlserve.tokens.model_tokens import ModelTokens
from tests.support.models import characters
from tests.support.models.scripted_engine import ScriptedEngine
from tests.support.models.tiny_policies import VOCABULARY

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m.content }}<turn>{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
)
LEASE = Lease(group_id="g", environment="e", split="train", index=0, seed=1, num_samples=1, limit_seconds=9)


class Engine(ScriptedEngine):
    """Serves the start."""

    version = 0


@dataclass
class Judge:
    """Remembers what it read."""

    prompts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    async def __call__(self, task: Task, prompt: str, texts: Sequence[str]) -> list[Verdict | None]:
        self.prompts.append(prompt)
        self.texts += texts
        return [None] * len(texts)


@pytest.fixture
def tokens(tmp_path: Path) -> ModelTokens:
    characters.tokenizer().save_pretrained(tmp_path)
    tokenizer = characters.tokenizer().__class__.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<think>", "</think>"]})
    tokenizer.chat_template = TEMPLATE
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 17]}')
    return ModelTokens.of(tokenizer, str(tmp_path))


async def worked(
    tokens: ModelTokens, prompt: Any, *, answer: str = "#7<turn>", lease: Lease = LEASE, **fields: Any
) -> tuple[RolloutGroup, ScriptedEngine, Judge]:
    task = Task(
        environment="e",
        split="train",
        index=0,
        task_id="t",
        prompt=prompt,
        verifier="v",
        payload=b"",
        **fields,
    )

    async def get_task(_: Lease) -> Task:
        return codec.task_from_proto(codec.task_to_proto(task))

    padding = [VOCABULARY - 1]  # of an embedding that is larger than the tokenizer
    sampled = [*padding, *tokens.tokenizer.encode(answer, add_special_tokens=False)]
    engine, judge = Engine(lambda call, number: sampled), Judge()
    worker = GroupWorker(
        engine=engine,  # type: ignore[arg-type]
        tokens=tokens,
        get_task=get_task,
        verify=judge,  # type: ignore[arg-type]
        rollout=RolloutConfig(max_new_tokens=20),
        model=ModelConfig(path="m", max_length=32),
        worker_id="w",
        run_id="r",
    )
    group = await worker.work(lease)
    limits = codec.GroupLimits(vocab_size=VOCABULARY, max_tokens=32)
    return codec.group_from_bytes(codec.group_to_bytes(group), limits=limits), engine, judge


USER = Message(role="user", content="3+4=")


async def test_the_verifier_reads_the_prompt_as_rendered_and_tags_but_neither_ends_nor_padding(
    tokens: ModelTokens,
) -> None:
    group, engine, judge = await worked(tokens, (USER,), answer="3+4</think>#7<turn>")
    assert judge.prompts == ["3+4=<turn><think>"]
    assert judge.texts == ["3+4</think>#7"]
    assert group.trajectories[0].completion == "3+4</think>#7"
    assert group.trajectories[0].finish_reason == "stop"
    turn = tokens.tokenizer.get_vocab()["<turn>"]
    assert engine.calls[0].sampling.stop_token_ids == (turn, 2, 17)
    assert list(engine.calls[0].prompt) == tokens.tokenizer.encode("3+4=<turn><think>", add_special_tokens=False)


async def test_a_text_prompt_ends_at_the_models_ends_alone(tokens: ModelTokens) -> None:
    _, engine, judge = await worked(tokens, "3+4=", sampling=Sampling(stop_token_ids=(9,)))
    assert engine.calls[0].sampling.stop_token_ids == (2, 17, 9)
    assert judge.prompts == ["3+4="]


@pytest.mark.parametrize(
    ("prompt", "fields", "reason"),
    [
        ("1+" * 6 + "=", {}, "prompt_too_long"),
        ((Message(role="user", content="1" * 20),), {}, "prompt_too_long"),
        (tuple(range(4, 17)), {}, "prompt_too_long"),
        ("3+4=", {"sampling": Sampling(max_new_tokens=32)}, "prompt_too_long"),
        ("3+4=", {"sampling": Sampling(max_new_tokens=10**6)}, "prompt_too_long"),
        ((Message(role="system", content="1"), USER), {}, "template_failed"),
        ((USER, Message(role="assistant", content="", tool_calls=("no call",))), {}, "task_invalid"),
        ("3+4=", {"given": (GivenCompletion(text="1" * 27, chosen=True),)}, "completion_too_long"),
        ("1" * 40, {"given": (GivenCompletion(text="1", chosen=True),)}, "prompt_too_long"),
    ],
)
async def test_what_can_never_be_sampled_is_refused_with_the_counters_word(
    tokens: ModelTokens, prompt: Any, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TaskRefused) as caught:
        await worked(tokens, prompt, **fields)
    assert caught.value.reason == reason


async def test_an_absurd_prompt_holds_up_nobody(tokens: ModelTokens) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    with pytest.raises(TaskRefused, match="has 200001 tokens"):
        await worked(tokens, "1" * 200_000)
    beating.cancel()
    assert beats > 3


async def test_what_just_fits_is_taken_whole(tokens: ModelTokens) -> None:
    group, engine, _ = await worked(tokens, "1" * 11)
    assert len(engine.calls[0].prompt) == 12
    assert group.trajectories[0].segments[0].length == 12
    given = (GivenCompletion(text="1" * 26, chosen=True),)
    group, _, _ = await worked(tokens, "3+4=", given=given)
    assert len(group.trajectories[0].token_ids) == 32
    evaluation = Lease(
        group_id="g",
        environment="e",
        split="test",
        index=0,
        seed=1,
        num_samples=1,
        limit_seconds=9,
        purpose=Purpose.EVALUATE,
        max_new_tokens=4,
    )
    _, engine, _ = await worked(tokens, "1" * 27, lease=evaluation)
    assert len(engine.calls[0].prompt) == 28
