"""Token bookkeeping of episodes: a real tokenizer, a scripted engine and a scripted environment."""

import asyncio
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_episodes import OddEnvironment

from rlserve.actors.rollout.episodes.chat_turns import PolicyTurn
from rlserve.actors.rollout.episodes.dialogue import Dialogue, EpisodeRequest, turn_seed
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.engines.tool_calls import ToolCallReader
from rlserve.records import FinishReason, Message, SegmentKind, Turn
from rlserve.tokens.model_tokens import ModelTokens
from tests.support.models import characters
from tests.support.models.scripted_engine import Call, ScriptedEngine

NO_CALLS = ToolCallReader("none", None)
TASK = OddEnvironment().task("train", 0, 0)
WORDS = st.text(characters.ALPHABET, max_size=6)


@dataclass(frozen=True)
class Play:
    """One episode: what the policy would write, what the environment answers, and the limits."""

    policy: list[list[int]]
    environment: list[str]
    cuts: list[int]
    max_new_tokens: int
    max_turn_tokens: int
    max_turns: int
    max_length: int


plays = st.builds(
    Play,
    # Any ids, the end token among them: a policy need not write what the tokenizer would.
    policy=st.lists(st.lists(st.integers(2, 20), min_size=1, max_size=6), min_size=6, max_size=6),
    environment=st.lists(WORDS, min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 6), min_size=6, max_size=6),
    max_new_tokens=st.integers(1, 20),
    max_turn_tokens=st.integers(0, 4),
    max_turns=st.integers(1, 6),
    max_length=st.integers(6, 40),
)


async def played(play: Play) -> tuple[Dialogue, ScriptedEngine]:
    engine = ScriptedEngine(
        script=lambda call, number: play.policy[number],
        # New weights in the middle of a turn, or between two.
        spans=lambda n, length: [(n, min(play.cuts[n], length)), (n + 1, length - min(play.cuts[n], length))],
    )
    request = EpisodeRequest(
        task=TASK,
        prompt=characters.tokenizer().encode("g9?"),
        sampling=characters.sampling(play.max_new_tokens),
        seed=5,
        request_id="group/0",
        max_length=play.max_length,
    )
    limits = EpisodesConfig(max_turns=play.max_turns, max_turn_tokens=play.max_turn_tokens)
    dialogue = Dialogue(
        request, engine=engine, tokens=ModelTokens.of(characters.tokenizer()), tool_calls=NO_CALLS, limits=limits
    )
    answers = iter(play.environment)
    while (said := await dialogue.next_turn()) is not None:
        text = next(answers, None)
        messages = (Message(role="user", content=text or ""),)
        dialogue.receive(said, Turn(messages=messages, done=text is None))
    return dialogue, engine


@settings(max_examples=150, deadline=None)
@given(plays)
def test_every_token_is_where_and_what_it_was_when_it_was_sampled(play: Play) -> None:
    dialogue, engine = asyncio.run(played(play))
    transcript = dialogue.transcript
    tokens, segments = transcript.token_ids.tolist(), transcript.segments
    starts = np.cumsum([0, *(s.length for s in segments)]).tolist()
    runs = [(s.kind, s.turn, tokens[a:b]) for s, a, b in zip(segments, starts, starts[1:], strict=False)]
    assert starts[-1] == len(tokens)
    sampled = [(turn, ids) for kind, turn, ids in runs if kind is SegmentKind.SAMPLED]
    assert sampled == [(i, s.token_ids.tolist()) for i, s in enumerate(engine.samples)]
    texts = {turn: ids for kind, turn, ids in runs if kind is SegmentKind.ENVIRONMENT}
    for turn in range(len(sampled) - 1):
        assert texts.pop(turn, []) == characters.ids(play.environment[turn])
    assert not texts
    # Each turn was sampled after exactly the tokens that stand before it here.
    at = [start for start, s in zip(starts, segments, strict=False) if s.kind is SegmentKind.SAMPLED]
    assert [list(call.prompt) for call in engine.calls] == [tokens[:start] for start in at]


@settings(max_examples=150, deadline=None)
@given(plays)
def test_every_sampled_token_keeps_its_logprob_and_its_version(play: Play) -> None:
    dialogue, engine = asyncio.run(played(play))
    transcript = dialogue.transcript
    assert transcript.behavior_logprobs.tolist() == [p for s in engine.samples for p in s.logprobs.tolist()]
    versions = [v for span in transcript.policy_spans for v in [span.version] * span.length]
    assert versions == [v for s in engine.samples for span in s.policy_spans for v in [span.version] * span.length]
    neighbours = zip(transcript.policy_spans, transcript.policy_spans[1:], strict=False)
    assert all(one.version < two.version for one, two in neighbours)


@settings(max_examples=150, deadline=None)
@given(plays)
def test_an_episode_ends_within_its_limits_and_with_a_turn_of_the_policy(play: Play) -> None:
    dialogue, engine = asyncio.run(played(play))
    transcript = dialogue.transcript
    assert len(transcript) <= play.max_length
    assert 1 <= transcript.num_sampled <= play.max_new_tokens
    assert len(engine.calls) <= play.max_turns
    assert all(len(s.token_ids) <= (play.max_turn_tokens or play.max_new_tokens) for s in engine.samples)
    assert transcript.segments[-1].kind is SegmentKind.SAMPLED
    done = len(engine.calls) == len(play.environment) + 1
    assert dialogue.finish_reason is (FinishReason.ENVIRONMENT if done else FinishReason.LENGTH)


async def test_a_turn_is_sampled_once_however_often_it_is_asked_for() -> None:
    engine = ScriptedEngine(script=lambda call, number: characters.ids("5<eos>"), seconds=0.05)
    request = EpisodeRequest(
        task=TASK, prompt=[1, 5], sampling=characters.sampling(9), seed=1, request_id="group/0", max_length=64
    )
    dialogue = Dialogue(
        request,
        engine=engine,
        tokens=ModelTokens.of(characters.tokenizer()),
        tool_calls=NO_CALLS,
        limits=EpisodesConfig(),
    )
    broken = asyncio.create_task(dialogue.next_turn())
    await asyncio.sleep(0.01)
    broken.cancel()
    assert await dialogue.next_turn() == await dialogue.next_turn() == PolicyTurn("5", FinishReason.STOP)
    assert len(engine.calls) == 1
    assert dialogue.transcript.num_samples == 1


def test_turns_of_one_sample_and_samples_of_one_group_draw_with_different_seeds() -> None:
    seeds = {turn_seed(seed, turn) for seed in range(1000, 1064) for turn in range(64)}
    assert len(seeds) == 64 * 64
    assert turn_seed(1000, 0) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


async def test_calls_carry_their_own_seed_and_name() -> None:
    _, engine = await played(Play([[5, 2]] * 6, [">", "<"], [0] * 6, 20, 0, 6, 64))
    assert [(call.seed, call.request_id) for call in engine.calls] == [
        (5, "group/0/turn-0"),
        (turn_seed(5, 1), "group/0/turn-1"),
        (turn_seed(5, 2), "group/0/turn-2"),
    ]
    assert isinstance(engine.calls[0], Call)
