"""Actors of a run, environments they offer, and the state of the run: the contents of the hub's registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rlserve.records.task import Sampling


class ActorKind(StrEnum):
    """The role of an actor."""

    HUB = "hub"
    ROLLOUT = "rollout"
    VERIFIER = "verifier"
    ENVIRONMENT = "environment"
    TEACHER = "teacher"
    LEARNER = "learner"
    STARTING = "starting"
    """A process of another kind that does not serve yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """One live process of a run."""

    actor_id: str
    """Stable across restarts, e.g. ``"rollout-0"``."""
    kind: ActorKind
    address: str
    """``host:port`` of its gRPC server."""
    incarnation: str
    """Random per process start; distinguishes a restart from a renewal."""
    host: str = ""
    pid: int = 0
    serves: tuple[str, ...] = ()
    """Environment, verifier or teacher names."""
    status: Mapping[str, str] = field(default_factory=dict)
    """Free text for people, from the last heartbeat."""
    registered_unix_seconds: float = 0.0
    last_seen_unix_seconds: float = 0.0
    run_id: str = ""


class Change(StrEnum):
    """Kind of a change to an actor."""

    JOINED = "joined"
    LEFT = "left"
    """It deregistered, or a new incarnation replaced it."""
    EXPIRED = "expired"
    """Its heartbeats stopped: it died or lost the network."""


@dataclass(frozen=True, slots=True)
class ActorEvent:
    """One change in the registry."""

    change: Change
    actor: Actor


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """An environment that a server offers."""

    name: str
    version: str = "1"
    address: str
    """``host:port`` where EnvironmentService answers."""
    payload_schema_json: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    """Size of each split; 0 means endless."""
    verifier: str = ""
    weight: float = 1.0
    """Share in the mixture, relative to the others; 0 registers without drawing from it."""
    multi_turn: bool = False
    description: str = ""
    held_out: tuple[str, ...] = ()
    """Splits that training never draws from, besides ``validation`` and ``test``."""
    sampling: Sampling = field(default_factory=Sampling)
    """Sampling of its tasks, where a task does not set its own."""
    command: tuple[str, ...] = ()
    """Command that starts its server; empty when it is started elsewhere."""


class RunPhase(StrEnum):
    """Phase of a run."""

    STARTING = "starting"
    EVALUATING = "evaluating"
    TRAINING = "training"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """State of a run, as its learner reports it."""

    run_id: str
    phase: RunPhase
    step: int = 0
    total_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Latest value of each metric, by its declared name; NaN means "none yet"."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Counts of the store: ``received``, ``consumed``, ``queued``, ``dropped/<reason>``."""
    updated_unix_seconds: float = 0.0
    message: str = ""
