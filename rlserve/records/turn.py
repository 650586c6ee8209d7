"""One turn of an episode: the tool calls of the policy, and the environment's answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.records.task import Message
from rlserve.records.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of one of the task's tools. Its name may be of no tool, and its arguments may break the tool's schema."""

    id: str
    """Unique within the episode; the message that answers the call names it (``Message.tool_call_id``)."""
    name: str
    arguments_json: str = "{}"
    """A JSON object."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments, decoded."""
        decoded: Mapping[str, Any] = json.loads(self.arguments_json)
        return decoded


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
