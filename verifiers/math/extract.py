r"""Which answer in a completion counts. One order of rules, for every caller:

1. ``box``: the last ``\boxed{...}`` (or ``\fbox``). Boxes with nothing but ``and``, ``or`` or punctuation
   between them are one answer of several parts, so two boxes are not two tries.
2. ``phrase``: what follows the last "answer is" or "answer:", to the end of its sentence.
3. ``marker``: what follows the last ``####`` (GSM8K), to the end of its line.
4. ``whole``: the text itself, when it is a bare expression without prose, or a few words.
5. ``last``: the last formula or number in the text.

Nothing else of the completion is ever looked at. Every step is linear in the length of the text.
"""

import re
from dataclasses import dataclass

MAX_WHOLE_CHARACTERS = 2000
PHRASE = re.compile(r"\banswer\b[ \t]*(?:is\b|:|=)(?:[ \t]*(?:is\b|:|=))?[\s*_:]*", re.IGNORECASE)
JOINER = re.compile(r"(?:[\s,;.$~&]|\\text\b|\\ |\\[,;:!]|\\quad|\{|\}|\band\b|\bor\b)*", re.IGNORECASE)
SENTENCE_END = re.compile(r"\n|[.!?;](?=\s|$)|[.]$")
PROSE = re.compile(r"[A-Za-z]{4,}|\b(?:is|the|we|of|to|so|as|it|are|has|for|and|but|not)\b")
LATEX_WORDS = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname|textit|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
    r"|(?<![A-Za-z])(?:sqrt|a?sinh?|a?cosh?|a?tanh?|arc(?:sin|cos|tan)|log|exp|infinity)(?![A-Za-z])"
)
NUMBER = re.compile(
    r"(?:(?<![\w)\]}.])[-\u2212])?\\?\$?(?<![\w.])[0-9]{1,400}(?:,[0-9]{3})*(?:\.[0-9]{1,400})?"
    r"(?:[eE][-+]?[0-9]{1,5})?(?:\s?/\s?[0-9]{1,400})?(?:\s?\\?%)?"
)
# A formula ends where another one opens: without that, unclosed ones cost quadratic time.
FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(((?:[^\\]|\\[^()\[\]])+)\\\)|\\\[((?:[^\\]|\\[^()\[\]])+)\\\]")
TOKEN = re.compile(r"\\[A-Za-z]+|[0-9]+(?:\.[0-9]+)?|[A-Za-z]")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
TAIL_CHARACTERS = 20_000
"""The ``last`` rule reads no further back than this."""
WORDS = re.compile(r"[A-Za-z]+(?: [A-Za-z]+){0,4}")
"""A text of a few words and no number is an answer in words."""
MAX_WORDS_CHARACTERS = 60
MAX_BOXES = 64
MAX_BOX_CHARACTERS = 5000


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer that counts and the rule that found it."""

    text: str
    rule: str


def find_answer(text: str, *, bare: bool = False) -> Extracted | None:
    """The answer in ``text``, or None when it holds none.

    ``bare`` says that the text is an answer and not a completion: without box, phrase or marker it
    counts as a whole, whatever it holds.
    """
    for rule, find in (("box", last_box), ("phrase", after_phrase), ("marker", after_marker)):
        found = find(text)
        if found is not None:
            return Extracted(found, rule)
    stripped = _without_emphasis(text.strip())
    if bare or is_expression(stripped):
        return Extracted(stripped, "whole") if stripped else None
    found = last_expression(stripped[-TAIL_CHARACTERS:])
    return None if found is None else Extracted(found, "last")


def last_box(text: str) -> str | None:
    """Content of the last complete box; adjacent boxes are joined by commas."""
    parts: list[str] = []
    start = len(text)
    while len(parts) < MAX_BOXES and (box := _box_before(text, start)) is not None:
        if parts and not JOINER.fullmatch(text, box[1], start):
            break
        start = box[0]
        parts.append(box[2])
    distinct = list(dict.fromkeys(reversed(parts)))
    return ", ".join(distinct) if distinct else None


def _box_before(text: str, end: int) -> tuple[int, int, str] | None:
    """Start, end and content of the last complete box that begins before ``end``."""
    for _ in range(MAX_BOXES):
        start = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if start < 0:
            return None
        found = _group(text, start + (6 if text.startswith("\\boxed", start) else 5))
        if found is not None:
            return start, found[0], found[1]
        end = start
    return None


def _group(text: str, index: int) -> tuple[int, str] | None:
    """End and content of the braced group (or single token) at ``index``; None when it never closes.

    A group that is still open after ``MAX_BOX_CHARACTERS`` counts up to there: too long to be accepted.
    """
    while text.startswith(" ", index):
        index += 1
    if not text.startswith("{", index):
        token = TOKEN.match(text, index)
        return None if token is None else (token.end(), token.group())
    depth = 0
    limit = index + MAX_BOX_CHARACTERS
    for mark in BRACE.finditer(text, index, limit):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return mark.end(), text[index + 1 : mark.start()].strip()
    return (limit, text[index + 1 : limit]) if limit < len(text) else None


def after_phrase(text: str) -> str | None:
    """What the last "answer is" announces: its sentence, or the first expression in it."""
    ends = [match.end() for match in PHRASE.finditer(text)]
    if not ends:
        return None
    stop = SENTENCE_END.search(text, ends[-1])
    clause = _unwrap(text[ends[-1] : stop.start() if stop else len(text)])
    if not clause or is_expression(clause):
        return clause or None
    return _first_expression(clause) or clause


def after_marker(text: str) -> str | None:
    """What follows the last ``####`` on its line."""
    _, marker, rest = text.rpartition("####")
    line = rest.strip().split("\n", 1)[0].strip() if marker else ""
    return line or None


def last_expression(text: str) -> str | None:
    """The last formula (``$...$``, ``\\(...\\)``) or number, whichever ends later."""
    formula = None
    for match in FORMULA.finditer(text):
        content = next(group for group in match.groups() if group is not None)
        if is_expression(content.strip()):
            formula = (match.end(), content.strip())
    number = None
    for match in NUMBER.finditer(text):
        number = (match.end(), match.group().strip())
    if formula is None or (number is not None and number[0] > formula[0]):
        return None if number is None else number[1]
    return formula[1]


def _first_expression(text: str) -> str | None:
    formula, number = FORMULA.search(text), NUMBER.search(text)
    if formula is not None and (number is None or formula.start() <= number.start()):
        return next(group for group in formula.groups() if group is not None).strip()
    return None if number is None else number.group().strip()


def is_expression(text: str) -> bool:
    """True for one line without prose: ``\\frac{1}{2}``, ``41, 42``, ``10\\text{ cm}``, ``Monday``."""
    if not text or len(text) > MAX_WHOLE_CHARACTERS or "\n" in text:
        return False
    if len(text) <= MAX_WORDS_CHARACTERS and WORDS.fullmatch(text):
        return True
    return PROSE.search(LATEX_WORDS.sub(" ", text)) is None


def _without_emphasis(text: str) -> str:
    bold = len(text) > 4 and text.startswith("**") and text.endswith("**")
    return text[2:-2].strip() if bold else text


def _unwrap(text: str) -> str:
    """Without blanks, emphasis and closing punctuation around it."""
    return text.strip().strip("*_ \t").rstrip(",;").strip()
