r"""Reads a multiple-choice answer: a letter, perhaps with the option's text: ``(C) 12``, ``C. 12``, ``option C``."""

import re
from dataclasses import dataclass

# A letter needs a mark that a formula does not have: "C 12" may be a combination and "A - B" a difference of sets.
HEAD = re.compile(
    r"(?:\\text\{ ?)?(?:\(([A-Z])\)|([A-Z])(?:\)|[.:](?= )|[.:](?= ?\})| ?-(?= [A-Za-z]{3})))(?: ?\})?:? ?(.+)",
    re.DOTALL,
)
NAMED = re.compile(r"(?:\\text\{ ?)?(?:option|choice|answer|letter)(?: ?\})? ?\(?([A-Z])\)?(?: ?\})?", re.IGNORECASE)
LETTER = re.compile(r"(?:\\text\{ ?)?\(?([A-Z])\)?(?: ?\})?")
MARK = re.compile(r"(?<![A-Za-z\\])\(?[A-Z](?:\)|[.:](?= |$))|(?<![A-Za-z\\])[A-Z](?![A-Za-z])$")
"""The letter of a second choice: two letters are two tries, not a choice with its text."""
# An operator right behind the letter: "(A) + 2" is a formula with a variable A.
OPERATOR = re.compile(
    r"[+*/^=<>_!&|,;]|-(?![0-9.\\])|\\(?:cup|cap|in|leq|geq|neq|setminus|rightarrow|approx|vee|wedge) "
)


@dataclass(frozen=True, slots=True)
class Choice:
    """An option: its letter, and its normalised text or ``""`` where only the letter is given."""

    letter: str
    text: str


def read_choice(text: str) -> Choice | None:
    """Return the option that normalised ``text`` names with its text or the word "option"; None for anything else."""
    if text.startswith("\\text{") and text.endswith("}") and text.count("{") == 1:
        text = text[6:-1].strip()
    named = NAMED.fullmatch(text)
    if named is not None and named.group(1).isupper():  # the pattern ignores case: "answer a" is no choice
        return Choice(named.group(1), "")
    match = HEAD.fullmatch(text)
    if match is None:
        return None
    rest = match.group(3).strip()
    if not rest or OPERATOR.match(rest) or MARK.search(rest):
        return None
    return Choice(match.group(1) or match.group(2), rest)


def is_letter(text: str) -> bool:
    """True when normalised ``text`` is the letter of a choice and nothing else."""
    return LETTER.fullmatch(text) is not None


def letter_of(text: str) -> str:
    """Return the letter of a text for which ``is_letter`` is true."""
    match = LETTER.fullmatch(text)
    assert match is not None
    return match.group(1)
