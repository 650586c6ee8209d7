"""What flows through rlserve: frozen dataclasses, one file per proto file.

Nothing here imports torch, grpc or vLLM, so every actor and every plug-in can.
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
from rlserve.records.turn import Turn
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
    "Trajectory",
    "Turn",
    "Verdict",
]
