"""What a worker gets from real teacher servers: its own tokens' scores, aligned across tokenizers, or none at all."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.pool import EndpointPool
from rlserve.actors.hub.main import hub_server
from rlserve.actors.rollout.teachers import TeacherClient, TeacherRequests
from rlserve.config.algorithms.distillation import DistillConfig
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.records import (
    ActorKind,
    FinishReason,
    Lease,
    Message,
    PolicySpan,
    Purpose,
    Segment,
    SegmentKind,
    Task,
    Trajectory,
)
from rlserve.rpc.options import ChannelOptions
from rlserve.tokens.alignment import align, end_offsets
from rlserve.tokens.model_tokens import ModelTokens
from tests.support.models.characters import ids, tokenizer
from tests.support.models.teachers import pairs_tokenizer, pieces_tokenizer, save_teacher
from tests.support.processes.children import child

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the servers
LEASE = Lease(group_id="g", environment="arithmetic", split="train", index=0, seed=3, num_samples=2, limit_seconds=9)
TASK = Task(
    environment="arithmetic", split="train", index=0, task_id="t", prompt="12+30=", verifier="exact", payload=b""
)


def trajectory(*turns: str, prompt: str = "12+30=", ended: bool = True) -> Trajectory:
    """Sampled turns with ``;;`` from the environment between them."""
    given = [tokenizer().bos_token_id, *ids(prompt)]
    parts, kinds = [given], [SegmentKind.GIVEN]
    for number, turn in enumerate(turns):
        if number:
            parts, kinds = [*parts, ids(";;")], [*kinds, SegmentKind.ENVIRONMENT]
        last = number == len(turns) - 1 and ended
        parts = [*parts, [*ids(turn), *([tokenizer().eos_token_id] if last else [])]]
        kinds = [*kinds, SegmentKind.SAMPLED]
    sampled = sum(len(p) for p, kind in zip(parts, kinds, strict=True) if kind is SegmentKind.SAMPLED)
    return Trajectory(
        sample_index=0,
        token_ids=np.array([i for part in parts for i in part], dtype=np.int64),
        segments=tuple(Segment(kind=k, length=len(p)) for p, k in zip(parts, kinds, strict=True)),
        behavior_logprobs=np.full(sampled, -0.5, dtype=np.float32),
        policy_spans=(PolicySpan(0, sampled),),
        finish_reason=FinishReason.STOP if ended else FinishReason.LENGTH,
    )


def teacher(name: str = "same", **changes: Any) -> TeacherConfig:
    settings = {"model": "m", "dtype": "float32", "max_length": 128, "score_seconds": 20.0}
    return TeacherConfig(name=name, **settings | changes)


def questions(*teachers: TeacherConfig, distill: DistillConfig | None = None, reference: str = "") -> TeacherRequests:
    named = {t.name: t for t in teachers}
    others = tuple(t for t in teachers if t.name != reference)
    return TeacherRequests(others, distill or DistillConfig(), named.get(reference))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {
        "same": save_teacher(root / "same"),
        "pairs": save_teacher(root / "pairs", tokenizer=pairs_tokenizer(), seed=1),
        "pieces": save_teacher(root / "pieces", tokenizer=pieces_tokenizer(), seed=2),
    }


@asynccontextmanager
async def teachers(models: dict[str, str], *serving: str) -> AsyncIterator[tuple[str, Any]]:
    """A hub's address, and a real server process for each name in ``serving`` (``"name/model"``)."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(hub_server("127.0.0.1:0", 1.0))
        client = await stack.enter_async_context(HubClient(hub.address))
        servers = []
        for number, named in enumerate(serving):
            name, model = named.split("/")
            arguments = (f"t-{number}", hub.address, name, models[model])
            servers.append(await stack.enter_async_context(child("teacher_actor.py", *arguments)))
        for named in serving:
            await client.wait_for(ActorKind.TEACHER, serves=named.split("/")[0], deadline_seconds=180)
        yield hub.address, servers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(models: dict[str, str]) -> AsyncIterator[str]:
    """The hub of teachers that all tests ask and none harms."""
    async with teachers(models, "same/same", "pairs/pairs", "pieces/pieces", "frozen/same") as (address, _):
        yield address


@asynccontextmanager
async def asking(hub: str, asked: TeacherRequests) -> AsyncIterator[TeacherClient]:
    """A worker's teachers."""
    options = ChannelOptions(max_message_bytes=2**24)
    async with HubClient(hub) as client, EndpointPool(client, ActorKind.TEACHER, options=options) as pool:
        yield TeacherClient(pool, ModelTokens.of(tokenizer()), asked)


@torch.no_grad()
def logprobs(model: str, tokens: Sequence[int], temperature: float = 1.0) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(model)
    table = loaded(torch.tensor([tokens])).logits[0].div(temperature).log_softmax(-1)
    return np.array([float(table[i - 1, token]) for i, token in enumerate(tokens) if i])


async def test_each_sampled_token_has_its_score_and_environment_turns_have_none(
    hub: str, models: dict[str, str]
) -> None:
    told = [trajectory("12+30=42;#2"), trajectory("1+3", "4;#4", "#7", ended=False)]
    asked = questions(teacher(), distill=DistillConfig(estimator="top_k", k=3))
    async with asking(hub, asked) as remote:
        scored = await remote(LEASE, TASK, told)
    for before, after in zip(told, scored, strict=True):
        expected = logprobs(models["same"], before.token_ids.tolist())[before.sampled_mask[1:]]
        (scores,) = after.teacher_scores
        np.testing.assert_allclose(scores.logprobs, expected, atol=1e-4)
        assert scores.top_ids.shape == (before.num_sampled, 3)
        assert len(scores.span_lengths) == 0


async def test_each_trajectory_is_scored_at_the_temperature_at_which_it_was_sampled(
    hub: str, models: dict[str, str]
) -> None:
    told = [replace(trajectory("12+30=42;#2"), temperature=temperature) for temperature in (0.5, 1.0, 0.0)]
    async with asking(hub, questions(teacher())) as remote:
        scored = await remote(LEASE, TASK, told)
    for after, temperature in zip(scored, (0.5, 1.0, 1.0), strict=True):
        expected = logprobs(models["same"], after.token_ids.tolist(), temperature)[after.sampled_mask[1:]]
        np.testing.assert_allclose(after.teacher_scores[0].logprobs, expected, atol=1e-4)
        assert after.teacher_scores[0].temperature == temperature


@pytest.mark.parametrize(("model", "own"), [("pairs", pairs_tokenizer()), ("pieces", pieces_tokenizer())])
async def test_another_tokenizer_is_aligned_span_by_span(
    hub: str, models: dict[str, str], model: str, own: Any
) -> None:
    text = "12+30=42;#2"
    theirs = [*own.encode(text, add_special_tokens=False), own.eos_token_id]
    async with asking(hub, questions(teacher(model))) as remote:
        (after,) = await remote(LEASE, TASK, [trajectory(text)])
    (scores,) = after.teacher_scores
    prompt = own.encode("12+30=")
    expected = logprobs(models[model], [*prompt, *theirs])[len(prompt) - 1 :]
    # All of the teacher's log-probability is there, once, and every span sums what its tokens had.
    np.testing.assert_allclose(scores.logprobs.sum(), expected.sum(), atol=1e-3)
    assert scores.span_lengths.sum() == len(text) + 1
    ends = end_offsets([piece.removeprefix("##").encode() for piece in own.convert_ids_to_tokens(theirs[:-1])])
    spans = align([*range(1, len(text) + 1)], ends)
    assert scores.span_lengths.tolist() == [s.student_stop - s.student_start for s in spans] + [1]
    starts = np.cumsum([0, *scores.span_lengths[:-1]])
    sums = [expected[s.teacher_start : s.teacher_stop].sum() for s in spans] + [expected[-1]]
    np.testing.assert_allclose(scores.logprobs[starts], sums, atol=1e-4)
    assert np.count_nonzero(scores.logprobs) == len(sums)


async def test_the_top_of_another_tokenizer_is_in_the_policys_tokens_at_the_end_of_each_span(
    hub: str,
) -> None:
    asked = questions(teacher("pairs"), distill=DistillConfig(estimator="top_k", k=4))
    async with asking(hub, asked) as remote:
        (after,) = await remote(LEASE, TASK, [trajectory("12+30=42;#2")])
    (scores,) = after.teacher_scores
    ends = np.cumsum(scores.span_lengths) - 1
    assert scores.top_ids.shape == (12, 4)
    assert 0.01 < scores.shared_fraction < 0.2
    shared = scores.top_ids[ends] >= 0
    assert (scores.top_ids[ends] < len(tokenizer())).all()
    # Spans of one token: top and tail are a whole distribution, shared or not.
    starts = np.concatenate([[0], ends[:-1] + 1])
    single = (starts == ends) & (ends < 11)
    mass = np.exp(scores.top_logprobs[ends[single]]).sum(-1) + np.exp(scores.log_tail[ends[single]])
    np.testing.assert_allclose(mass, 1, atol=1e-4)
    assert not shared.all()  # most byte pairs are no single character


async def test_a_completion_cut_short_is_not_given_an_end(hub: str) -> None:
    async with asking(hub, questions(teacher("pairs"))) as remote:
        (cut,) = await remote(LEASE, TASK, [trajectory("12+30", ended=False)])
        messages = Task(
            environment="e",
            split="s",
            index=0,
            task_id="t",
            verifier="v",
            payload=b"",
            prompt=(Message(role="user", content="1"),),
        )
        (chat,) = await remote(LEASE, messages, [trajectory("12+30", ended=False)])
    assert cut.teacher_scores[0].span_lengths.sum() == 5
    assert chat.teacher_scores[0].span_lengths.sum() == 5
    assert chat.teacher_scores[0].logprobs.sum() != cut.teacher_scores[0].logprobs.sum()


async def test_one_completion_that_cannot_be_scored_costs_the_others_nothing(hub: str) -> None:
    padded = trajectory("#2")
    padded.token_ids[-1] = 300  # of a policy whose embedding is larger than its tokenizer
    for name in ("pairs", "same"):
        asked = questions(teacher(name, score_seconds=20.0))
        async with asking(hub, asked) as remote:
            good = trajectory("12+30=42")
            group = [good, trajectory("1" * 400), padded] if name == "pairs" else [good, padded]
            scored = await remote(LEASE, TASK, group)
            assert scored[0].teacher_scores
            assert not scored[1].teacher_scores
            assert bool(scored[-1].teacher_scores) == (name == "pairs")


async def test_what_cannot_be_scored_stays_without_and_is_counted(hub: str) -> None:
    asked = questions(teacher("pairs", score_seconds=5.0))
    async with asking(hub, asked) as remote:
        several_turns = [trajectory("1+3", "4;#4")]
        assert (await remote(LEASE, TASK, several_turns))[0].teacher_scores == ()
        too_long = [trajectory("1" * 400)]
        assert (await remote(LEASE, TASK, too_long))[0].teacher_scores == ()
        assert remote.failures == 2
        assert (await remote(LEASE, TASK, [trajectory("#2")]))[0].teacher_scores
        held_out = Lease(
            group_id="g",
            environment="e",
            split="test",
            index=0,
            seed=1,
            num_samples=1,
            limit_seconds=9,
            purpose=Purpose.EVALUATE,
        )
        assert (await remote(held_out, TASK, [trajectory("#2")]))[0].teacher_scores == ()


async def test_a_killed_server_costs_no_scores_while_another_serves_the_name(models: dict[str, str]) -> None:
    async with (
        teachers(models, "same/same", "same/same") as (own, servers),
        asking(own, questions(teacher())) as remote,
    ):
        told = [trajectory(f"{a}+{a}={2 * a};#1") for a in range(30)]
        working = [asyncio.create_task(remote(LEASE, TASK, [t])) for t in told]
        servers[0].signal(signal.SIGKILL)
        scored = await asyncio.gather(*working)
        assert all(group[0].teacher_scores for group in scored)


async def test_teacher_and_reference_are_both_asked_and_told_apart(hub: str) -> None:
    asked = questions(teacher(), teacher("frozen"), reference="frozen")
    async with asking(hub, asked) as remote:
        (scored,) = await remote(LEASE, TASK, [trajectory("#2")])
    assert [scores.teacher for scores in scored.teacher_scores] == ["same", "frozen"]


async def test_a_teacher_is_drawn_by_weight_among_those_of_the_environment() -> None:
    asked = questions(
        teacher("a", weight=3.0), teacher("b", environments=("arithmetic",)), teacher("c", environments=("other",))
    )
    leases = [
        Lease(group_id="g", environment="arithmetic", split="s", index=i, seed=i, num_samples=1, limit_seconds=9)
        for i in range(2000)
    ]
    drawn = [asked.for_lease(lease)[0].teacher.name for lease in leases]
    assert drawn == [asked.for_lease(lease)[0].teacher.name for lease in leases]
    assert abs(drawn.count("a") / 2000 - 0.75) < 0.04
    assert "c" not in drawn
