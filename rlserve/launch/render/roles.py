"""The plan of a run as roles: processes of one kind with one command, as often as the plan has them.

Hub, environment and learner read the configuration from a file that their container gets; verifiers, teachers and
rollout workers join, so that they need nothing but the hub's address and the token.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlserve import references
from rlserve.config.load import to_toml, validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.gpus import needs_of
from rlserve.launch.plan import HUB, LEARNER, PREPARE, plan_processes

CONFIG = "/etc/rlserve/config.toml"
TOKEN = "/run/secrets/rlserve/token"
RUNS = "/runs"
"""Where a container finds the configuration and the token, and keeps the run."""
PORTS: Mapping[str, int] = {
    "hub": 7000, "environment": 7001, "verifier": 7002, "learner": 7003, "rollout": 7004, "teacher": 7005,
}  # fmt: skip
RANK_PORT = 29500  # as torchrun has it; any free port of the learner's host will do
JOINING = ("verifier", "teacher", "rollout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a manifest needs beside the configuration."""

    image: str
    """Container image with rlserve in it."""
    accelerators: bool = True
    """Whether processes that compute ask for GPUs."""
    token_secret: str = ""
    """Kubernetes: name of the secret with the key ``token``; empty: RUN-token."""
    data: str = ""
    """Kubernetes: claim with the files that the configuration names, mounted where relative paths begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Processes with one command."""

    name: str
    kind: str
    replicas: int
    gpus: int
    """Of each."""
    teacher: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """Where it listens in a container of its own."""
        return PORTS[self.kind]

    def words(self, *, hub: str, address: str, identity: str = "") -> list[str]:
        """Its command after ``rlserve``; ``identity`` names the actor, which else names itself."""
        at = ["--address", address] if address else []
        called = ["--id", identity] if identity else []
        if self.kind in JOINING:
            which = ["--teacher", self.teacher] if self.teacher else []
            return ["join", hub, "--as", self.kind, *which, *at, *called]
        words = ["serve", self.kind, "--config", CONFIG, *at, *called]
        if self.kind == HUB:
            return words
        # A learner that is started again continues; without a checkpoint it begins.
        run = ["--run", f"{RUNS}/run", "--resume"] if self.kind == LEARNER else []
        return [*words, "--hub", hub, *run]


def roles_of(config: RunConfig, options: Options) -> list[Role]:
    """All roles, the hub first. Raises ConfigError for a run that cannot do without one file system."""
    _check(config)
    gpus = {need.process: need.count for need in needs_of(config)} if options.accelerators else {}
    roles = {HUB: Role(name=HUB, kind=HUB, replicas=1, gpus=0)}
    for spec in plan_processes(config, Path(RUNS), hub_address=HUB):
        if spec.kind == PREPARE:  # the learner prepares, which alone has the start model
            continue
        teacher = spec.command[spec.command.index("--teacher") + 1] if "--teacher" in spec.command else ""
        name = dns_name(f"{spec.kind}-{teacher}" if teacher else spec.kind)
        same = roles.get(name)
        roles[name] = Role(
            name=name,
            kind=spec.kind,
            replicas=same.replicas + 1 if same else 1,
            gpus=gpus.get(spec.name, 0),
            teacher=teacher,
        )
    return list(roles.values())


def container_config(config: RunConfig) -> str:
    """The configuration without what describes one machine: its cores, its GPUs, its address."""
    values = config.model_dump(mode="json", exclude_none=True)
    for key in ("cores", "gpus", "host", "type", "options"):
        values["launch"].pop(key, None)
    return to_toml(validate(RunConfig, values))


def dns_name(text: str) -> str:
    """A name that DNS, Kubernetes and Slurm take: lower case, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "run"


def _check(config: RunConfig) -> None:
    files = [
        function.function
        for environment in config.rewarded_environments
        for function in environment.reward
        if references.file_of(function.function) is not None
    ]
    if files and not config.verifier.share_functions:
        raise ConfigError(
            f"verifier.share_functions: is false, but verifiers that join need {files[0]}; set it to true, which sends "
            "the file to them"
        )
