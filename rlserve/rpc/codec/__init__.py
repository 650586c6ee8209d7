"""Messages to records and back; every field is checked here, once.

Decoding raises InvalidRequest whose ``field`` is the dotted path (``trajectories[2].behavior_logprobs[7]``)
and whose ``reason`` is one of ``REASONS``; it raises nothing else, whatever the message.

* ``bounds``      the largest size of each field, one table; of every message but RolloutGroup, which ``group`` checks
* ``check``       checks of single fields, and the closed list of reasons
* ``limits``      GroupLimits: bounds that depend on the run, such as the vocabulary
* ``actor``       actors, registry changes, environments, run state
* ``task``        Task, Sampling, Lease
* ``trajectory``  Trajectory with its arrays
* ``group``       RolloutGroup, also as bytes for the store
* ``scores``      TeacherScores
* ``policy``      PolicyVersion
* ``turn``        turns of an episode: the policy's tool calls, the environment's answer
* ``verdict``     Verdict, Failure

To add a field: the proto file, the record, both functions here (``x_to_proto``, ``x_from_proto``), its bound in
``bounds``, and ``tests/support/wire_records.py``, which the round-trip test draws from.
"""

from rlserve.rpc.codec.actor import (
    KIND,
    actor_from_proto,
    actor_to_proto,
    environment_from_proto,
    environment_to_proto,
    event_from_proto,
    event_to_proto,
    kind_filter_from_proto,
    run_state_from_proto,
    run_state_to_proto,
    status_from_proto,
    status_to_proto,
)
from rlserve.rpc.codec.check import REASONS
from rlserve.rpc.codec.group import group_from_bytes, group_from_proto, group_to_bytes, group_to_proto
from rlserve.rpc.codec.limits import GroupLimits
from rlserve.rpc.codec.policy import policy_from_proto, policy_to_proto
from rlserve.rpc.codec.scores import scores_from_proto, scores_to_proto
from rlserve.rpc.codec.task import (
    lease_from_proto,
    lease_to_proto,
    message_from_proto,
    message_to_proto,
    sampling_from_proto,
    sampling_to_proto,
    task_from_proto,
    task_to_proto,
    tool_from_proto,
    tool_to_proto,
)
from rlserve.rpc.codec.trajectory import FINISH_REASON, trajectory_from_proto, trajectory_to_proto
from rlserve.rpc.codec.turn import tool_call_from_proto, tool_call_to_proto, turn_from_proto, turn_to_proto
from rlserve.rpc.codec.verdict import failure_from_proto, failure_to_proto, verdict_from_proto, verdict_to_proto

__all__ = [
    "FINISH_REASON",
    "KIND",
    "REASONS",
    "GroupLimits",
    "actor_from_proto",
    "actor_to_proto",
    "environment_from_proto",
    "environment_to_proto",
    "event_from_proto",
    "event_to_proto",
    "failure_from_proto",
    "failure_to_proto",
    "group_from_bytes",
    "group_from_proto",
    "group_to_bytes",
    "group_to_proto",
    "kind_filter_from_proto",
    "lease_from_proto",
    "lease_to_proto",
    "message_from_proto",
    "message_to_proto",
    "policy_from_proto",
    "policy_to_proto",
    "run_state_from_proto",
    "run_state_to_proto",
    "sampling_from_proto",
    "sampling_to_proto",
    "scores_from_proto",
    "scores_to_proto",
    "status_from_proto",
    "status_to_proto",
    "task_from_proto",
    "task_to_proto",
    "tool_call_from_proto",
    "tool_call_to_proto",
    "tool_from_proto",
    "tool_to_proto",
    "trajectory_from_proto",
    "trajectory_to_proto",
    "turn_from_proto",
    "turn_to_proto",
    "verdict_from_proto",
    "verdict_to_proto",
]
