"""Tasks: a prompt, how to sample it, and the payload for its verifier."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Purpose(StrEnum):
    """Use of a group."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    """Held-out measurement; never trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message."""

    role: str
    """``"system"``, ``"user"``, ``"assistant"`` or ``"tool"``."""
    content: str
    tool_call_id: str = ""
    tool_calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool offered to the policy."""

    name: str
    description: str = ""
    parameters_json: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. None leaves a value to the run's configuration."""

    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    """Strings that end a completion; the tokens that spell them are kept."""
    stop_token_ids: tuple[int, ...] = ()

    def or_else(self, usual: "Sampling") -> "Sampling":
        """This, with the values of ``usual`` where a value is not set."""
        return Sampling(
            # Not ``or``: temperature 0 is greedy sampling, and a value like any other.
            temperature=usual.temperature if self.temperature is None else self.temperature,
            top_p=usual.top_p if self.top_p is None else self.top_p,
            max_new_tokens=usual.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens,
            stop=self.stop or usual.stop,
            stop_token_ids=self.stop_token_ids or usual.stop_token_ids,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCompletion:
    """A completion from a data set: half of a preference pair, or a demonstration."""

    text: str
    chosen: bool | None = None
    """True for the chosen one of a pair, False for the rejected one, None without a pair."""
    pair: int = 0
    """Number of its pair: a chosen and a rejected completion with the same number belong together."""
    supervised_weight: float = 0.0
    """Weight of its tokens under the supervised objective; 0 leaves them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task. The same (environment, version, split, index, seed) is always the same task.

    ``prompt`` is plain text, chat messages, or token ids.
    """

    environment: str
    environment_version: str = "1"
    split: str
    index: int
    """Position in the split, >= 0."""
    task_id: str
    prompt: str | tuple[Message, ...] | tuple[int, ...]
    verifier: str
    """Registered name of the verifier that judges completions; may be empty for episodes and given completions."""
    payload: bytes
    """Read by the verifier alone; never shown to the policy."""
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    multi_turn: bool = False
    tools: tuple[Tool, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    """Free labels for metrics, e.g. difficulty."""
    given: tuple[GivenCompletion, ...] = ()
    """Completions that come with the task. If there are any, training samples none."""
