"""Escapes untrusted text for logs and terminals, so that it cannot move a cursor, colour, reorder or begin a line."""

import re

MAX_LINE = 4096
"""Characters of one line of a log. Any value of this size will do: a terminal's screen holds about as many."""
LINES = "\n\t"
"""Characters to keep in a text of several lines."""

# C0 and C1 controls, DEL, line and paragraph separators, marks that reorder or hide text, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\x1b"}


def printable(text: object, *, max_length: int = MAX_LINE, keep: str = "") -> str:
    """``text``, cut to ``max_length``, with every control and invisible character escaped except those in ``keep``."""
    whole = str(text)
    # Cut before and after: escaping a megabyte to show a line would be slow, and escaping makes the text longer.
    shown = _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else _spelled(found[0]), whole[:max_length])
    cut = len(shown) > max_length or len(whole) > max_length
    return f"{shown[:max_length]}... ({len(whole)} characters)" if cut else shown


def _spelled(character: str) -> str:
    number = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
