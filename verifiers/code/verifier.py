"""The code verifier: runs programs against their tests, in the strongest sandbox tier that holds here."""

from rlserve.errors import NotReady
from rlserve.records import Outcome, Verdict
from rlserve.sandbox.judgement import Judgement
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.sandbox import ATTEMPTS, Sandbox
from rlserve.sandbox.stdio import TOTAL_WALL_FACTOR
from rlserve.sandbox.walls.tiers import Tier
from rlserve.verifiers.code.extract import program_in, with_prefix
from rlserve.verifiers.code.payload import MAX_SOURCE_CHARACTERS, CodeTask, decode_payload

MARGIN_SECONDS = 10
"""From the sandbox's own limits to that of the judge process. Any value of this size will do: it covers the starts."""


class CodeVerifier:
    """Runs Python programs against asserts, calls or input and output, in a sandbox of its own.

    Reward 1 if every test passes (with ``partial`` the share that does), else 0. A program that exceeds its time or
    memory, writes too much or crashes has an outcome of its own; a failure of the sandbox is no verdict.
    """

    name = "code"
    version = "1"
    description = "Python programs against asserts, calls or stdin/stdout tests, in a sandbox"
    reward_range = (0.0, 1.0)
    limits_itself = True
    """It limits the programs itself; the pool's limit is a second line of defence."""

    def __init__(
        self,
        *,
        # The weakest tier, so that every machine with Landlock can run code; an operator who wants more asks for it
        # here.
        min_tier: str = Tier.LANDLOCK.value,
        cpu_seconds: float = 4.0,
        wall_seconds: float = 10.0,
        memory_bytes: int = 768 * 2**20,
        output_bytes: int = 2**20,
        python: str = "",
        cgroup: str = "",
    ) -> None:
        try:
            self._minimum = Tier(min_tier)
        except ValueError:
            known = ", ".join(Tier)
            raise NotReady(f"options.min_tier: {min_tier!r} is not a tier (known: {known})") from None
        self._limits = Limits(
            cpu_seconds=cpu_seconds, wall_seconds=wall_seconds, memory_bytes=memory_bytes, output_bytes=output_bytes
        )
        self._python, self._cgroup = python, cgroup
        self._sandbox: Sandbox | None = None

    @property
    def limit_seconds(self) -> float:
        """Counted time for one completion, including retries and several tests."""
        # Each attempt takes at most the limit of all tests together and that of one that starts just before it.
        return ATTEMPTS * (TOTAL_WALL_FACTOR + 1) * self._limits.wall_seconds + MARGIN_SECONDS

    @property
    def isolation(self) -> str:
        """The tier in use; ``""`` before :meth:`prepare`."""
        return self._sandbox.isolation if self._sandbox else ""

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse."""
        decode_payload(payload)

    def prepare(self) -> None:
        """Choose and prove a tier. Raises NotReady if none holds, so that no code is run here."""
        # Proving a tier starts processes and attacks it: once per judge process.
        if self._sandbox is None:
            self._sandbox = Sandbox(minimum=self._minimum, python=self._python, cgroup=self._cgroup)

    def close(self) -> None:
        """Close the sandbox."""
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Verify one program. Raises InvalidRequest for a malformed payload, SandboxFault if the sandbox fails."""
        task = decode_payload(payload)
        self.prepare()
        assert self._sandbox is not None
        program = completion
        if task.extract:
            program = program_in(completion, task.wanted, reads=task.reads, prompt=prompt)
        source = with_prefix(program, task.prefix, task.root)
        # Before a box is started: a completion cannot be longer than the server's limit, but may be multiplied by
        # helpers and prefix.
        if len(source) > MAX_SOURCE_CHARACTERS:
            found = Judgement(
                outcome=Outcome.REJECTED,
                passed=0,
                total=1,
                reason=f"the program is longer than {MAX_SOURCE_CHARACTERS} characters",
            )
        else:
            found = self._run(self._sandbox, task, source)
        return self._verdict(task, found)

    def _run(self, sandbox: Sandbox, task: CodeTask, source: str) -> Judgement:
        limits = self._limits.lowered(cpu_seconds=task.cpu_seconds, memory_bytes=task.memory_bytes)
        if task.kind == "stdio":
            return sandbox.stdio(source, task.stdio, limits)
        if task.kind == "calls":
            return sandbox.calls(source, task.entry_point, task.calls, limits)
        return sandbox.function(source, task.asserts, limits, entry_point=task.entry_point, prefix=task.prefix)

    def _verdict(self, task: CodeTask, found: Judgement) -> Verdict:
        share = found.passed / found.total if found.total else 0.0
        full = found.outcome is Outcome.PASS
        return Verdict(
            outcome=found.outcome,
            # A full pass is exactly 1, whatever rounding does to the share.
            reward=share if task.partial and not full else float(full),
            parts={"tests": share},
            reason=found.reason,
            verifier=self.name,
            passed=found.passed,
            total=found.total,
            isolation=self.isolation,
            output=found.output,
        )
