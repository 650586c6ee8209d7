"""Checks what a configuration needs of this machine: ports, directory, cores, GPUs, packages."""

import importlib.util
import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rlserve.actors.mirror.uploads import mirror_of
from rlserve.actors.teacher.scoring import SCORING_ENGINES
from rlserve.actors.verifier.process import judge_environment
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.engines.factory import ENGINES, check_engine, check_options
from rlserve.engines.tool_calls import check_parser
from rlserve.engines.vllm.options import head_problem
from rlserve.errors import ConfigError, RlserveError
from rlserve.launch.gpus import share_out, shared_with, visible_gpus
from rlserve.launch.ports import on_host
from rlserve.launch.preflight.finding import Finding, warning
from rlserve.launch.ray.launcher import check_ray
from rlserve.launch.registry import launcher_type
from rlserve.rpc.tls import TlsFiles, check_bind, insecure_allowed
from rlserve.rpc.token import run_token
from rlserve.store.registry import backend_of
from rlserve.weight_sync.carriers.collective import check_address

FLASH = "flash_attention_2"
ROOM_BYTES = 256 * 2**20
"""Below this a warning: one checkpoint of the quick start's model with its optimizer takes a fifth of it."""
MIRROR_SECONDS = 20.0
"""For a mirror to take an empty file: far away and busy it takes a second."""
SHARED_FRACTION = 0.6
"""More of a GPU's memory than this leaves too little for another process that loads a model."""


def check_machine(config: RunConfig, paths: RunPaths) -> Iterator[Finding]:
    """All checks of this module."""
    # The cheapest first; the last one may import a package, for a launcher or a store that is a plug-in.
    yield from check_directory(paths.root)
    yield from check_mirror(config)
    yield from check_ports(config)
    yield from check_broadcast(config)
    if config.launch.type != "ray":  # its nodes have cores and GPUs of their own
        yield from check_cores(config)
        yield from check_gpus(config, visible_gpus())
    yield from check_engines(config)
    yield from check_launcher(config)
    yield from check_store(config, paths)
    yield from check_variables(config)


def check_variables(config: RunConfig) -> Iterator[Finding]:
    """Whether the environment variables for judge processes are set."""
    try:
        judge_environment(config.verifier.environment)
    except ConfigError as error:
        yield Finding(str(error))


def check_broadcast(config: RunConfig) -> Iterator[Finding]:
    """Whether the learner can be met where weights are to be broadcast."""
    if config.sync.broadcast_address and config.launch.type == "local":
        try:
            check_address(config.sync.broadcast_address)
        except ConfigError as error:
            yield Finding(str(error))


def check_launcher(config: RunConfig) -> Iterator[Finding]:
    """Whether the launcher is registered, and finds its cluster."""
    if config.launch.type == "ray":
        try:
            check_ray(config)
        except ConfigError as error:
            yield Finding(str(error))
    try:
        launcher_type(config.launch.type)
    except RlserveError as error:
        yield Finding(f"launch.type: {error}")


def check_store(config: RunConfig, paths: RunPaths) -> Iterator[Finding]:
    """Whether the store is registered, can be reached, and is set to keep what it is given."""
    try:
        backend = backend_of(config.store)
    except ConfigError as error:
        yield Finding(str(error))
    except RlserveError as error:
        yield Finding(f"store.type: {error}")
    else:
        for problem in backend.problems(paths):
            yield Finding(problem.message, is_fault=problem.is_fault)


def check_engines(config: RunConfig) -> Iterator[Finding]:
    """Whether each inference engine, its options and the parser exist; nothing of the engine is imported."""
    asked = [("rollout.engine", ENGINES, config.rollout.engine)]
    asked += [(f"teachers.{i}.engine", SCORING_ENGINES, t.engine) for i, t in enumerate(config.teachers)]
    checks: list[Callable[[], None]] = [partial(check_engine, engines, name, key=key) for key, engines, name in asked]
    checks.append(partial(check_options, config.rollout.engine, config.rollout.options))
    checks.append(partial(check_parser, config.model.tool_parser))
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield Finding(str(error))
    made = config.pretrain and config.rollout.engine == "vllm" and head_problem(config.pretrain.architecture.head_dim)
    if made:
        yield Finding(f"pretrain.architecture.head_dim: gives {made}; take one of these")


def check_directory(root: Path) -> Iterator[Finding]:
    """Whether the run directory can be made and written."""
    # The launcher makes missing directories, so that the nearest existing one decides. A dangling link does not
    # "exist", but mkdir fails on it.
    there = next(path for path in (root, *root.parents) if path.exists() or path.is_symlink())
    if not there.is_dir():
        yield Finding(f"directory: {str(there)!r} is no directory; give another with --set directory=DIRECTORY")
    elif not os.access(there, os.W_OK | os.X_OK) or os.statvfs(there).f_flag & os.ST_RDONLY:
        yield Finding(f"directory: {str(there)!r} cannot be written; give another with --set directory=DIRECTORY")
    elif (free := shutil.disk_usage(there).free) < ROOM_BYTES:
        yield warning(f"directory: {str(there)!r} has {free / 2**20:.0f} MiB left; checkpoints may not fit")


def check_mirror(config: RunConfig) -> Iterator[Finding]:
    """Whether the mirror can be written."""
    said: list[str] = []

    def probe() -> None:
        try:
            if place := mirror_of(config):
                place.probe()
            said.append("")
        except RlserveError as error:
            said.append(f"checkpoint.mirror: {str(error).removeprefix('checkpoint.mirror: ')}")

    # A thread that may be left behind: clients of object stores try for minutes.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(MIRROR_SECONDS)
    if not said:
        yield Finding(f"checkpoint.mirror: {config.checkpoint.mirror} did not answer within {MIRROR_SECONDS:g} s")
    elif said[0]:
        yield Finding(said[0])


def check_ports(config: RunConfig) -> Iterator[Finding]:
    """Whether each configured address can be bound, and by one actor only."""
    try:
        # The same rules as a server's: without TLS files a bind outside of loopback is refused unless insecure is
        # allowed.
        tls = TlsFiles.from_environment()
        run_token()
    except ConfigError as error:
        yield Finding(str(error))
        return
    if (host := config.launch.host) and (problem := _bind_problem(host, 0)):
        yield Finding(f"launch.host: {host!r} {problem}; give a name or an IP of this machine")
        return
    asked = [(key, on_host(address, host), servers) for key, address, servers in _addresses(config)]
    times = Counter(address for _, address, _ in asked)
    for key, address, servers in asked:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            yield Finding(f"{key}: is {address!r}; give HOST:PORT, e.g. 127.0.0.1:0 (port 0 takes a free one)")
            continue
        try:
            check_bind(address, tls=tls, insecure=insecure_allowed())
        except ConfigError as error:
            yield Finding(f"{key}: {str(error).removeprefix('address: ')}")
            continue
        if int(port) == 0:
            continue
        # Each actor binds its own port; a bind probe alone would miss this, as the port is free until the first actor
        # takes it.
        if servers > 1 or times[address] > 1:
            yield Finding(f"{key}: {address!r} is for more than one actor; take port 0, which is a free one each")
        elif problem := _bind_problem(host.strip("[]"), int(port)):
            yield Finding(f"{key}: {address!r} {problem}; stop what listens there, or take port 0")


def _addresses(config: RunConfig) -> Iterator[tuple[str, str, int]]:
    """(key, address, number of actors) of each server that the launcher starts."""
    yield "hub.address", config.hub.address, 1
    yield "verifier.address", config.verifier.address, 1
    yield "learner.address", config.learner.address, 1
    if config.rollout.workers:
        yield "rollout.address", config.rollout.address, config.rollout.workers
    for index, teacher in enumerate(config.teachers):
        if teacher.servers:
            yield f"teachers.{index}.address", teacher.address, teacher.servers


def _bind_problem(host: str, port: int) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], socket.SOCK_STREAM) as probe:
            # Connections of an earlier run in TIME_WAIT do not keep a server from binding, nor should they fail this
            # probe.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except OSError as error:
        return f"cannot be bound ({error.strerror or error})"
    return ""


def check_cores(config: RunConfig) -> Iterator[Finding]:
    """Whether the configured processor cores exist."""
    # Not os.cpu_count(): a container or taskset may allow fewer cores than the machine has.
    there = os.sched_getaffinity(0)
    for kind, cores in config.launch.cores.items():
        if absent := sorted(set(cores) - there):
            listed = ", ".join(map(str, sorted(there)))
            yield Finding(f"launch.cores.{kind}: names {absent}, but this process may run on {listed}")


def check_gpus(config: RunConfig, gpus: Sequence[str]) -> Iterator[Finding]:
    """Whether the GPUs suffice for all processes, those that share one fit, and the attention finds one."""
    if gpus:
        try:
            shares = share_out(config, gpus)
        except ConfigError as error:
            yield Finding(str(error))
        else:
            yield from _check_sharing(config, shares)
            if unused := len(gpus) - len({gpu for own in shares.values() for gpu in own}):
                yield warning(
                    f"launch.gpus: {unused} of {len(gpus)} GPUs are not used; raise learner.ranks or rollout.workers"
                )
    else:
        yield from _check_processors(config)
    yield from _check_kernels(config.learner, len(gpus))


def _check_sharing(config: RunConfig, shares: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    fraction = config.rollout.gpu_memory_fraction
    # With a KV cache of fixed size too: vLLM asks for that much free memory before it starts.
    if config.rollout.workers and fraction > SHARED_FRACTION and (others := shared_with(shares, "rollout-0")):
        yield Finding(
            f"rollout.gpu_memory_fraction: is {fraction:g}, but rollout-0 shares its GPU with {', '.join(others)}; set "
            "0.4 or less, or give each role a GPU of its own"
        )


def _check_processors(config: RunConfig) -> Iterator[Finding]:
    ranks, parallel = config.learner.ranks, config.rollout.tensor_parallel
    # On a CPU each rank and each part of a tensor-parallel engine is a process that keeps a core busy.
    processes = ranks + config.rollout.workers * parallel
    cores = len(os.sched_getaffinity(0))
    if (ranks > 1 or parallel > 1) and processes > cores:
        yield warning(
            f"learner.ranks, rollout.tensor_parallel: {processes} processes that compute share {cores} cores, "
            "and there is no GPU; it works, and is slow"
        )


def _check_kernels(learner: LearnerConfig, gpus: int) -> Iterator[Finding]:
    """Attention and kernels that are not installed, or that this machine cannot run."""
    # find_spec, not import: both import torch.
    if learner.attention == FLASH and importlib.util.find_spec("flash_attn") is None:
        yield Finding("learner.attention: is 'flash_attention_2', but flash_attn is not installed; leave it empty")
    elif learner.attention == FLASH and not gpus:
        yield warning("learner.attention: is 'flash_attention_2', but no NVIDIA GPU is seen here; leave it empty")
    if gpus and learner.packing and learner.attention in ("sdpa", "eager"):
        yield Finding(
            f"learner.attention: {learner.attention!r} makes a mask of tokens by tokens for packed rows; leave it "
            "empty, or set learner.packing = false"
        )
    if learner.kernels and importlib.util.find_spec("liger_kernel") is None:
        yield Finding(
            f"learner.kernels: is {learner.kernels!r}, but liger-kernel is not installed; pip install 'rlserve[liger]'"
        )
