r"""Answers in ``\boxed{...}`` or ``\fbox{...}``: where they stand, and what they hold."""

import re
from dataclasses import dataclass

from rlserve.verifiers.math.clause import value_in_sentence

MAX_BOXES = 64
MAX_BOX_CHARACTERS = 5000
OPENING = re.compile(r"\\(?:boxed|fbox|framebox)")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
TOKEN = re.compile(r"\\[A-Za-z]+|\\?\$?[-+]?[0-9]+(?:[.,][0-9]+)*|[A-Za-z]|\$[^$\n]{1,200}\$|\([^()\n]{0,200}\)")
"""What a box without braces takes: ``\boxed 5``."""
NAME = r"(?:[A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,4}\}))?\s*=)"
FRACTION = re.compile(r"\\[cdt]?frac(?:[ \t]*[0-9A-Za-z](?:[ \t]*[0-9A-Za-z](?![0-9A-Za-z]))?)")
"""``\\frac12`` and ``\\frac1{2}``."""
JOINER = re.compile(
    r"(?:[\s,;.$~&\u3001\uff0c\u6216\u548c]|\\text\b|\\ |\\[,;:!()\[\]]|\\quad|\\qquad|\{|\}|\band\b|\bor\b"
    rf"|\b(?P<name>{NAME}))*",
    re.IGNORECASE,
)
"""What may stand between the boxes of one answer of several parts."""
NAMED = re.compile(rf"(?<![A-Za-z\\])(?P<name>{NAME})\s*(?:\$\s*)?$")
PLACEHOLDER = re.compile(
    r"(?:\\text\w*\{)?\s*(?:(?:your|the|my|final|correct|numerical|numeric|insert|put)\s+)*"
    r"(?:answer|result|number|solution|value|ans)s?(?:\s+here)?\s*\}?"
    r"|[.?_\s]*|\\[a-z]*dots|\\square|\\q?quad|\\(?:hphantom|phantom|hspace)\{[^{}]*\}|\[[^\]]*answer[^\]]*\]"
    r"|<[^<>]*answer[^<>]*>",
    re.IGNORECASE,
)
"""A box that holds nothing of its own: empty, or repeated from the instruction."""


@dataclass(frozen=True, slots=True)
class Boxed:
    """One answer, in a box or in several side by side."""

    start: int
    """Of the first of its boxes."""
    end: int
    text: str


def last_box(text: str) -> str | None:
    """Content of the last box that holds an answer; boxes side by side are joined by commas; None without one."""
    found = find_boxes(text)
    return None if found is None else found.text


def find_boxes(text: str) -> Boxed | None:
    """The last box that holds an answer, with those side by side with it.

    Boxes with nothing but ``and``, ``or``, punctuation or the name of a variable between them are one answer of
    several parts, so two boxes are not two tries.
    """
    parts: list[tuple[str, str]] = []
    start, end = len(text), 0
    while len(parts) < MAX_BOXES and (box := _box_before(text, start)) is not None:
        if parts and not JOINER.fullmatch(text, box.end, start):
            break
        start, end = box.start, max(end, box.end)
        named = NAMED.search(text, max(0, start - 30), start)
        parts.append(("".join((named["name"] if named else "").split()), box.text))
    if not parts:
        return None
    parts.reverse()
    return Boxed(start, end, ", ".join(dict.fromkeys(_told_apart(parts))))


def _told_apart(parts: list[tuple[str, str]]) -> list[str]:
    """The contents; with their names when they are values of different variables."""
    names = {name.partition("_")[0].rstrip("=") for name, _ in parts}
    named = len(names) > 1 and "" not in names
    return [f"{name}{content}" if named else content for name, content in parts]


def _box_before(text: str, end: int) -> Boxed | None:
    """The last complete box with an answer in it that begins before ``end``."""
    for _ in range(MAX_BOXES):
        start = max(text.rfind(name, 0, end) for name in ("\\boxed", "\\fbox", "\\framebox"))
        opening = None if start < 0 else OPENING.match(text, start)
        if start < 0:
            return None
        found = None if opening is None else _group(text, opening.end())
        if found is not None and not PLACEHOLDER.fullmatch(found[1]):
            return Boxed(start, found[0], value_in_sentence(found[1]))
        end = start
    return None


def _group(text: str, index: int) -> tuple[int, str] | None:
    """End and content of the braced group (or what TeX or a person takes for one) at ``index``; None for none.

    A group that is still open after ``MAX_BOX_CHARACTERS`` counts up to there: too long to be accepted.
    """
    while text.startswith((" ", "\t", "\n"), index):
        index += 1
    if not text.startswith("{", index):
        token = TOKEN.match(text, index)
        return None if token is None else _with_arguments(text, index, token.end())
    depth = 0
    limit = index + MAX_BOX_CHARACTERS
    for mark in BRACE.finditer(text, index, limit):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return mark.end(), text[index + 1 : mark.start()].strip()
    return (limit, text[index + 1 : limit]) if limit < len(text) else None


def _with_arguments(text: str, start: int, end: int) -> tuple[int, str]:
    r"""A token and, if it is a command, the groups behind it: ``\frac{1}{2}``, ``\sqrt[3]{2}``."""
    if text[start] == "\\":
        fraction = FRACTION.match(text, start)
        if fraction is not None:
            end = fraction.end()
        for _ in range(3):
            if text.startswith("[", end) and (closing := text.find("]", end, end + 20)) > 0:
                end = closing + 1
            if not text.startswith("{", end) or (group := _group(text, end)) is None:
                break
            end = group[0]
    return end, text[start:end].strip("$ ")
