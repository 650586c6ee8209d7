r"""Finds answers in ``\boxed{...}`` or ``\fbox{...}``, and their places in the text."""

import re
from dataclasses import dataclass

from rlserve.verifiers.math.extract.clause import value_in_sentence

MAX_BOXES = 64
"""Boxes read backwards from the end. Any value of this size will do: it bounds the work on a text of boxes alone."""
MAX_BOX_CHARACTERS = 5000
"""Above ``prefilter.MAX_CHARACTERS``, so that a box cut here is still refused as too long and never judged in part."""
OPENING = re.compile(r"\\(?:boxed|fbox|framebox)")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
TOKEN = re.compile(r"\\[A-Za-z]+|\\?\$?[-+]?[0-9]+(?:[.,][0-9]+)*|[A-Za-z]|\$[^$\n]{1,200}\$|\([^()\n]{0,200}\)")
r"""The content of a box without braces: ``\boxed 5``, ``\boxed\pi``."""
# The name in front of a box: "x = \boxed{1}".
NAME = r"(?:[A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,4}\}))?\s*=)"
FRACTION = re.compile(r"\\[cdt]?frac(?:[ \t]*[0-9A-Za-z](?:[ \t]*[0-9A-Za-z](?![0-9A-Za-z]))?)")
"""``\\frac12`` and ``\\frac1{2}``."""
JOINER = re.compile(
    r"(?:[\s,;.$~&\u3001\uff0c\u6216\u548c]|\\text\b|\\ |\\[,;:!()\[\]]|\\quad|\\qquad|\{|\}|\band\b|\bor\b"
    rf"|\b(?P<name>{NAME}))*",
    re.IGNORECASE,
)
"""The text allowed between the boxes of one answer of several parts."""
NAMED = re.compile(rf"(?<![A-Za-z\\])(?P<name>{NAME})\s*(?:\$\s*)?$")
# Models often repeat the instruction, "put it in \boxed{your answer}", before or after they answer.
PLACEHOLDER = re.compile(
    r"(?:\\text\w*\{)?\s*(?:(?:your|the|my|final|correct|numerical|numeric|insert|put)\s+)*"
    r"(?:answer|result|number|solution|value|ans)s?(?:\s+here)?\s*\}?"
    r"|[.?_\s]*|\\[a-z]*dots|\\square|\\q?quad|\\(?:hphantom|phantom|hspace)\{[^{}]*\}|\[[^\]]*answer[^\]]*\]"
    r"|<[^<>]*answer[^<>]*>",
    re.IGNORECASE,
)
"""The content of a box without an answer: empty, or repeated from the instruction."""


@dataclass(frozen=True, slots=True)
class Boxed:
    """One answer, in a box or in several side by side."""

    start: int
    """Index of the first box."""
    end: int
    text: str


def last_box(text: str) -> str | None:
    """Return the content of the last box with an answer, boxes side by side joined by commas; None without one."""
    found = find_boxes(text)
    return None if found is None else found.text


def find_boxes(text: str) -> Boxed | None:
    """Return the last box with an answer, together with the boxes side by side with it.

    Boxes with only ``and``, ``or``, punctuation or the name of a variable between them are the parts of one answer.
    Two boxes with prose between them are two tries, of which the last counts.
    """
    parts: list[tuple[str, str]] = []
    start, end = len(text), 0
    # From the end backwards: a completion may hold thousands of boxes and only the last run of them matters.
    while len(parts) < MAX_BOXES and (box := _box_before(text, start)) is not None:
        if parts and not JOINER.fullmatch(text, box.end, start):
            break
        start, end = box.start, max(end, box.end)
        named = NAMED.search(text, max(0, start - 30), start)  # 30 characters: room for any NAME with blanks and a $
        parts.append(("".join((named["name"] if named else "").split()), box.text))
    if not parts:
        return None
    parts.reverse()
    return Boxed(start, end, ", ".join(dict.fromkeys(_told_apart(parts))))


def _told_apart(parts: list[tuple[str, str]]) -> list[str]:
    """Return the contents, with their names when they are values of different variables: ``x=1, y=2``."""
    # x_1 and x_2 are values of one variable: without names they may be given in any order.
    names = {name.partition("_")[0].rstrip("=") for name, _ in parts}
    named = len(names) > 1 and "" not in names
    return [f"{name}{content}" if named else content for name, content in parts]


def _box_before(text: str, end: int) -> Boxed | None:
    """Return the last complete box with an answer that begins before ``end``."""
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
    """Return end and content of the group at ``index``, in braces or one token as TeX takes it; None without one.

    A group still open after ``MAX_BOX_CHARACTERS`` counts up to there, and the prefilter refuses it. One that the
    text ends inside of is a completion cut off by the length limit: it has no answer.
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
    r"""Return the end of a token, and the token with the groups behind it: ``\frac{1}{2}``, ``\sqrt[3]{2}``."""
    if text[start] == "\\":
        fraction = FRACTION.match(text, start)
        if fraction is not None:
            end = fraction.end()
        for _ in range(3):  # no command that an answer needs takes more groups
            if text.startswith("[", end) and (closing := text.find("]", end, end + 20)) > 0:
                end = closing + 1
            if not text.startswith("{", end) or (group := _group(text, end)) is None:
                break
            end = group[0]
    return end, text[start:end].strip("$ ")
