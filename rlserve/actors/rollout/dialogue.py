"""The policy's side of one episode: speak, hear, and know when it is over. Knows no stream.

It outlives the streams that carry it: an environment server that dies is replaced, the new one hears the same texts
again (``exchanges``), and sampling goes on where it stood. A turn is sampled once, also when the stream breaks
meanwhile.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from rlserve.actors.model_tokens import ModelTokens
from rlserve.actors.rollout.continuation import Exchange, continuation
from rlserve.actors.rollout.transcript import Transcript
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.engines.base import Generator, SamplingChoice
from rlserve.errors import TaskRefused, Unavailable
from rlserve.records import FinishReason, Task, Turn, Verdict


class PolicyFailed(Exception):
    """Sampling or the chat template failed, for the reason in ``cause``: no fault of the environment."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The policy's part in one episode."""

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

    def __init__(self, part: Part, *, engine: Generator, tokens: ModelTokens, limits: EpisodesConfig) -> None:
        self.task = part.task
        self.episode_id = part.request_id
        self.transcript = Transcript(part.prompt)
        self.exchanges: list[Exchange] = []
        self.finish_reason: FinishReason | None = None
        """None while it goes on."""
        self._part = part
        self._engine = engine
        self._tokens = tokens
        self._limits = limits
        self._speaking: asyncio.Task[tuple[str, FinishReason]] | None = None

    @property
    def texts(self) -> list[str]:
        """What the policy wrote, turn by turn."""
        return [exchange.text for exchange in self.exchanges]

    @property
    def verdict(self) -> Verdict | None:
        """The environment's last word; None when it left the verdict to others."""
        return self.exchanges[-1].turn.verdict if self.exchanges else None

    async def speak(self) -> tuple[str, FinishReason] | None:
        """The policy's next text, or None when the episode is over; the same until ``hear`` is called.

        Raises PolicyFailed.
        """
        if self.finish_reason is not None:
            return None
        if self._speaking is None:
            self._speaking = asyncio.create_task(self._sample())
        return await asyncio.shield(self._speaking)

    def hear(self, text: str, finish_reason: FinishReason, turn: Turn) -> None:
        """Take the environment's answer to what ``speak`` gave. Raises PolicyFailed when the template refuses it."""
        self._speaking = None
        self.exchanges.append(Exchange(text, finish_reason, turn))
        self.finish_reason = self._why_over(turn)

    def close(self) -> None:
        """Stop sampling."""
        if self._speaking is not None:
            self._speaking.cancel()

    def _why_over(self, turn: Turn) -> FinishReason | None:
        if turn.done:
            return FinishReason.ENVIRONMENT
        transcript = self.transcript
        if transcript.num_samples >= self._limits.max_turns or self._tokens_left <= 0:
            return FinishReason.LENGTH
        last = transcript.context[-1]
        try:
            ids = continuation(self._tokens.tokenizer, self.task, self.exchanges, last_token=last)
        except TaskRefused as error:  # by our template: the environment is not to blame
            raise PolicyFailed(error) from error
        if len(transcript) + len(ids) >= self._part.max_length:
            return FinishReason.LENGTH
        transcript.add_environment(ids)
        return None

    @property
    def _tokens_left(self) -> int:
        return self._part.sampling.max_new_tokens - self.transcript.num_sampled

    async def _sample(self) -> tuple[str, FinishReason]:
        part, turn = self._part, self.transcript.num_samples
        room = min(self._tokens_left, part.max_length - len(self.transcript))
        try:
            [sample] = await self._engine.generate(
                self.transcript.context,
                n=1,
                sampling=replace(part.sampling, max_new_tokens=min(room, self._limits.max_turn_tokens or room)),
                seed=turn_seed(part.seed, turn),
                request_id=f"{part.request_id}/turn-{turn}",
            )
            if sample.finish_reason is FinishReason.ABORT:
                raise Unavailable(f"engine: turn {turn} of {part.request_id} was cancelled")
        except Exception as error:
            raise PolicyFailed(error) from error
        self.transcript.add_sample(sample)
        return self._tokens.text(sample.token_ids.tolist()), sample.finish_reason


def turn_seed(seed: int, turn: int) -> int:
    """Seed of one turn: that of the sample at first, then others, so that turns do not share their noise."""
    if turn == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/{turn}".encode(), digest_size=7).digest())
