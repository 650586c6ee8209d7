"""Multi-turn tasks: plays every sample of a group as an episode of its own, all at once.

The verdict of an episode is the last one its environment gave, else that of the task's verifier on the policy's texts,
one turn a line. When no environment server can finish an episode, its verdict is "no verdict" and names the
environment.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rlserve.actors.rollout.episodes.dialogue import Dialogue, EpisodeRequest, PolicyFailed
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.engines.base import Generator, SamplingChoice
from rlserve.engines.tool_calls import ToolCallReader
from rlserve.errors import DeadlineExceeded, InvalidRequest, PluginFailed, RlserveError
from rlserve.gather import gather_or_cancel
from rlserve.records import (
    Failure,
    FailureKind,
    FinishReason,
    Lease,
    Task,
    Trajectory,
    Verdict,
)
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.prompts import Prompt

RunEpisode = Callable[[Dialogue], Awaitable[None]]
Verify = Callable[[Task, str, Sequence[str]], Awaitable[Sequence[Verdict]]]
"""Verdicts of a task's completions; the text is the prompt as the chat template wrote it."""
TURNS_APART = "\n"
"""Between turns in a trajectory's completion, so that a verifier can tell the end of one from the start of the next."""


@dataclass(frozen=True, slots=True)
class _Played:
    """One finished episode."""

    dialogue: Dialogue
    failure: Failure | None

    @property
    def completion(self) -> str:
        return TURNS_APART.join(self.dialogue.texts)


class EpisodeWorker:
    """Plays the samples of a group against the environment of their task.

    Example::

        episodes = EpisodeWorker(engine=engine, tokens=tokens, tool_calls=ToolCallReader("auto", tokens.tokenizer),
                                 run_episode=EpisodeClient(pool, config), verify=verify, limits=config,
                                 max_length=2048)
        trajectories = await episodes.trajectories(lease, task, prompt, sampling)
    """

    def __init__(
        self,
        *,
        engine: Generator,
        tokens: ModelTokens,
        tool_calls: ToolCallReader,
        run_episode: RunEpisode,
        verify: Verify,
        limits: EpisodesConfig,
        max_length: int,
    ) -> None:
        """``run_episode`` plays a dialogue to its end or raises, as ``EpisodeClient`` does."""
        self._engine = engine
        self._tokens = tokens
        self._tool_calls = tool_calls
        self._run_episode = run_episode
        self._verify = verify
        self._limits = limits
        self._max_length = max_length

    async def trajectories(
        self, lease: Lease, task: Task, prompt: Prompt, sampling: SamplingChoice
    ) -> tuple[Trajectory, ...]:
        """One trajectory per sample; sample i is drawn with ``lease.seed + i``. Raises what sampling raises."""
        started = time.time()
        requests = [
            EpisodeRequest(
                task=task,
                prompt=prompt.token_ids,
                sampling=sampling,
                seed=lease.seed + index,
                request_id=f"{lease.group_id}/{index}",
                max_length=self._max_length,
            )
            for index in range(lease.num_samples)
        ]
        # When sampling fails for one, the lease goes back: the other episodes would be lost work.
        episodes = await gather_or_cancel([self._play(request) for request in requests])
        played = time.time()
        verdicts = await self._verdicts(task, prompt.text, episodes)
        finished = time.time()
        return tuple(
            episode.dialogue.transcript.trajectory(
                episode.dialogue.finish_reason or FinishReason.ABORT,
                index=index,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=lease.seed + index,
            ).judged(
                verdict,
                completion=episode.completion,
                started=started,
                finished=finished,
                verification_seconds=finished - played,
            )
            for index, (episode, verdict) in enumerate(zip(episodes, verdicts, strict=True))
        )

    async def _play(self, request: EpisodeRequest) -> _Played:
        dialogue = Dialogue(
            request, engine=self._engine, tokens=self._tokens, tool_calls=self._tool_calls, limits=self._limits
        )
        try:
            await self._run_episode(dialogue)
        except PolicyFailed as error:
            raise error.cause from error
        # This episode alone: the group goes on with "no verdict" for it.
        except RlserveError as error:
            return _Played(dialogue, _failure(request.task.environment, error))
        finally:
            dialogue.close()
        return _Played(dialogue, None)

    async def _verdicts(self, task: Task, prompt: str, episodes: Sequence[_Played]) -> list[Verdict]:
        verdicts = {i: _given(task, episode) for i, episode in enumerate(episodes)}
        open_ = [i for i, verdict in verdicts.items() if verdict is None]
        judged = await self._verify(task, prompt, [episodes[i].completion for i in open_]) if open_ else ()
        found = {**verdicts, **dict(zip(open_, judged, strict=True))}
        return [verdict for i in range(len(episodes)) if (verdict := found[i]) is not None]


def _given(task: Task, episode: _Played) -> Verdict | None:
    """The verdict that needs no verifier: the environment's, or "no verdict". None when a verifier must be asked."""
    if episode.failure is not None:
        return Verdict.none(episode.failure)
    if episode.dialogue.verdict is not None or task.verifier:
        return episode.dialogue.verdict
    error = PluginFailed("gave no verdict, and its task names no verifier; give one of the two")
    return Verdict.none(_failure(task.environment, error))


def _failure(name: str, error: RlserveError) -> Failure:
    kind = FailureKind.UNAVAILABLE
    match error:
        case DeadlineExceeded():
            kind = FailureKind.TIMEOUT
        case PluginFailed():
            kind = FailureKind.CRASH
        case InvalidRequest():
            kind = FailureKind.INVALID
    message = str(error) if repr(name) in str(error) else f"environment {name!r}: {error}"
    return Failure(source=f"environment:{name}", kind=kind, message=message, retriable=kind is not FailureKind.INVALID)
