"""Every error that rlserve raises on purpose.

* RlserveError
  - InvalidRequest     the caller must change the request (names the field and the fix)
      + ConfigError    a run configuration cannot work
      + TaskRefused    a task can never be sampled: too long, refused by the chat template, malformed
  - UnknownName        nothing is registered under that name
  - NotReady           the request came too early or too late; try again
  - Unavailable        no actor that could serve the request can be reached
  - DeadlineExceeded   a wait took longer than its limit (names the peer and what happens next)
  - LimitExceeded      a size, memory or rate limit was reached
  - PluginFailed       a plug-in (environment, verifier, algorithm) raised an exception
      + VerifierFailed a verifier could not judge
  - WeightsMismatch    weights that were received differ from the published ones
  - EngineDied         the inference engine ended; its worker must restart
  - StateCorrupt       stored state contradicts itself

Each also derives from the standard exception that it is a case of, so that callers may catch either.
``rlserve.rpc.status`` maps them to gRPC status codes.
"""


class RlserveError(Exception):
    """Base class of all errors that rlserve raises on purpose."""


class InvalidRequest(RlserveError, ValueError):
    """A field is missing, malformed or out of range. The message names the field and the fix.

    ``field`` is the dotted path of the field; ``reason`` is one of a closed set of words, so that it can be counted.
    """

    def __init__(self, message: str, *, field: str = "", reason: str = "malformed") -> None:
        super().__init__(message)
        # By convention a message starts with the field: "top_p: is 2; give a number in (0, 1]".
        self.field = field or message.split(":", 1)[0]
        self.reason = reason


class ConfigError(InvalidRequest):
    """A run configuration cannot work. The message names key, value and fix."""


class TaskRefused(InvalidRequest):
    """No worker can sample this task, now or later. ``reason`` is one of ``TASK_FAULTS``."""


TASK_FAULTS = (
    "prompt_too_long",  # with max_new_tokens it exceeds model.max_length
    "completion_too_long",  # with a completion that came with the task it exceeds model.max_length
    "template_failed",  # the chat template or the tokenizer refuses it
    "task_invalid",  # one of its fields is malformed
)


class UnknownName(RlserveError, LookupError):
    """Nothing is registered under that name. The message lists the registered names."""


class NotReady(RlserveError, RuntimeError):
    """The request came too early or too late; the same request may succeed in a moment."""


class Unavailable(RlserveError, ConnectionError):
    """No actor that could serve the request can be reached."""


class DeadlineExceeded(RlserveError, TimeoutError):
    """A wait took longer than its limit. The message names the peer and what happens next."""


class LimitExceeded(RlserveError, RuntimeError):
    """A size, memory or rate limit was reached. The message names the limit and its value."""


class PluginFailed(RlserveError, RuntimeError):
    """A plug-in raised an exception; the message names the plug-in."""


class VerifierFailed(PluginFailed):
    """A verifier could not judge. This is counted and tried again elsewhere, and never becomes a reward."""


class WeightsMismatch(RlserveError, RuntimeError):
    """Weights that were received differ from the published ones: their digests do."""


class EngineDied(RlserveError, RuntimeError):
    """The inference engine ended; its worker must restart."""


class StateCorrupt(RlserveError, RuntimeError):
    """Stored state contradicts itself (counts that do not add up, a broken checkpoint)."""
