"""Before training starts: is every teacher there, and can it answer what this run will ask?"""

import logging

from rlserve.actors.hub.client import HubClient
from rlserve.config.run import RunConfig
from rlserve.config.teacher import TeacherConfig
from rlserve.errors import ConfigError
from rlserve.records import ActorKind
from rlserve.rpc.channel import call, open_channel
from rlserve.v1 import teacher_service_pb2 as pb
from rlserve.v1 import teacher_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

DESCRIBE_SECONDS = 10.0


async def check_teachers(config: RunConfig, hub: HubClient, *, tokenizer_fingerprint: str) -> None:
    """Wait for one server of each teacher and hold its description against the configuration.

    Raises DeadlineExceeded for a teacher that does not come in time (see ``wait_seconds``), and ConfigError for one
    that cannot be used.
    """
    for teacher in config.teachers:
        description = await _describe(teacher, hub, wait_seconds(config))
        for problem in problems(config, teacher, description, tokenizer_fingerprint):
            raise ConfigError(problem)
        logger.info("teacher %s: weights %s", teacher.name, description.weights_digest)


def wait_seconds(config: RunConfig) -> float:
    """How long a teacher may take to come: those that the run makes have to be made first."""
    made_here = any(teacher.is_made_here for teacher in config.teachers)
    return config.launch.start_seconds + (config.launch.prepare_seconds if made_here else 0.0)


def problems(
    config: RunConfig, teacher: TeacherConfig, description: pb.DescribeTeacherResponse, tokenizer_fingerprint: str
) -> list[str]:
    """Why the teacher as it is served cannot be used, as messages "field: what it was; what to do"."""
    found = []
    distill = config.distillation
    same = description.tokenizer_fingerprint == tokenizer_fingerprint
    is_reference = teacher.name == config.reference.teacher
    needs_same = "is the reference" if is_reference else ""
    if distill is not None and not is_reference and distill.estimator == "top_k":
        needs_same = "is asked for its top k"
        if distill.k > description.max_k:
            found.append(
                f"algorithm.k: is {distill.k}, but teacher {teacher.name!r} gives at most {description.max_k}; lower it"
            )
    if needs_same and not same:
        found.append(
            f"teachers: {teacher.name!r} {needs_same}, but its tokenizer is not the policy's (fingerprints "
            f"{description.tokenizer_fingerprint} and {tokenizer_fingerprint}); take a teacher with the same one, or "
            "algorithm.estimator = 'sampled'"
        )
    if same and description.max_tokens < config.model.max_length:
        found.append(
            f"model.max_length: is {config.model.max_length}, but teacher {teacher.name!r} takes "
            f"{description.max_tokens} tokens; raise teachers.max_length where it is served"
        )
    return found


async def _describe(teacher: TeacherConfig, hub: HubClient, seconds: float) -> pb.DescribeTeacherResponse:
    actor = await hub.wait_for(ActorKind.TEACHER, serves=teacher.name, deadline_seconds=seconds)
    async with open_channel(actor.address) as channel:
        return await call(
            pb_grpc.TeacherServiceStub(channel).Describe,
            pb.DescribeTeacherRequest(),
            deadline_seconds=DESCRIBE_SECONDS,
            what=f"{actor.actor_id} at {actor.address}",
            wait_for_ready=True,
        )
