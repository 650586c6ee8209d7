"""The policy's side of one episode: sample a turn, receive the environment's answer, stop at a limit.

A dialogue outlives the streams to environment servers. When a server dies, another one is sent the same texts again
(``turn_pairs``), and sampling continues where it was. Each turn is sampled once, also when the stream breaks meanwhile.

Example::

    dialogue = Dialogue(request, engine=engine, tokens=tokens, tool_calls=reader, limits=EpisodesConfig())
    while (said := await dialogue.next_turn()) is not None:     # PolicyTurn: text, why it stopped, tool calls
        dialogue.receive(said, await answer(said))              # the environment's Turn
    trajectory = dialogue.transcript.trajectory(dialogue.finish_reason, ...)
    dialogue.close()
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from rlserve.actors.rollout.episodes.chat_turns import PolicyTurn, TurnPair, continuation
from rlserve.actors.rollout.episodes.transcript import Transcript
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.engines.base import Generator, SamplingChoice
from rlserve.engines.tool_calls import ToolCallReader
from rlserve.errors import TaskRefused, Unavailable
from rlserve.records import FinishReason, Task, Turn, Verdict
from rlserve.tokens.model_tokens import ModelTokens


class PolicyFailed(Exception):
    """Sampling or the chat template failed, for the reason in ``cause``. The environment is not to blame."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRequest:
    """One episode to play: the task, and how the policy samples in it."""

    task: Task
    prompt: Sequence[int]
    sampling: SamplingChoice
    """``max_new_tokens`` bounds all turns together."""
    seed: int
    request_id: str
    max_length: int
    """Context in tokens."""


class Dialogue:
    """One episode of one sample. ``close`` it in the end."""

    def __init__(
        self,
        request: EpisodeRequest,
        *,
        engine: Generator,
        tokens: ModelTokens,
        tool_calls: ToolCallReader,
        limits: EpisodesConfig,
    ) -> None:
        self.task = request.task
        self.episode_id = request.request_id
        self.transcript = Transcript(request.prompt)
        self.turn_pairs: list[TurnPair] = []
        self.finish_reason: FinishReason | None = None
        """None while it goes on."""
        self._request = request
        self._engine = engine
        self._tokens = tokens
        self._tool_calls = tool_calls
        self._limits = limits
        self._sampling: asyncio.Task[PolicyTurn] | None = None

    @property
    def texts(self) -> list[str]:
        """The policy's texts, turn by turn."""
        return [turn_pair.said.text for turn_pair in self.turn_pairs]

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of the environment's last answer; None when it gave none."""
        return self.turn_pairs[-1].turn.verdict if self.turn_pairs else None

    async def next_turn(self) -> PolicyTurn | None:
        """The policy's next turn, or None when the episode is over; the same until ``receive`` is called.

        Raises PolicyFailed.
        """
        if self.finish_reason is not None:
            return None
        if self._sampling is None:
            self._sampling = asyncio.create_task(self._sample())
        # Shielded: the stream that waits here may break, but the turn is sampled once and kept for the next stream.
        return await asyncio.shield(self._sampling)

    def receive(self, said: PolicyTurn, turn: Turn) -> None:
        """Take the environment's answer to the turn of ``next_turn``.

        Raises PolicyFailed when the chat template refuses it.
        """
        # Only here: until the answer is there, another stream must get the same turn.
        self._sampling = None
        self.turn_pairs.append(TurnPair(said, turn))
        self.finish_reason = self._why_over(turn)

    def close(self) -> None:
        """Stop sampling."""
        if self._sampling is not None:
            self._sampling.cancel()

    def _why_over(self, turn: Turn) -> FinishReason | None:
        if turn.done:
            return FinishReason.ENVIRONMENT
        transcript = self.transcript
        if transcript.num_samples >= self._limits.max_turns or self._tokens_left <= 0:
            return FinishReason.LENGTH
        last = transcript.context[-1]
        try:
            ids = continuation(self._tokens.tokenizer, self.task, self.turn_pairs, last_token=last)
        except TaskRefused as error:  # the policy's own template refuses: the environment is not to blame
            raise PolicyFailed(error) from error
        # Room for at least one sampled token must remain.
        if len(transcript) + len(ids) >= self._request.max_length:
            return FinishReason.LENGTH
        transcript.add_environment(ids)
        return None

    @property
    def _tokens_left(self) -> int:
        return self._request.sampling.max_new_tokens - self.transcript.num_sampled

    async def _sample(self) -> PolicyTurn:
        request, turn = self._request, self.transcript.num_samples
        room = min(self._tokens_left, request.max_length - len(self.transcript))
        try:
            [sample] = await self._engine.generate(
                self.transcript.context,
                n=1,
                sampling=replace(request.sampling, max_new_tokens=min(room, self._limits.max_turn_tokens or room)),
                seed=turn_seed(request.seed, turn),
                request_id=f"{request.request_id}/turn-{turn}",
            )
            # What a cancellation cut is no turn of the policy: the lease goes back instead.
            if sample.finish_reason is FinishReason.ABORT:
                raise Unavailable(f"engine: turn {turn} of {request.request_id} was cancelled")
        except Exception as error:
            raise PolicyFailed(error) from error
        self.transcript.add_sample(sample)
        text = self._tokens.text(sample.token_ids.tolist())
        calls = await self._tool_calls.read(text, self.task.tools, turn=turn)
        return PolicyTurn(text, sample.finish_reason, calls)


def turn_seed(seed: int, turn: int) -> int:
    """Seed of one turn: the sample's seed for the first turn, then one derived from it, so that no noise is shared."""
    if turn == 0:
        return seed
    # 56 bits fit any signed 64-bit seed.
    return int.from_bytes(blake2b(f"{seed}/{turn}".encode(), digest_size=7).digest())
