"""One log format for every actor: time, actor, level, message. Lines are events for people.

What others say (ids, reasons, errors of a peer) is part of messages. A message is one line, with control characters
spelled out; the lines of a traceback are indented. So no line of a log begins as a record does unless it is one.
"""

import logging
import sys

from rlserve.observability.printable import MAX_LINE, printable

MAX_TRACEBACK_LINES = 200
INDENT = "    "


class OneLine(logging.Formatter):
    """Formats a record as one line, and what else it holds as indented ones."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, cut at 4096 characters, then its traceback."""
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
    """Log to standard error; third-party chatter below WARNING is left out."""
    handler = logging.StreamHandler(sys.stderr)
    form = f"%(asctime)s {printable(actor).replace('%', '%%')} %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(OneLine(form, "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("rlserve").setLevel(level)


def _first_line_of(record: logging.LogRecord) -> str:
    return record.getMessage().partition("\n")[0]


def _rest_of(record: logging.LogRecord) -> str:
    return record.getMessage().partition("\n")[2]


def _indented(text: str) -> list[str]:
    """Lines that cannot be taken for records; the first and the last ones of a text that has too many."""
    lines = text.split("\n") if text else []
    if (excess := len(lines) - MAX_TRACEBACK_LINES) > 0:
        half = MAX_TRACEBACK_LINES // 2
        lines = [*lines[:half], f"... ({excess} lines)", *lines[-half:]]
    return [INDENT + printable(line, max_length=MAX_LINE) for line in lines]
