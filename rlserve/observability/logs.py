"""One log format for every actor: time, actor, level, message. A line is an event for people.

Messages contain text from other parties: ids, reasons, errors of a peer. A message is therefore one line with its
control characters escaped, and lines of a traceback are indented: no such text can forge a line that looks like a
record.
"""

import logging
import sys

from rlserve.observability.printable import MAX_LINE, printable

MAX_TRACEBACK_LINES = 200
"""Any value of this size will do: endless recursion prints a thousand frames, of which the first and last tell
enough."""
INDENT = "    "


class OneLine(logging.Formatter):
    """Formats a record as one line, followed by indented lines for the rest of its message and its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, cut at MAX_LINE characters, then the indented lines."""
        record.message = printable(_first_line_of(record))
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [self.formatMessage(record)]
        lines += _indented(_rest_of(record))
        if record.exc_info:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)


def set_up(actor: str, *, level: int = logging.INFO) -> None:
    """Log to standard error: rlserve's records from ``level`` on, those of other libraries from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    # The name becomes part of a %-format.
    form = f"%(asctime)s {printable(actor).replace('%', '%%')} %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(OneLine(form, "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]  # replaces handlers that libraries installed on import, which would print twice
    root.setLevel(logging.WARNING)
    logging.getLogger("rlserve").setLevel(level)


def _first_line_of(record: logging.LogRecord) -> str:
    return record.getMessage().partition("\n")[0]


def _rest_of(record: logging.LogRecord) -> str:
    return record.getMessage().partition("\n")[2]


def _indented(text: str) -> list[str]:
    """The lines of a text, indented and escaped; of a text with too many lines the first and the last ones."""
    lines = text.split("\n") if text else []
    if (excess := len(lines) - MAX_TRACEBACK_LINES) > 0:
        half = MAX_TRACEBACK_LINES // 2
        lines = [*lines[:half], f"... ({excess} lines)", *lines[-half:]]
    return [INDENT + printable(line, max_length=MAX_LINE) for line in lines]
