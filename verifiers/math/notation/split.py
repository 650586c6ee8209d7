"""Splits normalised text outside of its brackets, in one pass."""

import re

OPENING = "([{"
PAIRS = {")": "([", "]": "([", "}": "{"}
"""An interval may be closed by either bracket."""


def closing_index(text: str, start: int) -> int | None:
    """Return the index of the bracket that closes the one at ``start``; None when there is none."""
    stack: list[str] = []
    for index in range(start, len(text)):
        character = text[index]
        if character in OPENING:
            stack.append(character)
        elif character in PAIRS:
            if not stack or stack[-1] not in PAIRS[character]:
                return None
            stack.pop()
            if not stack:
                return index
    return None


def split_top(text: str, separator: re.Pattern[str], found: list[str] | None = None) -> list[str]:
    """Split ``text`` at the matches of ``separator`` outside of brackets.

    The separators themselves are appended to ``found``. Behind an unclosed bracket nothing is split.
    """
    depths = _depths(text)
    parts: list[str] = []
    start = 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0:
            parts.append(text[start : match.start()])
            start = match.end()
            if found is not None:
                found.append(match.group())
    parts.append(text[start:])
    return parts


def _depths(text: str) -> list[int]:
    """Return the bracket depth before each character."""
    depths: list[int] = []
    depth = 0
    if "\\langle" in text:
        # Angle brackets count too. Each is replaced by as many characters as it has, so that the indices stay.
        text = text.replace("\\langle", "(......").replace("\\rangle", ")......")
    for character in text:
        depths.append(depth)
        if character in OPENING:
            depth += 1
        elif character in PAIRS and depth:
            depth -= 1
    return depths
