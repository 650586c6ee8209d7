"""Text of others made fit for logs and terminals: nothing in it moves a cursor, colours, reorders or begins a line."""

import re

MAX_LINE = 4096
"""Characters of one line of a log."""
LINES = "\n\t"
"""What stays in a text of several lines."""

# C0 and C1 controls, DEL, line and paragraph separators, marks that reorder or hide text, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\x1b"}


def printable(text: object, *, max_length: int = MAX_LINE, keep: str = "") -> str:
    """``text`` with every control and invisible character spelled out, and cut; ``keep`` names those that stay."""
    whole = str(text)
    shown = _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else _spelled(found[0]), whole[:max_length])
    cut = len(shown) > max_length or len(whole) > max_length
    return f"{shown[:max_length]}... ({len(whole)} characters)" if cut else shown


def _spelled(character: str) -> str:
    number = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
