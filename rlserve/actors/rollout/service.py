"""RolloutService: status, pause and resume, and token-in/token-out generation for any client."""

from typing import Any

import grpc.aio

from rlserve.actors.rollout.stream import StreamSession
from rlserve.actors.rollout.weight_follower import WeightFollower
from rlserve.actors.rollout.worker import GroupWorker
from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.engines.base import RolloutEngine, SamplingChoice
from rlserve.errors import InvalidRequest, NotReady
from rlserve.records import Trajectory
from rlserve.rpc import codec
from rlserve.v1 import rollout_service_pb2 as pb
from rlserve.v1 import rollout_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RolloutService"].full_name
MAX_SAMPLES = 1024
"""Completions of one call: all of them are in one message, and larger requests can be split by the caller."""


class RolloutService(pb_grpc.RolloutServiceServicer):
    """The control service of one worker."""

    def __init__(
        self,
        *,
        worker_id: str,
        engine: RolloutEngine,
        worker: GroupWorker,
        follower: WeightFollower,
        session: StreamSession,
        rollout: RolloutConfig,
        model: ModelConfig,
        vocabulary_size: int,
    ) -> None:
        self._worker_id = worker_id
        self._engine = engine
        self._worker = worker
        self._follower = follower
        self._session = session
        self._rollout = rollout
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._num_requests = 0

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        counters = self._worker.counters
        return pb.GetStatusResponse(
            worker_id=self._worker_id,
            policy_version=self._engine.version,
            weights_digest=self._follower.digest,
            running_groups=self._session.num_running,
            finished_groups=counters.finished_groups,
            sampled_tokens=counters.sampled_tokens,
            tokens_per_second=counters.tokens_per_second,
            weight_updates=self._follower.num_updates,
            paused=self._session.paused,
        )

    async def Pause(self, request: pb.PauseRequest, context: Context) -> pb.PauseResponse:
        self._session.pause()
        return pb.PauseResponse()

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeResponse:
        self._session.resume()
        return pb.ResumeResponse()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        prompt, sampling = self._checked(request)
        self._num_requests += 1
        request_id = f"generate-{self._num_requests}"
        try:
            samples = await self._engine.generate(
                prompt, n=request.n, sampling=sampling, seed=request.seed, request_id=request_id
            )
        finally:
            self._engine.forget(request_id)
        return pb.GenerateResponse(
            trajectories=[
                codec.trajectory_to_proto(
                    Trajectory.single_turn(
                        prompt,
                        sample,
                        index=index,
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        seed=request.seed + index,
                    )
                )
                for index, sample in enumerate(samples)
            ]
        )

    def _checked(self, request: pb.GenerateRequest) -> tuple[list[int], SamplingChoice]:
        if not self._engine.alive:
            raise NotReady("engine: is not serving; the worker is starting or restarting")
        # Until then it has the start model, which a run that goes on has long left behind.
        if not self._follower.digest:
            raise NotReady("weights: the worker serves none of the learner's yet; ask again in a moment")
        prompt = list(request.prompt_token_ids)
        if not prompt or max(prompt) >= self._vocabulary_size:
            raise InvalidRequest(
                f"prompt_token_ids: {len(prompt)} ids, largest {max(prompt, default=-1)}; give at least one, "
                f"all below the vocabulary size {self._vocabulary_size}"
            )
        if not 1 <= request.n <= MAX_SAMPLES:
            raise InvalidRequest(f"n: is {request.n}; give 1 to {MAX_SAMPLES}")
        asked = codec.sampling_from_proto(request.sampling, "sampling", vocab_size=self._vocabulary_size)
        tokens = asked.max_new_tokens or self._rollout.max_new_tokens
        if len(prompt) + tokens > self._model.max_length:
            raise InvalidRequest(
                f"sampling.max_new_tokens: {tokens} with a prompt of {len(prompt)} tokens exceeds the context "
                f"of {self._model.max_length}; shorten one of them"
            )
        # Not ``or``: 0 is greedy sampling.
        temperature = self._rollout.temperature if asked.temperature is None else asked.temperature
        return prompt, SamplingChoice(
            temperature=temperature,
            top_p=asked.top_p or self._rollout.top_p,
            max_new_tokens=tokens,
            stop_token_ids=asked.stop_token_ids,
            stop=asked.stop,
        )
