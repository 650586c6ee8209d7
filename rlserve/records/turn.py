"""An environment's answer to one turn of the policy."""

from dataclasses import dataclass

from rlserve.records.task import Message
from rlserve.records.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The environment's answer to one text of the policy."""

    messages: tuple[Message, ...] = ()
    """Messages that the policy reads next; ignored when ``done``."""
    done: bool = False
    """True when the episode is over."""
    verdict: Verdict | None = None
    """Verdict if the episode ends here. The last answer's counts, also when the worker ends the episode at a limit of
    tokens or turns; None there leaves the verdict to the task's verifier."""
