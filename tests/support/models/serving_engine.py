"""A rollout engine that serves a tiny model, the versions it was given, and the model to check it with."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlserve.engines.base import EngineOptions, RolloutEngine, SamplingChoice
from rlserve.records import PolicyVersion, Sample
from tests.support.models.tiny_policies import Weights, logprobs_under, publish, weights_of

LONG = SamplingChoice(max_new_tokens=300)


class Serving:
    """``await start(engine class, model, directory)``; ``close`` the engine in the end."""

    def __init__(self, engine: Any, model: Any, directory: Path) -> None:
        self.engine, self.model, self.directory = engine, model, directory
        self.versions: dict[int, Weights] = {0: weights_of(model)}

    @classmethod
    async def start(cls, kind: type[RolloutEngine], model: Any, directory: Path, **more: Any) -> "Serving":
        model.save_pretrained(directory / "model")
        options = EngineOptions(model_path=str(directory / "model"), dtype="float32", max_length=512, **more)
        return cls(await kind.start(options), model, directory)

    @property
    def path(self) -> Path:
        return self.directory / "weights.bin"

    def publish(self, weights: Weights) -> PolicyVersion:
        version = max(self.versions) + 1
        self.versions[version] = weights
        return publish(weights, version, self.path)

    async def update(self, weights: Weights) -> PolicyVersion:
        policy = self.publish(weights)
        await self.engine.stage(policy, self.path)
        report = await self.engine.swap(policy)
        assert (report.version, report.digest) == (policy.version, policy.digest)
        return policy

    async def sample(self, prompt: Sequence[int], *, n: int = 1, seed: int = 0, tokens: int = 64) -> list[Sample]:
        sampling = SamplingChoice(max_new_tokens=tokens)
        return await self.engine.generate(prompt, n=n, sampling=sampling, seed=seed, request_id=f"sample-{seed}")

    def error(self, prompt: Sequence[int], sample: Sample, version: int) -> float:
        """Largest difference to log-probabilities computed under one version alone."""
        expected = logprobs_under(self.model, self.versions[version], prompt, sample.token_ids)
        return float(np.abs(expected - sample.logprobs).max())

    @contextlib.asynccontextmanager
    async def running(self, *prompts: Sequence[int], n: int) -> AsyncIterator["Running"]:
        """``n`` long sequences of each prompt, each with its first tokens; those left are cancelled at the end."""
        running = Running(self.engine, [tuple(prompt) for prompt in prompts for _ in range(n)])
        await running.progress()
        try:
            yield running
        finally:
            await running.cancel()


class Running:
    """Sequences in an engine. Each is a request of its own, so that its tokens can be counted."""

    def __init__(self, engine: RolloutEngine, prompts: Sequence[tuple[int, ...]]) -> None:
        self.names = [f"running-{i}" for i in range(len(prompts))]
        self._engine = engine
        self._prompts = prompts
        self._tasks = [
            asyncio.create_task(engine.generate(prompt, n=1, sampling=LONG, seed=i, request_id=name))
            for i, (name, prompt) in enumerate(zip(self.names, prompts, strict=True))
        ]

    async def progress(self, tokens: int = 5) -> None:
        """Wait until each sequence has some more tokens."""
        goals = {name: self._engine.tokens_of(name) + tokens for name in self.names}
        async with asyncio.timeout(60):
            while any(self._engine.tokens_of(name) < goal for name, goal in goals.items()):
                await asyncio.sleep(0.005)

    async def finished(self) -> list[tuple[tuple[int, ...], Sample]]:
        """Each prompt with its completion."""
        return [(p, sample) for p, [sample] in zip(self._prompts, await asyncio.gather(*self._tasks), strict=True)]

    async def errors(self) -> list[Any]:
        """What each sequence ended with."""
        return await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Stop those left, and forget them: the next to run have the same names."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=5)
        for name in self.names:
            self._engine.forget(name)
