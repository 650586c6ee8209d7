"""Finds the program in a completion that may also contain reasoning, prose, demonstrations and tests."""

import re
import sys
import textwrap
from collections.abc import Collection, Sequence

from rlserve.verifiers.code.fences import Block, blocks_of
from rlserve.verifiers.reasoning import MARK, answer_of

# The closing tag is optional: it is often a stop sequence. [BEGIN] ... [DONE] is the form of MBPP's few-shot prompt,
# [PYTHON] ... [/PYTHON] that of Code Llama's.
TAGGED = re.compile(
    r"<((?i:answer|code|solution|python))>(?P<tag>.*?)(?:</(?i:\1)>|\Z)|\[(?:PYTHON|BEGIN)\](?P<bracket>.*?)(?:\[(?:/PYTHON|DONE)\]|\Z)",
    re.DOTALL,
)
# Spellings of line ends and a byte order mark, which Python's compiler refuses inside of a source.
LINE_END, BYTE_ORDER_MARK = re.compile(r"\r\n?"), re.compile(r"(?m)^\ufeff+")
END_TOKENS = re.compile(r"(?:\s*(?:<\|[\w-]{1,40}\|>|</s>|<eos>|<end_of_turn>))+\s*\Z")
# ```print(1)``` on one line: CommonMark reads it as code inside of a paragraph, not as a block.
ONE_LINE = re.compile(r"(?m)^[ \t]*`{3,}(?:python3?|py)?[ \t]+([^`\n]+)`{3,}[ \t]*$|^[ \t]*`{3,}([^`\n]+)`{3,}[ \t]*$")
# Signs that a program reads its input or prints, by which a stdio task's program is found among other blocks.
READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b|\bfileinput\b")
PRINTS = re.compile(r"\bprint\s*\(|\.write\s*\(|\bwritelines\s*\(")
INDENTED = re.compile(r"(?m)(?:^(?: {4}|\t).*(?:\n|\Z)|^[ \t]*\n)+")
CODE = re.compile(r"(?:import|from|def|async\s+def|class)\s+\w|@\w|#")
# A line that begins with a capital and has three words or more, or a short heading: no Python statement does.
PROSE = re.compile(
    r"(?:\*\*|#{1,6} )?[A-Z][\w']*[,:.!]?(?:\s+[\w'`(][\w'`(),.-]*){2,}[.:!?]?|[A-Z][a-z]+(?: [\w'`]+)?[.:!]"
)
# Definitions at the margin: def and class, assignments, imports. By pattern and not by ast, since a program may have a
# syntax error that its tests should report.
DEFINED = re.compile(
    r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)"
    r"|^(\w+)[ \t]*(?::[^=\n]+)?=(?!=)"
    r"|^(?:from[ \t]+\S+[ \t]+)?import[ \t]+(.+)",
    re.MULTILINE,
)

SOLUTION = re.compile(r"^class[ \t]+Solution\b", re.MULTILINE)
FUTURE = re.compile(r"^from +__future__ +import", re.MULTILINE)
BORROWED = re.compile(r"^from[ \t]+\.*(\w*)[\w.]*[ \t]+import[ \t].*", re.MULTILINE)
LEETCODE = "from typing import *; from collections import *; from functools import *; from itertools import *; "
LEETCODE += "from heapq import *; from bisect import *; import math, re, string, random, collections, heapq, bisect\n"
"""Imports that LeetCode prepends to each program, so that models omit them."""


def program_in(completion: str, wanted: Collection[str] = (), *, reads: bool = False, prompt: str = "") -> str:
    """The program in a completion of ``prompt``.

    ``wanted`` are names that its tests use; ``reads``: whether its tests send input. Reasoning before the answer is
    ignored. The program is the last fenced block that defines a wanted name (or reads, or prints), Python blocks before
    those without a language, together with earlier blocks that define names it uses. Without such a block it is the
    last Python block, else the last without a language, else the whole text without fences and prose.
    """
    text = BYTE_ORDER_MARK.sub("", LINE_END.sub("\n", completion))
    text = END_TOKENS.sub("", _answer_part(text, prompt))
    # First inside of <answer> or [PYTHON] tags, then anywhere: some models put only their reasoning into tags.
    for view in (*_tagged(text), text):
        found = _program(view, wanted, reads=reads)
        if found is not None:
            return found
    blocks = blocks_of(text)
    # No block qualifies, so the tests will most likely fail; a program that defines another name should still get its
    # own error as the reason.
    for language in ("python", ""):
        bodies = [block.body for block in blocks if block.language == language]
        if bodies and not _bare(text, blocks, wanted):
            return bodies[-1]
    views = _tagged(text)
    return _without_fences(views[0] if views else text, wanted)


def with_prefix(program: str, prefix: str, entry_point: str) -> str:
    """The program to run if the task has code of its own (``prefix``).

    A completion that defines the function gets the prefix for its imports and helpers, if the prefix is a valid program
    by itself; otherwise the completion continues the prefix's last function. A class Solution gets LeetCode's imports.
    """
    # "from __future__" must be the first statement, so nothing may be put in front of it.
    solution = SOLUTION.search(program) and not FUTURE.search(program)
    imports = LEETCODE if solution else ""
    if not prefix:
        return imports + program
    if entry_point and defines(program, (entry_point,)):
        # A prefix that ends inside a function (HumanEval's) is a syntax error without the completion.
        alone = FUTURE.search(program) or not _is_program(prefix)
        return imports + program if alone else f"{imports}{prefix}\n\n{program}"
    return prefix + program


def defines(program: str, names: Collection[str]) -> bool:
    """Whether the program defines one of the names globally, or as a method of its class Solution."""
    # Regular expressions, not ast: the text around may be no Python, and one syntax error would hide every name.
    return any(name in names for name in defined_names(program)) or any(
        re.search(rf"^class[ \t]+Solution\b(?:.*\n)+?[ \t]+(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", program, re.M)
        for name in names
    )


def defined_names(program: str) -> Collection[str]:
    """Global names: functions, classes, assignments, imports."""
    found: list[str] = []
    for function, value, imported in DEFINED.findall(program):
        found += [name for name in (function, value) if name]
        found += re.findall(r"(\w+)[ \t]*(?:,|$)", imported.partition("#")[0].strip(" \t()"))
    return found


def _answer_part(text: str, prompt: str) -> str:
    """The text outside of the reasoning. A reasoning mark inside of a string literal does not count."""
    # Such marks are hidden behind NULs before the split, and put back behind it.
    quoted: list[str] = []

    def hidden(mark: re.Match[str]) -> str:
        line = text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()]
        rest = text[mark.end() :].partition("\n")[0]
        # An odd number of quotes before the mark and one behind it: the mark is inside a literal.
        if any(line.count(quote) % 2 and quote in rest for quote in "'\""):
            quoted.append(mark[0])
            # NUL does not occur in programs, so that the mark can be put back afterwards.
            return f"\0{len(quoted) - 1}\0"
        return mark[0]

    if MARK.search(text) is None:
        return answer_of(text, prompt)
    answer = answer_of(MARK.sub(hidden, text), prompt)
    return re.sub("\0(\\d+)\0", lambda match: _nth(quoted, match), answer)


def _nth(quoted: Sequence[str], match: re.Match[str]) -> str:
    number = int(match[1][:6])  # six digits: a completion may contain NULs and longer numbers of its own
    return quoted[number] if number < len(quoted) else match[0]


def _tagged(text: str) -> Sequence[str]:
    """The content of the last answer tags; empty if there are none."""
    found = [match["tag"] or match["bracket"] or "" for match in TAGGED.finditer(text)]
    # The last: models often revise an answer.
    return [found[-1]] if found and found[-1].strip() else []


def _program(text: str, wanted: Collection[str], *, reads: bool) -> str | None:
    """The program, chosen by what it defines, reads or prints; None if no block qualifies."""
    blocks = blocks_of(text)
    # The blocks are then examples of use, or output.
    if _bare(text, blocks, wanted):
        return None
    tests = [READS, PRINTS] if reads else [PRINTS]
    # None: any language, for programs under a fence that names another one, such as "text".
    for language in ("python", "", None):
        group = [block for block in blocks if block.language == language or language is None]
        if wanted:
            found = [block for block in group if defines(_own(block, wanted), wanted)]
            # A demonstration that imports the function from "solution" defines its name too: prefer other blocks.
            found = [block for block in found if not _borrows(block, wanted)] or found
        else:
            if language is None:
                return None
            # For programs on standard input no name is known: what reads wins over what only prints.
            found = next(filter(None, ([b for b in group if test.search(b.body)] for test in tests)), [])
        if found:
            return _with_helpers(found[-1], blocks, wanted)
    return None


def _borrows(block: Block, wanted: Collection[str]) -> bool:
    """Whether the block imports a wanted name from an unknown module, as a demonstration of the program does."""
    own = BORROWED.sub(lambda match: match[0] if match[1] in sys.stdlib_module_names else "", _own(block, wanted))
    return not defines(own, wanted)


def _own(block: Block, wanted: Collection[str]) -> str:
    """The body; dedented if all of it is indented and it then defines a wanted name."""
    body = block.body
    first = next((line for line in body.split("\n") if line.strip()), "")
    indent = len(first) - len(first.lstrip())
    # A list item or a quotation indents whole blocks, which is an IndentationError.
    if indent:
        moved = re.sub(rf"(?m)^[ \t]{{1,{indent}}}", "", body)
        return moved if defines(moved, wanted) else body
    return body


def _with_helpers(block: Block, blocks: Sequence[Block], wanted: Collection[str]) -> str:
    program = _own(block, wanted)
    # From the nearest block backwards, so that a helper's own helpers are found too and come before it. A block that
    # reads input is a program and not a helper.
    for earlier in reversed([other for other in blocks if other.first_line < block.first_line]):
        if earlier.language not in ("python", block.language) or defines(earlier.body, wanted):
            continue
        names = set(defined_names(earlier.body)) - set(defined_names(program))
        # One that reads input is a program of its own, and would consume the tests' input.
        if names & set(re.findall(r"\w+", program)) and not READS.search(earlier.body):
            program = f"{earlier.body}\n{program}"
    return program


def _bare(text: str, blocks: Sequence[Block], wanted: Collection[str]) -> bool:
    """Whether the program is outside of all fences: the text there defines a wanted name, and no block does."""
    if not wanted or any(defines(_own(block, wanted), wanted) for block in blocks):
        return False
    lines = text.split("\n")
    for block in blocks:
        for number in range(block.first_line, min(block.last_line + 1, len(lines))):
            lines[number] = ""
    return defines("\n".join(lines), wanted)


def _without_fences(text: str, wanted: Collection[str]) -> str:
    """The text as a program, without surrounding prose and stray fences."""
    one_line = ONE_LINE.search(text)
    if one_line and not defines(text, wanted):
        return one_line[1] or one_line[2]
    if wanted and not defines(text, wanted):
        parts = [textwrap.dedent(match[0]) for match in INDENTED.finditer(text)]
        text = next((part for part in reversed(parts) if defines(part, wanted)), text)
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if re.fullmatch(r"(?:`{3,}|~{3,})[ \t]*\w*[ \t]*", line):
            before, after = lines[:number], lines[number + 1 :]
            # A fence that closes one opened by the prompt ends the program; an opening one begins it.
            lines = before if any(part.strip() for part in before) else after
            break
    start = next((number for number, line in enumerate(lines) if line.strip()), 0)
    # Only whole lines that look like prose go: a line of code that is removed by mistake costs a right program.
    if wanted and start < len(lines) and PROSE.fullmatch(lines[start].strip()):
        start = next((number for number, line in enumerate(lines) if CODE.match(line)), start)
        lines = lines[start:]
    if wanted:
        # Prose after the last indented line only: a capitalised line before it may be part of a docstring.
        last = max((n for n, line in enumerate(lines) if line[:1].isspace() and line.strip()), default=len(lines))
        end = next((n for n in range(last + 1, len(lines)) if PROSE.fullmatch(lines[n].strip())), len(lines))
        lines = lines[:end]
    return "\n".join(lines)


def _is_program(prefix: str) -> bool:
    try:
        # Compiled, never run; dont_inherit keeps this module's own __future__ flags out.
        compile(prefix, "prefix", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True
