"""A generator whose turns are scripted: it stands in for vLLM at the one call that episodes make."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlserve.engines.base import SamplingChoice
from rlserve.records import FinishReason, PolicySpan, Sample


@dataclass(frozen=True)
class Call:
    """What the engine was asked."""

    prompt: tuple[int, ...]
    sampling: SamplingChoice
    seed: int
    request_id: str


@dataclass
class ScriptedEngine:
    """``script(call, number)`` gives the tokens of each call; they are cut as an engine cuts them."""

    script: Callable[[Call, int], Sequence[int]]
    spans: Callable[[int, int], Sequence[tuple[int, int]]] = lambda number, length: [(number, length)]
    """(number of the call, its sampled tokens) to (version, length) pairs."""
    seconds: float = 0.0
    calls: list[Call] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    async def generate(
        self, prompt_token_ids: Sequence[int], *, n: int, sampling: SamplingChoice, seed: int, request_id: str
    ) -> list[Sample]:
        assert n == 1
        assert sampling.max_new_tokens >= 1
        call, number = Call(tuple(prompt_token_ids), sampling, seed, request_id), len(self.calls)
        self.calls.append(call)
        await asyncio.sleep(self.seconds)
        ids = self._cut(list(self.script(call, number)), sampling)
        ended = ids[-1] in sampling.stop_token_ids
        self.samples.append(
            Sample(
                token_ids=np.array(ids, dtype=np.int64),
                logprobs=-np.random.default_rng(number).random(len(ids)).astype(np.float32),
                policy_spans=tuple(PolicySpan(v, length) for v, length in self.spans(number, len(ids))),
                finish_reason=FinishReason.STOP if ended else FinishReason.LENGTH,
                seconds=0.5,
            )
        )
        return [self.samples[-1]]

    def forget(self, request_id: str) -> None:
        """Nothing is kept."""

    @staticmethod
    def _cut(ids: list[int], sampling: SamplingChoice) -> list[int]:
        for place, token in enumerate(ids):
            if token in sampling.stop_token_ids:
                ids = ids[: place + 1]
                break
        return ids[: sampling.max_new_tokens]
