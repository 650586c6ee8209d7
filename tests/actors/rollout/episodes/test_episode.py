"""Groups of episodes against real environment servers over real channels; only the sampling is scripted."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import torch
from odd_episodes import OddEnvironment, OddEpisode

from rlserve.actors.rollout.episodes.episode import EpisodeWorker
from rlserve.actors.rollout.episodes.stream import EpisodeClient
from rlserve.algorithms import registry
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.batching.collate import BatchLayout, collate
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.engines.tool_calls import ToolCallReader
from rlserve.environments.calculator import CalculatorEnvironment
from rlserve.environments.guess import GuessEnvironment
from rlserve.errors import EngineDied
from rlserve.records import (
    FailureKind,
    FinishReason,
    Lease,
    Message,
    Outcome,
    RolloutGroup,
    SegmentKind,
    Task,
    Trajectory,
    Turn,
    Verdict,
)
from rlserve.rpc import codec
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.prompts import encode_prompt
from rlserve.verifiers.text.verifier import ExactVerifier
from tests.support.episode_site import EpisodeSite, episode_site
from tests.support.models import characters
from tests.support.models.scripted_engine import Call, ScriptedEngine
from tests.support.processes.children import child

GUESS = GuessEnvironment(max_number=9, turns=4)


def lease(task: Task, samples: int) -> Lease:
    return Lease(group_id="run/0", environment=task.environment, split="train", index=0, seed=100, num_samples=samples)


def by_turn(turns: Sequence[Sequence[str]]) -> Callable[[Call, int], list[int]]:
    """``turns[sample][turn]`` as the engine's script."""

    def script(call: Call, number: int) -> list[int]:
        _, _, sample, turn = call.request_id.split("/")
        return characters.ids(turns[int(sample)][int(turn.removeprefix("turn-"))] + "<eos>")

    return script


class Player:
    """A worker's end of episodes, with the real verifier as judge."""

    def __init__(self, site: EpisodeSite, engine: Any, **limits: Any) -> None:
        self.judged: list[str] = []
        config = EpisodesConfig(**limits)
        self._worker = EpisodeWorker(
            engine=engine,
            tokens=ModelTokens.of(characters.tokenizer()),
            tool_calls=ToolCallReader("none", None),
            run_episode=EpisodeClient(site.pool, config),
            verify=self._judge,
            limits=config,
            max_length=128,
        )

    async def group(self, task: Task, samples: int = 1, tokens: int = 64) -> tuple[Trajectory, ...]:
        prompt = encode_prompt(characters.tokenizer(), task, max_tokens=500)
        async with asyncio.timeout(20):
            return await self._worker.trajectories(lease(task, samples), task, prompt, characters.sampling(tokens))

    async def _judge(self, task: Task, prompt: str, completions: Sequence[str]) -> list[Verdict]:
        self.judged += completions
        return [ExactVerifier().verify(text, task.payload, str(task.prompt)) for text in completions]


@asynccontextmanager
async def served(*environments: Any, limits: EpisodesConfig | None = None) -> AsyncIterator[EpisodeSite]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(episode_site())
        for number, environment in enumerate(environments):
            await stack.enter_async_context(site.server(f"environment-{number}", environment, limits))
        async with asyncio.timeout(5):
            while len(site.pool.endpoints) < len(environments):
                await asyncio.sleep(0.005)
        yield site


def guesses_for(hidden: int) -> list[list[str]]:
    wrong = str((hidden + 1) % 10)
    return [[str(hidden)], [wrong, str(hidden)], [wrong, "g", wrong, wrong]]


def hidden_in(task: Task) -> int:
    return next(n for n in range(10) if GUESS.open(task).step(str(n)).done)


TASK = GUESS.task("train", 0, 0)
TURNS = guesses_for(hidden_in(TASK))


async def played_group() -> RolloutGroup:
    engine = ScriptedEngine(by_turn(TURNS), spans=lambda n, length: [(3, length)])
    async with served(GUESS) as site:
        trajectories = await Player(site, engine).group(TASK, samples=3)
    return RolloutGroup(group_id="run/0", task=TASK, trajectories=trajectories, worker_id="w")


async def test_each_sample_plays_its_own_episode_and_the_environment_gives_the_verdict() -> None:
    group = await played_group()
    assert [t.verdict.outcome for t in group.trajectories if t.verdict] == [Outcome.PASS, Outcome.PASS, Outcome.FAIL]
    assert [t.verdict.parts["turns"] for t in group.trajectories if t.verdict] == [1, 2, 4]
    assert {t.finish_reason for t in group.trajectories} == {FinishReason.ENVIRONMENT}
    assert [t.seed for t in group.trajectories] == [100, 101, 102]
    assert [t.completion for t in group.trajectories] == ["\n".join(turns) for turns in TURNS]
    hint = ">" if int(TURNS[1][0]) < int(TURNS[1][1]) else "<"
    text = characters.tokenizer().decode(group.trajectories[1].token_ids.tolist())
    assert text == f"<bos>g9?{TURNS[1][0]}<eos>{hint}{TURNS[1][1]}<eos>"


async def test_a_group_of_episodes_is_the_same_after_the_wire() -> None:
    group = await played_group()
    back = codec.group_from_bytes(codec.group_to_bytes(group))
    for sent, got in zip(group.trajectories, back.trajectories, strict=True):
        assert got.segments == sent.segments
        assert got.policy_spans == sent.policy_spans
        assert got.token_ids.tolist() == sent.token_ids.tolist()
        assert got.behavior_logprobs.tolist() == sent.behavior_logprobs.tolist()
        assert got.verdict == sent.verdict


async def test_no_gradient_reaches_a_token_of_the_environment() -> None:
    group = await played_group()
    algorithm = registry.create(GrpoConfig())
    layout = BatchLayout(tokens_per_micro_batch=64, max_new_tokens=64)
    batch = collate([group], algorithm, layout, version=4)
    seen = 0
    for micro in (m for rank in batch.micro_batches for m in rank):
        logprobs = (micro.behavior_logprobs - 0.1).requires_grad_()
        algorithm.loss(PolicyOutputs(logprobs=logprobs), micro, batch.denominator).loss.backward()
        assert logprobs.grad is not None
        for row, numbers in enumerate(micro.sequence_ids):
            trajectory = group.trajectories[int(numbers[0])]
            sampled = torch.from_numpy(trajectory.sampled_mask)
            gradient = logprobs.grad[row, : len(sampled)]
            assert (gradient[sampled] != 0).all()
            assert (gradient[~sampled] == 0).all()
            assert (micro.lag[row, : len(sampled)][sampled] == 1).all()
            seen += sum(s.length for s in trajectory.segments if s.kind is SegmentKind.ENVIRONMENT)
    assert seen == 1 + 3  # hints of the second sample, hints and a refusal of the third


async def test_without_the_environments_verdict_the_verifier_judges_what_the_policy_wrote_in_all_turns() -> None:
    environment = CalculatorEnvironment(min_terms=2, max_terms=2)
    task = environment.task("train", 0, 0)
    first, second = str(task.prompt).removesuffix("?").split("+")
    total = str(int(first) + int(second))
    # The third never answers; the calculator's words are not its own.
    turns = [[f"c{task.prompt[:-1]}=", f"#{total}"], ["#1+"], ["c1+1=", "c", "g", "5", "5", "5"]]
    async with served(environment) as site:
        player = Player(site, ScriptedEngine(by_turn(turns)))
        trajectories = await player.group(task, samples=3)
    assert player.judged == ["\n".join(said) for said in turns]
    assert [t.verdict.reward for t in trajectories if t.verdict] == [1, 0, 0]
    text = characters.tokenizer().decode(trajectories[0].token_ids.tolist())
    assert text == f"<bos>{task.prompt}c{task.prompt[:-1]}=<eos>{total};#{total}<eos>"


@pytest.mark.parametrize(("limits", "tokens"), [({"max_turns": 2}, 64), ({}, 3)])
async def test_a_policy_out_of_turns_or_tokens_gets_the_verdict_so_far(limits: dict[str, int], tokens: int) -> None:
    async with served(GUESS) as site:
        player = Player(site, ScriptedEngine(by_turn([TURNS[2]])), **limits)
        [trajectory] = await player.group(TASK, tokens=tokens)
    assert trajectory.finish_reason is FinishReason.LENGTH
    assert trajectory.verdict is not None
    assert (trajectory.verdict.outcome, trajectory.verdict.parts["turns"]) == (Outcome.FAIL, 2)
    assert player.judged == []


class Flaky(GuessEnvironment):
    """Breaks at the second turn of the first ``failures`` episodes."""

    def __init__(self, failures: int) -> None:
        super().__init__(max_number=9, turns=4)
        self.failures = failures
        self.opened = 0

    def open(self, task: Task) -> Any:
        self.opened += 1
        return FlakyEpisode(super().open(task), broken=self.opened <= self.failures)


class FlakyEpisode:
    def __init__(self, episode: Any, *, broken: bool) -> None:
        self._episode = episode
        self._broken = broken
        self._taken = 0

    def step(self, text: str) -> Turn:
        self._taken += 1
        if self._broken and self._taken == 2:
            raise RuntimeError("board lost")
        turn: Turn = self._episode.step(text)
        return turn


async def test_an_episode_that_breaks_twice_is_played_from_its_start_with_nothing_sampled_anew() -> None:
    environment = Flaky(failures=2)
    engine = ScriptedEngine(by_turn([TURNS[1]]))
    async with served(environment) as site:
        [trajectory] = await Player(site, engine).group(TASK)
    assert (environment.opened, len(engine.calls)) == (3, 2)
    assert trajectory.verdict is not None
    assert (trajectory.verdict.outcome, trajectory.verdict.parts["turns"]) == (Outcome.PASS, 2)


async def test_an_environment_that_stays_broken_is_no_verdict_that_names_it_and_never_a_reward() -> None:
    environment = Flaky(failures=99)
    engine = ScriptedEngine(by_turn(TURNS))
    async with served(environment) as site:
        good, bad = (await Player(site, engine, attempts=2).group(TASK, samples=2))[:2]
    assert good.verdict is not None and good.verdict.outcome is Outcome.PASS  # over after one turn
    assert bad.finish_reason is FinishReason.ABORT
    assert bad.verdict is not None and not bad.verdict.has_reward
    failure = bad.verdict.failure
    assert failure is not None
    assert (failure.source, failure.kind) == ("environment:guess", FailureKind.CRASH)
    assert "environment 'guess': RuntimeError: board lost" in failure.message
    assert environment.opened == 1 + 2


class Whimsical(GuessEnvironment):
    """Answers each episode otherwise than the one before, and breaks the first at its second turn."""

    def __init__(self) -> None:
        super().__init__(max_number=9, turns=4)
        self.opened = 0

    def open(self, task: Task) -> Any:
        self.opened += 1
        return WhimsicalEpisode(self.opened)


class WhimsicalEpisode:
    def __init__(self, number: int) -> None:
        self._number = number
        self._taken = 0

    def step(self, text: str) -> Turn:
        self._taken += 1
        if self._number == 1 and self._taken == 2:
            raise RuntimeError("board lost")
        return Turn(messages=(Message(role="user", content=str(self._number)),))


async def test_an_environment_that_answers_the_same_texts_otherwise_is_found_out() -> None:
    async with served(Whimsical()) as site:
        [trajectory] = await Player(site, ScriptedEngine(by_turn([TURNS[2]]))).group(TASK)
    assert trajectory.verdict is not None and trajectory.verdict.failure is not None
    assert "'guess': answered '" in trajectory.verdict.failure.message
    assert "differently than before" in trajectory.verdict.failure.message


async def test_a_full_server_is_waited_for_and_counts_as_no_failure() -> None:
    engine = ScriptedEngine(by_turn([TURNS[1]] * 2), seconds=0.05)
    async with served(GUESS, limits=EpisodesConfig(max_episodes=1)) as site:
        trajectories = await Player(site, engine, attempts=1).group(TASK, samples=2)
    assert [t.verdict.reward for t in trajectories if t.verdict] == [1, 1]


async def test_a_hanging_turn_is_a_timeout_of_the_environment() -> None:
    class Hanging(GuessEnvironment):
        def open(self, task: Task) -> Any:
            episode = OddEpisode(OddEnvironment(), task)
            episode.step = lambda text: OddEpisode.step(episode, "sleep 0.3")  # type: ignore[method-assign]
            return episode

    limits = EpisodesConfig(turn_seconds=0.05)
    async with served(Hanging(max_number=9, turns=4), limits=limits) as site:
        [trajectory] = await Player(site, ScriptedEngine(by_turn([TURNS[1]])), attempts=2).group(TASK)
    assert trajectory.verdict is not None and trajectory.verdict.failure is not None
    assert trajectory.verdict.failure.kind is FailureKind.TIMEOUT
    assert "'guess': gave no answer within episodes.turn_seconds = 0.05" in trajectory.verdict.failure.message


async def test_a_dead_engine_is_no_fault_of_the_environment_and_ends_the_group() -> None:
    def script(call: Call, number: int) -> list[int]:
        if number == 2:
            raise EngineDied("engine: EngineCore was killed")
        return characters.ids("5<eos>")

    async with served(GUESS) as site:
        with pytest.raises(EngineDied):
            await Player(site, ScriptedEngine(script)).group(TASK, samples=3)


async def test_episodes_go_on_elsewhere_when_their_server_is_killed() -> None:
    turns = [[TURNS[2][0], "g", TURNS[2][0], str(hidden_in(TASK))]] * 4
    async with episode_site() as site, AsyncExitStack() as stack:
        names = ("environment-0", "environment-1")
        servers = [await stack.enter_async_context(child("guess_actor.py", name, site.hub.address)) for name in names]
        async with asyncio.timeout(20):
            while len(site.pool.endpoints) < 2:
                await asyncio.sleep(0.02)

        def script(call: Call, number: int) -> list[int]:
            if number == 6:
                servers[0].signal(signal.SIGKILL)
            return by_turn(turns)(call, number)

        engine = ScriptedEngine(script, spans=lambda n, length: [(0, length)], seconds=0.05)
        trajectories = await Player(site, engine).group(TASK, samples=4)
        assert await servers[0].exit_code() == -signal.SIGKILL
    assert [t.verdict.reward for t in trajectories if t.verdict] == [1, 1, 1, 1]
    assert len(engine.calls) == 4 * 4
    assert all(t.token_ids.tolist() == trajectories[0].token_ids.tolist() for t in trajectories)
