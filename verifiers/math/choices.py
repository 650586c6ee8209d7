r"""The letter of a choice with the text of the option behind it: ``(C) 12``, ``C. 12``, ``\textbf{(C)}\ 12``."""

import re
from dataclasses import dataclass

HEAD = re.compile(
    r"(?:\\text\{ ?)?(?:\(([A-Z])\)|([A-Z])(?:\)|[.:](?= )|[.:](?= ?\})| ?-(?= [A-Za-z]{3})))(?: ?\})?:? ?(.+)",
    re.DOTALL,
)
NAMED = re.compile(r"(?:\\text\{ ?)?(?:option|choice|answer|letter)(?: ?\})? ?\(?([A-Z])\)?(?: ?\})?", re.IGNORECASE)
LETTER = re.compile(r"(?:\\text\{ ?)?\(?([A-Z])\)?(?: ?\})?")
MARK = re.compile(r"(?<![A-Za-z\\])\(?[A-Z](?:\)|[.:](?= |$))|(?<![A-Za-z\\])[A-Z](?![A-Za-z])$")
"""The letter of another choice, so that the text holds more than one."""
OPERATOR = re.compile(
    r"[+*/^=<>_!&|,;]|-(?![0-9.\\])|\\(?:cup|cap|in|leq|geq|neq|setminus|rightarrow|approx|vee|wedge) "
)


@dataclass(frozen=True, slots=True)
class Choice:
    """An option: its letter, and its text (normalised) where that is given too."""

    letter: str
    text: str


def read_choice(text: str) -> Choice | None:
    """The option that ``text`` (normalised) names with its text or with the word "option"; None for anything else."""
    if text.startswith("\\text{") and text.endswith("}") and text.count("{") == 1:
        text = text[6:-1].strip()
    named = NAMED.fullmatch(text)
    if named is not None and named.group(1).isupper():
        return Choice(named.group(1), "")
    match = HEAD.fullmatch(text)
    if match is None:
        return None
    rest = match.group(3).strip()
    if not rest or OPERATOR.match(rest) or MARK.search(rest):
        return None
    return Choice(match.group(1) or match.group(2), rest)


def is_letter(text: str) -> bool:
    """True when ``text`` (normalised) is the letter of a choice and nothing else."""
    return LETTER.fullmatch(text) is not None


def letter_of(text: str) -> str:
    """The letter in a text that ``is_letter``."""
    match = LETTER.fullmatch(text)
    assert match is not None
    return match.group(1)
