"""``[verifier]``: verifier servers and their judge processes."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from rlserve.config.base import Section


def _name(value: str) -> str:
    # Not shown: whoever wrote NAME=VALUE wrote a secret.
    if not value.isidentifier() or not value.isascii():
        raise ValueError("environment: has what is no name of a variable; give names alone, without values")
    return value


class VerifierConfig(Section):
    """Verifier servers."""

    address: str = "127.0.0.1:0"
    """Address of the server; port 0 takes a free one."""
    workers: int = Field(2, ge=1)
    """Processes that judge, one completion at a time each. Verifiers that wait for a server, such as judges, have a
    process of their own, with many completions at once."""
    limit_seconds: float = Field(5.0, gt=0)
    """Limit for one completion, without the time in which it waited for a processor. Then its process is killed and
    there is no verdict."""
    memory_bytes: int = Field(512 * 2**20, ge=64 * 2**20)
    """Address-space limit of a judge process beyond its size at start."""
    attempts: int = Field(2, ge=1)
    """Tries of one completion before "no verdict"."""
    spares: int = Field(1, ge=0)
    """Processes kept ready beyond ``workers``, so that a killed one costs no wait."""
    start_seconds: float = Field(60.0, gt=0)
    """A judge process must have started within this."""
    recycle_completions: int = Field(50_000, ge=1)
    """A judge process is replaced after this many completions. By then they took far longer than its start, which may
    import sympy: after 5,000 short answers both took the same time."""
    recycle_growth_bytes: int = Field(128 * 2**20, ge=2**20)
    """A judge process that has grown by more than this is replaced."""
    max_queue: int = Field(4096, ge=1)
    """Completions waiting or being judged; a request beyond it is refused, and the worker asks another server."""
    max_completion_bytes: int = Field(2**20, ge=1024)
    """Largest completion, prompt or payload."""
    share_functions: bool = False
    """Send the files of reward functions to hosts that join as verifiers (``rlserve join``). They are code, which those
    hosts run."""
    environment: tuple[Annotated[str, AfterValidator(_name)], ...] = ()
    """Names of environment variables that judge processes get, e.g. ``["OPENAI_API_KEY"]`` for a judge or a function
    that asks a server; they get no others. Values are those where the server starts, and are written nowhere."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Constructor options by verifier name."""
