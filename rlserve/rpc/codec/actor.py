"""The hub's records on the wire: actors, their changes, environments, the state of a run."""

from collections.abc import Mapping

from rlserve.errors import ConfigError
from rlserve.records import Actor, ActorEvent, ActorKind, Change, EnvironmentSpec, RunPhase, RunState
from rlserve.rpc.codec.check import EnumCodec, count, fault, finite, integer, join, text, wire_text
from rlserve.rpc.codec.task import json_text, sampling_from_proto, sampling_to_proto
from rlserve.rpc.tls import host_of
from rlserve.v1 import hub_service_pb2 as pb

KIND = EnumCodec(pb.ActorKind, "ACTOR_KIND", ActorKind)
CHANGE = EnumCodec(pb.WatchResponse.Change, "CHANGE", Change)
# As in bounds.BOUNDS. Checked here too, because the hub's saved state is decoded without a server before it.
MAX_ENTRIES = 256
MAX_METRICS = 4096  # as above
MAX_STATUS_CHARACTERS = 4096  # as above
MAX_ADDRESS_CHARACTERS = 256  # a host name has at most 253, and a path of a socket 108


def kind_filter_from_proto(number: int) -> ActorKind | None:
    """Decode the kind of a filter; None, which is 0 on the wire, lets every kind pass."""
    return KIND.decode(number, "", "kind") if number else None


def actor_to_proto(actor: Actor) -> pb.Actor:
    """Encode an actor."""
    return pb.Actor(
        actor_id=actor.actor_id,
        kind=KIND.encode(actor.kind),
        address=actor.address,
        incarnation=actor.incarnation,
        host=actor.host,
        pid=actor.pid,
        serves=actor.serves,
        status=status_to_proto(actor.status),
        registered_unix_seconds=actor.registered_unix_seconds,
        last_seen_unix_seconds=actor.last_seen_unix_seconds,
        run_id=actor.run_id,
    )


def actor_from_proto(message: pb.Actor, at: str = "") -> Actor:
    """Decode an actor, checking every field. Raises InvalidRequest."""
    count(message.serves, at, "serves", high=MAX_ENTRIES)
    return Actor(
        actor_id=text(message.actor_id, at, "actor_id"),
        kind=KIND.decode(message.kind, at, "kind"),
        address=_address(message.address, at),
        incarnation=text(message.incarnation, at, "incarnation"),
        host=message.host,
        pid=message.pid,
        serves=tuple(text(name, at, f"serves[{i}]") for i, name in enumerate(message.serves)),
        status=status_from_proto(message.status, at),
        registered_unix_seconds=finite(message.registered_unix_seconds, at, "registered_unix_seconds", low=0),
        last_seen_unix_seconds=finite(message.last_seen_unix_seconds, at, "last_seen_unix_seconds", low=0),
        run_id=message.run_id,
    )


def event_to_proto(event: ActorEvent) -> pb.WatchResponse:
    """Encode a change of the registry."""
    return pb.WatchResponse(change=CHANGE.encode(event.change), actor=actor_to_proto(event.actor))


def event_from_proto(message: pb.WatchResponse) -> ActorEvent:
    """Decode a change of the registry. Raises InvalidRequest."""
    return ActorEvent(CHANGE.decode(message.change, "", "change"), actor_from_proto(message.actor, "actor"))


def environment_to_proto(spec: EnvironmentSpec) -> pb.EnvironmentSpec:
    """Encode an environment."""
    return pb.EnvironmentSpec(
        name=spec.name,
        version=spec.version,
        address=spec.address,
        payload_schema_json=spec.payload_schema_json,
        splits=spec.splits,
        verifier=spec.verifier,
        weight=spec.weight,
        multi_turn=spec.multi_turn,
        description=wire_text(spec.description),
        held_out=spec.held_out,
        sampling=sampling_to_proto(spec.sampling),
        command=spec.command,
    )


def environment_from_proto(message: pb.EnvironmentSpec, at: str = "") -> EnvironmentSpec:
    """Decode an environment, checking every field. Raises InvalidRequest."""
    count(message.splits, at, "splits", low=1, high=MAX_ENTRIES)
    return EnvironmentSpec(
        name=text(message.name, at, "name"),
        version=text(message.version, at, "version"),
        address=_address(message.address, at),
        payload_schema_json=_schema(message.payload_schema_json, at),
        splits={
            text(name, at, "splits"): integer(size, at, f"splits[{name!r}]") for name, size in message.splits.items()
        },
        verifier=message.verifier,
        weight=finite(message.weight, at, "weight", low=0),
        multi_turn=message.multi_turn,
        description=message.description,
        held_out=tuple(text(name, at, "held_out") for name in message.held_out),
        sampling=sampling_from_proto(message.sampling, join(at, "sampling")),
        command=tuple(text(word, at, "command") for word in message.command),
    )


def run_state_to_proto(state: RunState) -> pb.RunState:
    """Encode the state of a run."""
    return pb.RunState(
        run_id=state.run_id,
        phase=state.phase,
        step=state.step,
        total_steps=state.total_steps,
        metrics=state.metrics,
        groups=state.groups,
        updated_unix_seconds=state.updated_unix_seconds,
        message=wire_text(state.message),
    )


def run_state_from_proto(message: pb.RunState, at: str = "") -> RunState:
    """Decode the state of a run, checking every field; a metric may be NaN. Raises InvalidRequest."""
    if message.phase not in list(RunPhase):
        fault(at, "phase", f"is {message.phase!r}; give one of {', '.join(RunPhase)}", "bad_enum")
    count(message.metrics, at, "metrics", high=MAX_METRICS)
    count(message.groups, at, "groups", high=MAX_METRICS)
    return RunState(
        run_id=text(message.run_id, at, "run_id"),
        phase=RunPhase(message.phase),
        step=integer(message.step, at, "step"),
        total_steps=integer(message.total_steps, at, "total_steps"),
        metrics=dict(message.metrics),
        groups={name: integer(size, at, f"groups[{name!r}]") for name, size in message.groups.items()},
        updated_unix_seconds=finite(message.updated_unix_seconds, at, "updated_unix_seconds", low=0),
        message=message.message,
    )


def status_to_proto(status: Mapping[str, str]) -> dict[str, str]:
    """Encode a status, whose values actors write for people."""
    return {key: wire_text(value) for key, value in status.items()}


def status_from_proto(status: Mapping[str, str], at: str = "") -> dict[str, str]:
    """Decode a status, checking its size. Raises InvalidRequest."""
    count(status, at, "status", high=MAX_ENTRIES)
    for key, value in status.items():
        if len(value) > MAX_STATUS_CHARACTERS:
            fault(at, f"status[{key!r}]", f"has {len(value)} characters; at most {MAX_STATUS_CHARACTERS}")
    return dict(status)


def _address(value: str, at: str) -> str:
    try:
        host = "unix" if value.startswith("unix:") else host_of(value)
    except ConfigError:
        host = ""
    if not host or len(value) > MAX_ADDRESS_CHARACTERS:
        fault(at, "address", f"is {value[:MAX_ADDRESS_CHARACTERS]!r}; give HOST:PORT")
    return value


def _schema(value: str, at: str) -> str:
    return json_text(value, at, "payload_schema_json") if value else ""
