"""Fenced code blocks of a text, as in CommonMark and as models write them.

Beyond CommonMark, a closing fence may be attached to the last line of its block, a fence with a language ends an
unclosed block, and an opening fence may follow words on its line if it names Python.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

FENCE = re.compile(
    r"(?P<before>(?:[ \t]*>[ \t]?)*[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^\n]*)"
)
GLUED_OPENING = re.compile(r".*\S[ \t]*(?P<marks>`{3,})[ \t]*(?P<info>(?:python|py)[\d.]*)[ \t]*", re.IGNORECASE)
LIST_ITEM = re.compile(r"(?P<before>[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+)\S")
QUOTE = re.compile(r"[ \t]*>[ \t]?")
# "python", "python3", "{.python}", "ipython3"; not "python-repl", whose lines begin with ">>>".
PYTHON = re.compile(r"[{.\s]*(?:i?python|py)[\d.]*(?![\w+-])", re.IGNORECASE)
TAB = 4
"""Tab stops of CommonMark."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    language: str
    """``"python"``, ``""`` if none is named, else the first word of the info string."""
    body: str
    first_line: int
    """Line of the opening fence, counted from 0."""
    last_line: int
    """Line of the closing fence, or the last line of the text."""


def blocks_of(text: str) -> Sequence[Block]:
    """All non-empty blocks, in order. An unclosed block extends to the end."""
    lines = text.split("\n")
    found: list[Block] = []
    list_indent, index = 0, 0
    while index < len(lines):
        line = lines[index]
        opening = _opening(line, list_indent)
        if opening is None:
            # Inside of a list item a fence may be indented as far as the item's text: remember how far that is.
            item = LIST_ITEM.match(line)
            if item is not None:
                list_indent = _width(item["before"])
            elif line.strip() and not line[0].isspace():
                list_indent = 0
            index += 1
            continue
        first = index
        body, last, index = _body(lines, index + 1, opening)
        if body.strip():
            found.append(Block(opening.language, body, first, last))
    return found


@dataclass(frozen=True, slots=True)
class _Opening:
    marks: str
    indent: int
    quotes: int
    language: str


def _opening(line: str, list_indent: int) -> _Opening | None:
    match = FENCE.fullmatch(line)
    # CommonMark: the info string of a fence of backticks has no backtick, or it is inline code.
    if match is None or (match["marks"][0] == "`" and "`" in match["info"]):
        glued = GLUED_OPENING.fullmatch(line)
        if glued is None:
            return None
        # Only where it names Python: words before ``` are otherwise inline code.
        return _Opening(glued["marks"], 0, 0, "python")
    before = match["before"]
    quotes = before.count(">")
    indent = _width(before.rpartition(">")[2].removeprefix(" ") if quotes else before)
    # CommonMark: four columns of indentation make a code block, not a fence; inside a list item they count from its
    # content.
    if indent >= TAB and not quotes and indent > list_indent + TAB - 1 and not LIST_ITEM.match(line):
        return None  # an indented line of something else, for example of a program without fences
    return _Opening(match["marks"], indent, quotes, _language(match["info"]))


def _language(info: str) -> str:
    if PYTHON.match(info):
        return "python"
    return info.split()[0].strip("{}.").lower() if info.split() else ""


def _body(lines: Sequence[str], start: int, opening: _Opening) -> tuple[str, int, int]:
    """The text of a block, the number of its last line, and the line to continue from."""
    body: list[str] = []
    for number in range(start, len(lines)):
        line = _unquoted(lines[number], opening.quotes)
        match = FENCE.fullmatch(line)
        if match is not None and not match["before"].strip():
            # A closing fence is of the same character and at least as long, so that ```` may enclose ```.
            same = match["marks"][0] == opening.marks[0] and len(match["marks"]) >= len(opening.marks)
            near = _width(match["before"]) <= opening.indent + TAB - 1
            if same and near and not match["info"].strip():
                return _dedented(body, opening.indent), number, number + 1
            if same and near and _language(match["info"]) == "python" and "`" not in match["info"]:
                # An opening fence inside of an open block: the one before was forgotten. Read this line again.
                return _dedented(body, opening.indent), number - 1, number
        # "print(1)```": a fence glued to the last line of code.
        code = line.rstrip()
        if code.endswith(opening.marks) and code.count(opening.marks[0]) == len(opening.marks) and code.strip("`~ \t"):
            body.append(code[: -len(opening.marks)])
            return _dedented(body, opening.indent), number, number + 1
        body.append(line)
    # Unclosed: the completion was cut, or the fence is a stop sequence.
    return _dedented(body, opening.indent).removesuffix("\n"), len(lines) - 1, len(lines)


def _unquoted(line: str, quotes: int) -> str:
    for _ in range(quotes):
        line = QUOTE.sub("", line, count=1) if QUOTE.match(line) else line
    return line


def _dedented(lines: Sequence[str], indent: int) -> str:
    """Dedent by the indentation of the opening fence, if all lines have it."""
    # At most by what every line has: a line further left belongs to the program as it is.
    indent = min([indent, *(_width(line[: len(line) - len(line.lstrip())]) for line in lines if line.strip())])
    return "".join(_less_indented(line, indent) + "\n" for line in lines)


def _less_indented(line: str, indent: int) -> str:
    taken, position = 0, 0
    while taken < indent and position < len(line) and line[position] in " \t":
        # A tab goes to the next multiple of four columns.
        taken += TAB - taken % TAB if line[position] == "\t" else 1
        position += 1
    return line[position:]


def _width(blanks: str) -> int:
    return len(blanks.expandtabs(TAB))
