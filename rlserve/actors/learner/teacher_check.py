"""Checks before training starts that every teacher is served and can answer what the run will ask."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.config.run import RunConfig
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.errors import ConfigError, DeadlineExceeded
from rlserve.records import Actor, ActorKind
from rlserve.rpc.channel import call, open_channel
from rlserve.rpc.options import TEACHER_MESSAGE_BYTES, ChannelOptions
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.shared_tokens import shared_token_ids
from rlserve.tokens.tokenizer import fingerprint
from rlserve.v1 import teacher_service_pb2 as pb
from rlserve.v1 import teacher_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

DESCRIBE_SECONDS = 10.0
"""A registered teacher answers at once; its vocabulary is a few megabytes."""


async def check_teachers(
    config: RunConfig, hub: HubClient, *, tokens: ModelTokens, vocab_size: int
) -> npt.NDArray[np.bool_] | None:
    """Wait for one server of each teacher and check its description against the configuration.

    Returns the policy's tokens ``[vocab_size]`` missing from the vocabulary of a teacher with another tokenizer whose
    top k is used; None without such a teacher.

    Raises DeadlineExceeded for a teacher that is neither served nor starting in time (see ``wait_seconds``), and
    ConfigError for one that cannot be used.
    """
    own = fingerprint(tokens.tokenizer)
    unshared: dict[str, npt.NDArray[np.bool_]] = {}
    for teacher in config.teachers:
        actor = await _served(hub, teacher.name, wait_seconds(config))
        description: pb.DescribeTeacherResponse = await _ask(actor, "Describe", pb.DescribeTeacherRequest())
        for problem in problems(config, teacher, description, own):
            raise ConfigError(problem)
        logger.info("teacher %s: weights %s", teacher.name, description.weights_digest)
        distill = config.distillation
        if distill is not None and distill.estimator == "top_k" and description.tokenizer_fingerprint != own:
            shared = shared_token_ids(await _ask(actor, "Vocabulary", pb.VocabularyRequest()), tokens.as_text())
            unshared[teacher.name] = np.ones(vocab_size, dtype=np.bool_)  # [V]
            # ``shared`` has a token of the policy for each of the teacher's, -1 where the policy has none.
            unshared[teacher.name][shared[shared >= 0]] = False
    return _only_one(unshared)


async def _served(hub: HubClient, name: str, seconds: float) -> Actor:
    """A server of the teacher, within ``seconds`` once none of its servers is starting."""
    while True:
        try:
            return await hub.wait_for(ActorKind.TEACHER, serves=name, deadline_seconds=seconds)
        except DeadlineExceeded:
            if not any(name in entry.serves for entry in await hub.list_actors(ActorKind.STARTING)):
                raise


def wait_seconds(config: RunConfig) -> float:
    """How long a teacher may take to be served; one that the run trains must be trained first."""
    made_here = any(teacher.is_made_here for teacher in config.teachers)
    return config.launch.start_seconds + (config.launch.prepare_seconds if made_here else 0.0)


def _only_one(unshared: dict[str, npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_] | None:
    first, *others = [*unshared.values(), None]
    if any(other is not None and not np.array_equal(first, other) for other in others if first is not None):
        raise ConfigError(
            f"teachers: {', '.join(map(repr, unshared))} have different tokenizers, none of them the policy's; with "
            "algorithm.estimator = 'top_k' take one of them, or 'sampled'"
        )
    return first


def problems(
    config: RunConfig, teacher: TeacherConfig, description: pb.DescribeTeacherResponse, tokenizer_fingerprint: str
) -> list[str]:
    """Reasons why the served teacher cannot be used, as messages "field: what it was; what to do"."""
    found = []
    distill = config.distillation
    same = description.tokenizer_fingerprint == tokenizer_fingerprint
    is_reference = teacher.name == config.reference.teacher
    if distill is not None and not is_reference and distill.estimator == "top_k" and distill.k > description.max_k:
        found.append(
            f"algorithm.k: is {distill.k}, but teacher {teacher.name!r} gives at most {description.max_k}; lower it"
        )
    if is_reference and not same:
        found.append(
            f"reference.teacher: {teacher.name!r} has another tokenizer than the policy (fingerprints "
            f"{description.tokenizer_fingerprint} and {tokenizer_fingerprint}); take one with the same"
        )
    if same and description.max_tokens < config.model.max_length:
        found.append(
            f"model.max_length: is {config.model.max_length}, but teacher {teacher.name!r} takes "
            f"{description.max_tokens} tokens; raise teachers.max_length where it is served"
        )
    return found


async def _ask(actor: Actor, method: str, request: Any) -> Any:
    async with open_channel(actor.address, options=ChannelOptions(max_message_bytes=TEACHER_MESSAGE_BYTES)) as channel:
        return await call(
            getattr(pb_grpc.TeacherServiceStub(channel), method),
            request,
            deadline_seconds=DESCRIBE_SECONDS,
            what=f"{actor.actor_id} at {actor.address}",
            wait_for_ready=True,
        )
