"""What flows through rlserve: frozen dataclasses, one file per proto file.

Nothing here imports torch, grpc or vLLM, so every actor and every plug-in can.
"""

from rlserve.records.policy import PolicyVersion, TensorSpec
from rlserve.records.task import Message, Purpose, Sampling, Task, Tool
from rlserve.records.trajectory import (
    FinishReason,
    ObjectiveWeights,
    PolicySpan,
    PreferenceRole,
    RolloutGroup,
    Segment,
    SegmentKind,
    TeacherScores,
    Trajectory,
)
from rlserve.records.verdict import Failure, FailureKind, Outcome, Verdict

__all__ = [
    "Failure",
    "FailureKind",
    "FinishReason",
    "Message",
    "ObjectiveWeights",
    "Outcome",
    "PolicySpan",
    "PolicyVersion",
    "PreferenceRole",
    "Purpose",
    "RolloutGroup",
    "Sampling",
    "Segment",
    "SegmentKind",
    "Task",
    "TeacherScores",
    "TensorSpec",
    "Tool",
    "Trajectory",
    "Verdict",
]
