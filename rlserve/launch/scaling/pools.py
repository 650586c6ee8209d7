"""The processes of each pool, and the plan of those that join it. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest
from rlserve.launch.plan import ProcessSpec, configured_address, pool_of

KINDS = ("environment", "verifier", "teacher", "rollout")
"""What there may be several of; the learner's ranks are one process to all others."""


class Pools:
    """The pools of a plan, by the names of their processes without the number: ``rollout``, ``teacher-big``."""

    def __init__(self, config: RunConfig, specs: Sequence[ProcessSpec], gpus: Sequence[str]) -> None:
        """``gpus``: those of the machine that the launcher shares out; none where something else does."""
        self._config = config
        self._gpus = gpus
        self._first: dict[str, ProcessSpec] = {}
        for spec in specs:
            if spec.kind in KINDS:
                self._first.setdefault(pool_of(spec.name), spec)

    def names(self, pool: str, living: Collection[str]) -> list[str]:
        """Its processes, in the order in which they would leave, last first.

        Raises InvalidRequest for a pool without a process, from which none can be copied.
        """
        if pool not in self._first:
            raise InvalidRequest(f"{pool}: this run's launcher starts none; known are {', '.join(sorted(self._first))}")
        mine = [name for name in living if pool_of(name) == pool]
        return sorted(mine, key=lambda name: int(name.rpartition("-")[2]), reverse=True)

    def more(self, pool: str, count: int, running: Sequence[ProcessSpec]) -> list[ProcessSpec]:
        """Plans of ``count`` more, beside those that run. Raises InvalidRequest when there is no room for them."""
        first = self._first[pool]
        port = configured_address(self._config, first).rpartition(":")[2]
        if port not in ("", "0"):
            raise InvalidRequest(f"{pool}: its address has port {port}, which only one can have; configure port 0")
        taken = {spec.name for spec in running}
        free = (f"{pool}-{i}" for i in range(len(taken) + count) if f"{pool}-{i}" not in taken)
        specs: list[ProcessSpec] = []
        for _ in range(count):
            name = next(free)
            own = _more_gpus(first, [*running, *specs], self._gpus)
            command = tuple(name if word == first.name else word for word in first.command)
            environment = {**first.environment, **({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {})}
            specs.append(replace(first, name=name, command=command, environment=environment))
        return specs


def _more_gpus(sibling: ProcessSpec, running: Sequence[ProcessSpec], gpus: Sequence[str]) -> tuple[str, ...]:
    """GPUs for another process like ``sibling``, beside those that run; none where none are shared out.

    Raises InvalidRequest when too few are free.
    """
    own = _shown(sibling)
    if not (gpus and own):
        return ()
    others = [gpu for spec in running if spec.name != sibling.name for gpu in _shown(spec)]
    if set(own) & set(others):
        return own  # its like share already
    free = [gpu for gpu in gpus if gpu not in (*own, *others)]
    if len(free) < len(own):
        raise InvalidRequest(
            f"launch.gpus: another {sibling.kind} process needs {len(own)} GPUs; {len(free)} of {len(gpus)} are free"
        )
    return tuple(free[: len(own)])


def _shown(spec: ProcessSpec) -> tuple[str, ...]:
    return tuple(filter(None, spec.environment.get("CUDA_VISIBLE_DEVICES", "").split(",")))
