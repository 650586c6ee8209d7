"""The sandbox of one judge process: chooses an isolation tier, keeps a warm zygote, replaces it when worn or broken."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence

from rlserve.errors import NotReady, Unavailable
from rlserve.sandbox.calls import CallTest, judge_calls
from rlserve.sandbox.function import judge_function
from rlserve.sandbox.interpreter import interpreter_of
from rlserve.sandbox.judgement import Judgement, SandboxFault
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.stdio import StdioTest, judge_stdio
from rlserve.sandbox.walls import proof
from rlserve.sandbox.walls.bubblewrap import BubblewrapZygote
from rlserve.sandbox.walls.tiers import Tier, settings_of
from rlserve.sandbox.zygote import Zygote

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""A new zygote cures a lost one; what two new ones did not cure is the machine's trouble, and more tries would only
hold up the programs that wait."""
RECYCLE_BOXES = 5000
"""Any value of this size will do: a start takes about a second, which is nothing next to thousands of boxes."""
RECYCLE_GROWTH = 1.2
"""A zygote keeps nothing of the boxes that it forks: measured, it holds 0.4 % more memory after 300 of them, and no
more later. Growth by a fifth is a leak."""


class Sandbox:
    """Judges programs, one at a time. Close it, or use it as a context manager.

    It is not safe for threads: each process that judges has its own. Its life::

        with Sandbox(minimum=Tier.LANDLOCK) as sandbox:       # proves the tiers, strongest first: about 0.5 s
            sandbox.isolation                                 # "namespaces (proof 1)"
            sandbox.stdio("print(int(input()) + 1)", [StdioTest("41", "42")], Limits()).outcome     # Outcome.PASS
            sandbox.stdio("while True: pass", [StdioTest("", "")], Limits()).outcome                # Outcome.TIMEOUT
            # The zygote is killed here: the next call starts another of the same tier and judges the program again.
            sandbox.stdio("print(42)", [StdioTest("", "42")], Limits()).outcome                     # Outcome.PASS
    """

    def __init__(self, *, minimum: Tier = Tier.LANDLOCK, python: str = "", cgroup: str = "") -> None:
        """Choose the strongest tier that holds and is at least ``minimum``.

        ``cgroup`` is a cgroup v2 directory that the operator set aside: boxes are put into it.
        Raises NotReady, naming what is missing, when no such tier holds here.
        """
        self._python = python
        self._cgroup = _open_cgroup(cgroup) if cgroup else None
        self.tier, self._zygote = self._choose(minimum)
        self._first_bytes = self._zygote.resident_bytes

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def isolation(self) -> str:
        """Tier and version of the proof: every verdict carries this text."""
        return f"{self.tier.value} (proof {proof.VERSION})"

    def close(self) -> None:
        """Kill the zygote and every box that still runs."""
        self._zygote.close()
        if self._cgroup is not None:
            os.close(self._cgroup)
            self._cgroup = None

    def stdio(self, source: str, tests: Sequence[StdioTest], limits: Limits) -> Judgement:
        """See :func:`rlserve.sandbox.stdio.judge_stdio`. Raises SandboxFault after ATTEMPTS tries."""
        return self._judge(lambda zygote: judge_stdio(zygote, source, tests, limits))

    def function(
        self, source: str, tests: str, limits: Limits, *, entry_point: str = "", prefix: str = ""
    ) -> Judgement:
        """See :func:`rlserve.sandbox.function.judge_function`. Raises SandboxFault after ATTEMPTS tries."""
        return self._judge(
            lambda zygote: judge_function(zygote, source, tests, limits, entry_point=entry_point, prefix=prefix)
        )

    def calls(self, source: str, entry_point: str, tests: Sequence[CallTest], limits: Limits) -> Judgement:
        """See :func:`rlserve.sandbox.calls.judge_calls`. Raises SandboxFault after ATTEMPTS tries."""
        return self._judge(lambda zygote: judge_calls(zygote, source, entry_point, tests, limits))

    def _judge(self, job: Callable[[Zygote], Judgement]) -> Judgement:
        """Run a job; when the sandbox fails, replace the zygote and run the job again."""
        self._recycle()  # before the job, not after it: the replacement then delays no verdict that is already known
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return job(self._zygote)
            except Unavailable as error:
                if attempt == ATTEMPTS:
                    raise SandboxFault(f"sandbox: no judgement in {ATTEMPTS} tries; the last: {error}") from error
                logger.warning("%s; starting a new zygote and trying again", error)
                self._replace()
        raise AssertionError("unreachable")

    def _recycle(self) -> None:
        worn = self._zygote.boxes >= RECYCLE_BOXES
        if worn or self._zygote.resident_bytes > RECYCLE_GROWTH * self._first_bytes:
            self._replace()

    def _replace(self) -> None:
        self._zygote.close()
        # The same tier, without another proof: a sandbox never falls back to weaker walls than its verdicts name.
        self._zygote = self._start(self.tier)
        self._first_bytes = self._zygote.resident_bytes

    def _start(self, tier: Tier) -> Zygote:
        return start_zygote(tier, python=self._python, cgroup=self._cgroup)

    def _choose(self, minimum: Tier) -> tuple[Tier, Zygote]:
        reasons: dict[Tier, str] = {}
        for tier in Tier:
            if not tier.is_at_least(minimum):
                break
            try:
                return tier, proven_zygote(tier, python=self._python, cgroup=self._cgroup)
            except Unavailable as error:
                reasons[tier] = str(error).removeprefix("sandbox: ")
        raise NotReady(_refusal(minimum, reasons))


def start_zygote(tier: Tier, *, python: str = "", cgroup: int | None = None) -> Zygote:
    """Start a zygote of ``tier`` without the proof. Raises Unavailable with what keeps it from starting."""
    interpreter = interpreter_of(python)
    try:
        settings = settings_of(tier, python=interpreter.path, packages=interpreter.packages, cgroup=cgroup)
    except NotImplementedError as error:
        raise Unavailable(str(error)) from error
    kind = BubblewrapZygote if tier is Tier.BUBBLEWRAP else Zygote
    return kind(settings, python=interpreter.path)


def proven_zygote(tier: Tier, *, python: str = "", cgroup: int | None = None) -> Zygote:
    """Start a zygote of ``tier`` and prove that its walls hold. Raises Unavailable with the holes."""
    zygote = start_zygote(tier, python=python, cgroup=cgroup)
    try:
        found = proof.holes(zygote)
    except Unavailable:
        zygote.close()
        raise
    if found:
        zygote.close()
        raise Unavailable(f"sandbox: {'; '.join(found)}")
    return zygote


def survey(*, python: str = "") -> Mapping[Tier, str]:
    """Try every tier: the reason why it cannot be used here, empty for one that holds. For ``rlserve doctor``."""
    found: dict[Tier, str] = {}
    for tier in Tier:
        try:
            proven_zygote(tier, python=python).close()
            found[tier] = ""
        except Unavailable as error:
            found[tier] = str(error).removeprefix("sandbox: ")
    return found


def _refusal(minimum: Tier, reasons: Mapping[Tier, str]) -> str:
    why = "; ".join(f"{tier.value}: {reason}" for tier, reason in reasons.items())
    return (
        f"sandbox: no isolation tier from {minimum.value!r} upwards holds on this machine, so no code is run ({why});"
        " see docs/sandbox.md"
    )


def _open_cgroup(path: str) -> int:
    """Open the cgroup's list of processes for writing. Raises NotReady when that fails."""
    # Opened here, once: boxes enter by this descriptor, since no path outside exists in their own root.
    try:
        return os.open(os.path.join(path, "cgroup.procs"), os.O_WRONLY)
    except OSError as error:
        what = f"sandbox.cgroup: {path!r} cannot be used ({error})"
        raise NotReady(f"{what}; give a delegated cgroup v2 directory") from error
