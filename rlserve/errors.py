"""Every error rlserve raises on purpose.

* RlserveError
  - InvalidRequest     the caller must change the request (names the field and the fix)
      + ConfigError    a run configuration cannot work
      + TaskRefused    a task can never be sampled: too long, refused by the chat template, malformed
  - UnknownName        nothing is registered by that name
  - NotReady           asked too early or too late; try again
  - Unavailable        nobody who could do it is reachable
  - DeadlineExceeded   a named wait ran out; says for whom and what happens next
  - LimitExceeded      a size, memory or rate limit was hit
  - PluginFailed       a plug-in (environment, verifier, algorithm) broke
      + VerifierFailed no verdict was reached
  - WeightsMismatch    weights served are not the weights published
  - EngineDied         the inference engine is gone; restart the worker
  - StateCorrupt       stored state contradicts itself

How a remote caller sees each: ``rlserve.rpc.status``.
"""


class RlserveError(Exception):
    """Base of all errors raised on purpose."""


class InvalidRequest(RlserveError, ValueError):
    """A field is missing, malformed or out of range. Names the field and the fix.

    ``field`` is the dotted path of the field, ``reason`` a closed word for counters.
    """

    def __init__(self, message: str, *, field: str = "", reason: str = "malformed") -> None:
        super().__init__(message)
        self.field = field or message.split(":", 1)[0]
        self.reason = reason


class ConfigError(InvalidRequest):
    """A run configuration cannot work. Names key, value and fix."""


class TaskRefused(InvalidRequest):
    """No worker can ever sample this task, so trying again is of no use. ``reason`` is one of ``TASK_FAULTS``."""


TASK_FAULTS = (
    "prompt_too_long",  # with max_new_tokens it exceeds model.max_length
    "completion_too_long",  # so does a completion that came with the task
    "template_failed",  # the chat template or the tokenizer refuses it
    "task_invalid",  # a field of it is malformed
)


class UnknownName(RlserveError, LookupError):
    """No plug-in or actor is registered by that name. Lists the names that are."""


class NotReady(RlserveError, RuntimeError):
    """Asked too early or too late; the same request may succeed in a moment."""


class Unavailable(RlserveError, ConnectionError):
    """Nobody who could serve the request is reachable."""


class DeadlineExceeded(RlserveError, TimeoutError):
    """A named wait ran out. Says who was waited for and what happens next."""


class LimitExceeded(RlserveError, RuntimeError):
    """A size, memory or rate limit was hit. Names the limit and its value."""


class PluginFailed(RlserveError, RuntimeError):
    """A plug-in broke; the message names it."""


class VerifierFailed(PluginFailed):
    """The verifier itself broke. Counted, retried elsewhere, and never a reward."""


class WeightsMismatch(RlserveError, RuntimeError):
    """Weights served are not the weights published: digests differ."""


class EngineDied(RlserveError, RuntimeError):
    """The inference engine is gone; its worker must restart."""


class StateCorrupt(RlserveError, RuntimeError):
    """Stored state contradicts itself (counts that do not add up, a broken checkpoint)."""
