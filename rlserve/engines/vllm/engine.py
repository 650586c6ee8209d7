"""vLLM as a rollout engine: AsyncLLM in this process, token ids in and out, weights swapped while it generates.

``generate``  waits for: a free slot, the end of a swap, its last token.  unblocked by: EngineCore.
``stage``     waits for: the worker's thread that reads and checks; generation goes on.
``swap``      waits for: the running step, then holds all generation for the swap itself, keeping every KV block;
              then for the digest, while generation goes on.

When EngineCore dies, or hangs (see ``watch``), each of these raises EngineDied at once and ``died`` is set.
"""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from rlserve.engines.base import EngineOptions, SamplingChoice, SwapReport
from rlserve.engines.vllm.link import DIGEST, STAGE, EngineLink
from rlserve.engines.vllm.options import sampling_parameters
from rlserve.engines.vllm.outputs import to_sample
from rlserve.engines.vllm.starting import start as engine_start
from rlserve.engines.vllm.starting.progress import launched
from rlserve.engines.vllm.watch import LOOK_SECONDS, EngineWatch
from rlserve.errors import EngineDied, InvalidRequest, NotReady
from rlserve.gather import gather_or_cancel
from rlserve.processor_time import processor_time
from rlserve.records import PolicyVersion, Sample
from rlserve.weight_sync.device_memory import DeviceMemory
from rlserve.weight_sync.manifest import combined_digest


class VllmEngine:
    """One vLLM engine. ``RolloutEngine`` has the promises of each call, and an example."""

    def __init__(self, link: EngineLink, options: EngineOptions, version: int) -> None:
        """For ``start`` alone."""
        self._link = link
        self._options = options
        self._version = version
        self.vocabulary_size: int = link.llm.model_config.get_vocab_size()
        # Requests wait here rather than in EngineCore, where they would get the cache salt of weights from before.
        self._slots = asyncio.Semaphore(options.max_num_seqs)
        self._open = asyncio.Event()  # clear during a swap, so that no request enters between its calls
        self._open.set()
        self._updating = asyncio.Lock()  # one of stage, swap and digest at a time: they share the worker's job slots
        self._staged: tuple[int, float] | None = None  # version, seconds it took
        self._running = self._finished = self._num_swaps = 0
        self._tokens_of: Counter[str] = Counter()  # of finished requests, by their id
        self._in_engine: set[str] = set()
        self._watching = asyncio.create_task(self._watch())
        self.method = ""
        """How weights are updated: ``"exchange"``, ``"copy"`` or ``"reload"``; ``staged_weights`` explains both."""
        self.device = ""
        """See ``RolloutEngine.device``."""
        self.died = link.died

    @classmethod
    def prepare_process(cls) -> None:
        """Fork the fork server off, see ``start.fork_early``."""
        engine_start.fork_early()

    @classmethod
    def warm_up(cls) -> None:
        """Import vLLM here and in the fork server: ``start`` then takes a third of the time."""
        engine_start.warm_up()

    @classmethod
    async def start(cls, options: EngineOptions, *, version: int = 0, **others: Any) -> Self:
        """Start vLLM on the checkpoint. Raises DeadlineExceeded, ConfigError, and what vLLM raises.

        ``others`` are further arguments of vLLM's ``AsyncEngineArgs``.
        """
        llm = await launched(options, **others)
        engine = cls(EngineLink(llm, limit_seconds=options.update_seconds), options, version)
        try:
            await engine.choose_update_method("auto")
            await engine._link.call("name the weights", llm.update_weight_version(str(version)))
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def version(self) -> int:
        """Version of the weights that sample now."""
        return self._version

    @property
    def alive(self) -> bool:
        """False once EngineCore is gone or ``close`` was called."""
        return self._link.alive

    @property
    def llm(self) -> Any:
        """vLLM's ``AsyncLLM`` itself, for benches that compare with plain calls."""
        return self._link.llm

    @property
    def process_ids(self) -> list[int]:
        """Processes of the engine, for supervision."""
        return self._link.process_ids

    def read_with(self, tokenizer: Any) -> None:
        """Look for ``SamplingChoice.stop`` in the text that this Hugging Face tokenizer makes of the samples."""
        self._link.llm.output_processor.tokenizer = tokenizer

    @property
    def death(self) -> str:
        """Why the engine is gone; empty while it lives."""
        return self._link.reason

    def tokens_of(self, request_id: str) -> int:
        """Tokens sampled so far by the requests below ``request_id``, finished ones too until ``forget``."""
        prefix = f"{request_id}/"
        finished = sum(tokens for name, tokens in self._tokens_of.items() if name.startswith(prefix))
        return finished + sum(self._tokens_in_engine(name) for name in self._in_engine if name.startswith(prefix))

    def runs(self, request_id: str) -> bool:
        """Whether EngineCore works on requests below ``request_id``."""
        return any(name.startswith(f"{request_id}/") for name in self._in_engine)

    def forget(self, request_id: str) -> None:
        """Drop the counts of the requests below ``request_id``."""
        prefix = f"{request_id}/"
        for name in [name for name in self._tokens_of if name.startswith(prefix)]:
            del self._tokens_of[name]

    async def generate(
        self, prompt_token_ids: Sequence[int], *, n: int, sampling: SamplingChoice, seed: int, request_id: str
    ) -> list[Sample]:
        """``n`` completions of one prompt; completion i is drawn with ``seed + i``.

        Raises InvalidRequest, Unavailable, EngineDied.
        """
        self._check_prompt(prompt_token_ids)
        if sampling.stop and self._link.llm.output_processor.tokenizer is None:
            raise InvalidRequest("sampling.stop: this engine has no tokenizer; give stop_token_ids")
        prompt = list(prompt_token_ids)
        return await gather_or_cancel(
            [self._generate_one(prompt, sampling, seed + i, f"{request_id}/{i}") for i in range(n)]
        )

    async def stage(self, policy: PolicyVersion, path: Path, memory: DeviceMemory | None = None) -> None:
        """Read, check and prepare a version in vLLM's worker. Raises WeightsMismatch, EngineDied, DeadlineExceeded."""
        async with self._updating:
            self._staged = None
            # A manifest crosses as plain values: vLLM's serializer takes no dataclass of its callers.
            states = await self._link.job(STAGE, asdict(policy), str(path), asdict(memory) if memory else None)
            self._staged = policy.version, max(state["seconds"] for state in states)

    async def swap(self, policy: PolicyVersion) -> SwapReport:
        """Make the staged version the served one.

        A sequence that was handed to the engine before the swap may share prompt blocks computed by the older version;
        any later one computes its own. Raises NotReady, EngineDied, DeadlineExceeded.
        """
        # Shielded: a swap that stops halfway leaves half-loaded weights, and the engine would have to be killed.
        return await asyncio.shield(self._swap(policy))

    async def _swap(self, policy: PolicyVersion) -> SwapReport:
        async with self._updating:
            self._link.check_alive()
            if self._staged is None or self._staged[0] != policy.version:
                raise NotReady(f"version {policy.version}: is not staged; stage it before the swap")
            (_, stage_seconds), self._staged = self._staged, None
            running = self._running
            stall, held = await self._exchange(policy.version)
            self._num_swaps += 1
            digest = await self._digest(policy)
        return SwapReport(
            version=policy.version,
            digest=digest,
            stall_seconds=stall,
            held_seconds=held,
            running_sequences=running,
            stage_seconds=stage_seconds,
        )

    async def choose_update_method(self, method: str) -> None:
        """``"auto"`` exchanges or copies weights where a check proves that right; ``"reload"`` lets vLLM load them.

        Choose ``"auto"`` only before the first swap: the check compares with the start checkpoint.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        request = WeightTransferInitRequest(init_info={"method": method, "adapter_scale": self._options.adapter_scale})
        await self._link.call("choose how to update", self._link.llm.init_weight_transfer_engine(request))
        chosen = {tuple(answer) for answer in await self._link.ask_all("ask how to update", "update_method")}
        if len(chosen) > 1:  # a rank could not check its part: they must all do the same
            return await self.choose_update_method("reload")
        [(self.method, self.device)] = chosen
        return None

    async def close(self) -> None:
        """End EngineCore; calls in progress raise EngineDied. Safe to call twice."""
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching
        self._link.close()

    async def _watch(self) -> None:
        """Declare the engine lost when it hangs."""
        watch = EngineWatch(self._options.stall_seconds)
        while self._link.alive:
            await asyncio.sleep(LOOK_SECONDS)
            asked = bool(self._in_engine or self._link.num_waiting)
            # An idle engine is not measured: nothing waits for it, so nothing can hang.
            times = processor_time(*self.process_ids) if asked else processor_time()
            tokens = sum(self._tokens_in_engine(name) for name in self._in_engine)
            problem = watch.look(
                asked=asked,
                sampling=bool(self._in_engine) and self._open.is_set() and not self._link.num_waiting,
                output=(tokens, self._finished, len(self._in_engine), self._link.num_answered, self._num_swaps),
                processor_seconds=times.used_seconds + times.waited_seconds,
            )
            if problem:
                self._link.give_up(f"EngineCore hangs: {problem} (rollout.stall_seconds)")

    def _tokens_in_engine(self, request_id: str) -> int:
        processor = self._link.llm.output_processor
        states = [processor.request_states.get(name) for name in processor.external_req_ids.get(request_id, ())]
        return sum(state.detokenizer.num_output_tokens() for state in states if state is not None)

    async def _generate_one(self, prompt: list[int], sampling: SamplingChoice, seed: int, request_id: str) -> Sample:
        async with self._slots:
            self._running += 1
            try:
                await self._open.wait()
                sample = await self._sample(prompt, sampling, seed, request_id)
            finally:
                self._running -= 1
        self._finished += 1
        return sample

    async def _sample(self, prompt: list[int], sampling: SamplingChoice, seed: int, request_id: str) -> Sample:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        started = time.monotonic()
        # Salted by the number of swaps, so that no request finds a prompt prefix that other weights computed. Not by
        # the version: a learner that resumed from a checkpoint may publish the same number with other weights.
        request = {"prompt_token_ids": prompt, "cache_salt": str(self._num_swaps)}
        parameters = sampling_parameters(sampling, seed)
        self._in_engine.add(request_id)
        try:
            async for output in self._link.llm.generate(request, parameters, request_id=request_id):
                final = output.outputs[0]
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineDied(f"engine: {request_id} was lost with EngineCore ({self.death or error})") from error
        except (VLLMClientError, ValueError) as error:
            raise InvalidRequest(f"sampling: vLLM refused {request_id}: {error}") from error
        finally:
            self._in_engine.discard(request_id)
        self._link.check_alive()  # a completion cut by a dying engine must not pass as a finished one
        self._tokens_of[request_id] = len(final.token_ids)
        return to_sample(final, seconds=time.monotonic() - started)

    async def _exchange(self, version: int) -> tuple[float, float]:
        """Seconds from the call to pause, and from the end of the running step, until generation resumed."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        link, llm = self._link, self._link.llm
        update = WeightTransferUpdateRequest(update_info={"version": version})
        self._open.clear()
        try:
            started = time.monotonic()
            # Not AsyncLLM.pause_generation: in vLLM 0.32 it sleeps another 20 ms, so that its logs look tidy.
            await link.call("pause", llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=False))
            paused = time.monotonic()
            # EngineCore serves calls in the order sent: sent together, they cost one round trip instead of three,
            # and below one instead of two. Relabelling comes before resuming, so no token gets the old label.
            steps = (llm.start_weight_update(), llm.update_weights(update), llm.finish_weight_update())
            await link.call("update", asyncio.gather(*steps))
            relabel = llm.update_weight_version(str(version)), llm.engine_core.resume_scheduler_async()
            await link.call("resume", asyncio.gather(*relabel))
            self._version = version
        except BaseException as error:  # whatever it was, the next token could come from a mixture of two versions
            link.give_up(f"the swap to version {version} broke off, weights may be half loaded: {error!r}")
            raise
        finally:
            self._open.set()
        return time.monotonic() - started, time.monotonic() - paused

    async def _digest(self, policy: PolicyVersion) -> str:
        results = [state["result"] for state in await self._link.job(DIGEST)]
        digest = results[0]
        if digest.startswith("{"):  # of several ranks, each of which knows its parts
            digest = combined_digest(policy, [json.loads(result) for result in results])
        if digest != policy.digest:
            # Served already: tokens under a wrong version exist, so the engine must end rather than go on.
            self._link.give_up(f"version {policy.version} has digest {digest} as served, {policy.digest} as published")
            self._link.check_alive()
        return digest

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        longest, largest = self._options.max_length - 1, self.vocabulary_size - 1
        if not 0 < len(prompt) <= longest:
            raise InvalidRequest(f"prompt_token_ids: {len(prompt)} tokens; give 1 to {longest}")
        # Without a tokenizer vLLM does not check ids, and one beyond the embedding ends EngineCore.
        if min(prompt) < 0 or max(prompt) > largest:
            raise InvalidRequest(f"prompt_token_ids: {min(prompt)} to {max(prompt)}; give 0 to {largest}")
