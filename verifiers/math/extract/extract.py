r"""Finds the one answer of a completion that is judged. The rules, in this order for every caller:

1. Drop thoughts (``<think>...</think>`` and similar marks): no text in them is an answer. Drop markup that only
   changes how a text looks (``markup.py``).
2. **The last announcement counts.** Announcements are a ``box`` (``\boxed{...}``; boxes side by side are one answer of
   several parts), a ``phrase`` ("the answer is", "**Answer:**", a heading with the answer below it), a ``marker``
   (GSM8K's ``####``) and a ``tag`` (``<answer>``). An empty box, a box that repeats the instruction
   (``\boxed{answer}``) and a heading (``#### Step 2``) announce nothing. A remark behind a box ("the answer is
   positive") is a comment on it, not another answer.
3. ``whole``: the text itself, when it is a bare expression without prose, or a few words.
4. ``last``: the list that ends the text ("The solutions are:"), a last sentence that denies a solution, or the last
   formula or number.

The rest of the completion is ignored. Every step is linear in the length of the text.
"""

import re
from collections import deque
from dataclasses import dataclass

from rlserve.verifiers.math.extract.announced import (
    Announced,
    last_choice,
    last_field,
    last_list,
    last_marker,
    last_phrase,
    last_tag,
)
from rlserve.verifiers.math.extract.boxes import Boxed, find_boxes, last_box
from rlserve.verifiers.math.extract.clause import answer_in, words_that_matter
from rlserve.verifiers.math.extract.markup import without_markup
from rlserve.verifiers.math.extract.prose import is_expression
from rlserve.verifiers.math.extract.runs import Run, last_formula, runs
from rlserve.verifiers.math.notation.unit_table import is_unit
from rlserve.verifiers.reasoning import answer_of

TAIL_CHARACTERS = 20_000
"""The ``last`` rule reads no further back than this. Any value of this size will do: an answer ends the text."""
JOINED = re.compile(r"\s*,?\s*(?:and|or)\s*|\s*[\u6216\u548c]\s*")
MAX_JOINED = 8
"""Values of one answer such as "1, 2 and 3". Any value of this size will do: it bounds what the walk back keeps."""
# The rest of a sentence behind a box: closing marks of mathematics or emphasis, then its end.
SENTENCE_OVER = re.compile(r"[ $*\\)\]]*(?:[.!?;]|\n|\Z)")
UNIT_BEHIND = re.compile(r"[ \u00a0]?([A-Za-z]{1,12})(?![A-Za-z])")
UNIT_BETWEEN = re.compile(r"[ \u00a0]?([A-Za-z]{1,12}),?[ \u00a0]+(?:and[ \u00a0]+)?")
# "no other solutions" does not deny the ones before it.
NO_SOLUTION = re.compile(
    r"\bno (?:(?:real|integer|such|positive|valid|possible|other) )*(?:solutions?|roots?)\b(?! other)", re.IGNORECASE
)
# "the answer is about 3.14" behind \boxed{\pi} gives the same answer once more, rounded.
ROUGH = re.compile(r"approx|about|roughly|around|nearly|\\approx|\u2248|~")


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer that is judged, and the rule that found it."""

    text: str
    rule: str


def find_answer(text: str, *, bare: bool = False, prompt: str = "") -> Extracted | None:
    """Return the answer in ``text``, or None when it contains none.

    With ``bare`` the text is an answer and not a completion: without an announcement the whole text counts.
    ``prompt`` is the text that the model continued; it may end in an open ``<think>``.
    """
    text = without_markup(answer_of(text, prompt))
    found = _announced(text)
    if found is not None:
        return found
    stripped = _without_emphasis(text.strip())
    if bare or is_expression(stripped):
        return Extracted(stripped, "whole") if stripped else None
    tail = stripped[-TAIL_CHARACTERS:]
    last = last_list(tail) or _denial(tail) or last_expression(tail)
    return None if last is None else Extracted(last, "last")


def last_expression(text: str) -> str | None:
    """Return the last formula or number of a text; several with ``and`` or ``or`` between them are one answer."""
    found = deque(runs(text), maxlen=MAX_JOINED)
    if not found:
        return last_formula(text)
    last = found.pop()
    # Units come first: "3 hours and 20 minutes" is one quantity, and the joining below would make it a list.
    if found and (whole := _of_two_units(text, found, last)) is not None:
        return whole
    joined = [last]
    while found and JOINED.fullmatch(text, found[-1].end, joined[0].start):
        joined.insert(0, found.pop())
    if len(joined) > 1:
        return ", ".join(run.text for run in joined)
    return last.text + words_that_matter(text, last)


def _announced(text: str) -> Extracted | None:
    box, marker, tag = find_boxes(text), last_marker(text), last_tag(text)
    phrases = [item for item in (last_phrase(text), last_field(text), last_choice(text)) if item is not None]
    phrase = max(phrases, key=_start, default=None)
    # A box outranks a phrase behind it that only comments on it; tags and markers count by their place alone.
    if box is not None and phrase is not None and not _goes_before(text, phrase, box):
        phrase = None
    candidates = [(item, rule) for item, rule in ((tag, "tag"), (phrase, "phrase"), (marker, "marker")) if item]
    start, rule, answer = max(((item.start, rule, item.text) for item, rule in candidates), default=(-1, "", ""))
    if box is not None and box.start > start:
        return Extracted(box.text, "box")
    # Inside of tags a model may write a sentence, which only prose is searched for: "The answer is 5" in <answer>.
    if rule == "tag":
        return Extracted(answer if is_expression(answer) else answer_in(answer) or answer, rule)
    return Extracted(answer, rule) if rule else None


def _start(found: Announced) -> int:
    return found.start


def _of_two_units(text: str, before: deque[Run], last: Run) -> str | None:
    """Return ``3 hours and 20 minutes``, one quantity in two or three units; None where the last value stands alone."""
    unit = UNIT_BEHIND.match(text, last.end)
    start, units = last.start, {unit[1].lower()} if unit else set()
    if text[last.start : last.end] != last.text:  # a run that was cut, as "= 20" is: its place is not the value's
        return None
    for run in reversed(before):
        between = UNIT_BETWEEN.fullmatch(text, run.end, start)
        if not between or not text.endswith(run.text, 0, run.end):
            break
        if not is_unit(between[1]) or between[1].lower() in units or len(units) > 2:
            break
        units.add(between[1].lower())
        start = run.end - len(run.text)  # "1+2 = 3 hours": the value begins behind the sum
    if unit is None or not is_unit(unit[1]) or start == last.start:
        return None
    return text[start : unit.end()]


def _denial(text: str) -> str | None:
    """Return ``no solution`` where the last sentence denies one and names no value."""
    sentence = re.split(r"(?<=[.!?])\s+|\n", text.strip())[-1]
    return "no solution" if NO_SOLUTION.search(sentence) and not any(runs(sentence)) else None


def _goes_before(text: str, phrase: Announced, box: Boxed) -> bool:
    """True when a phrase competes with a box; False for a phrase behind it that only repeats or comments on it."""
    if phrase.start < box.start:
        return True  # in front of the box: the later one, the box, wins anyway
    if ROUGH.search(text[phrase.start : phrase.end]) or not phrase.is_value:
        return False
    line = text.rfind("\n", 0, box.start) + 1
    # A box that stands alone on its line is a final answer; in a sentence it may be one step of several.
    alone = not text[line : box.start].strip(" $*\\([") and SENTENCE_OVER.match(text, box.end) is not None
    return not alone or "\n" in text[box.end : phrase.start]


def _without_emphasis(text: str) -> str:
    bold = len(text) > 4 and text.startswith("**") and text.endswith("**")
    return text[2:-2].strip() if bold else text


__all__ = ["Extracted", "find_answer", "last_box", "last_expression"]
