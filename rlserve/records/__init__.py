"""The records that flow between actors: frozen dataclasses, one file per proto file.

* ``actor``       an actor, its events, an environment's spec, and the state of a run, as the hub lists them
* ``lease``       a task to work on, and the progress of that work
* ``policy``      the manifest of one version of the weights
* ``task``        a task: prompt, sampling, payload
* ``trajectory``  a sample, a trajectory, and the group of trajectories of one task
* ``turn``        a turn of an episode: the policy's tool calls, the environment's answer
* ``verdict``     a verifier's judgement, or why there is none

Nothing here imports torch, grpc or vLLM, so every actor and every plug-in can import it. To add a field: the proto
message, the record, and the codec of that record in ``rlserve.rpc.codec``.
"""

from rlserve.records.actor import Actor, ActorEvent, ActorKind, Change, EnvironmentSpec, RunPhase, RunState
from rlserve.records.lease import Lease, LeaseProgress
from rlserve.records.policy import PolicyVersion, TensorSpec
from rlserve.records.task import GivenCompletion, Message, Purpose, Sampling, Task, Tool
from rlserve.records.trajectory import (
    FinishReason,
    ObjectiveWeights,
    PolicySpan,
    PreferenceRole,
    RolloutGroup,
    Sample,
    Segment,
    SegmentKind,
    TeacherScores,
    Trajectory,
)
from rlserve.records.turn import ToolCall, Turn
from rlserve.records.verdict import Failure, FailureKind, Outcome, Verdict

__all__ = [
    "Actor",
    "ActorEvent",
    "ActorKind",
    "Change",
    "EnvironmentSpec",
    "Failure",
    "FailureKind",
    "FinishReason",
    "GivenCompletion",
    "Lease",
    "LeaseProgress",
    "Message",
    "ObjectiveWeights",
    "Outcome",
    "PolicySpan",
    "PolicyVersion",
    "PreferenceRole",
    "Purpose",
    "RolloutGroup",
    "RunPhase",
    "RunState",
    "Sample",
    "Sampling",
    "Segment",
    "SegmentKind",
    "Task",
    "TeacherScores",
    "TensorSpec",
    "Tool",
    "ToolCall",
    "Trajectory",
    "Turn",
    "Verdict",
]
