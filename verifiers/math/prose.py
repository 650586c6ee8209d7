"""Mathematics told from prose, and the words that change a value told from those that only name what is counted."""

import re

from rlserve.verifiers.math.unit_table import KNOWN

MAX_WHOLE_CHARACTERS = 2000
MAX_WORDS_CHARACTERS = 60
PROSE = re.compile(
    r"[A-Za-z]{4,}|\b(?:is|the|we|of|to|so|as|it|are|has|for|and|but|not)\b|\bin\s+[0-9a-z]"
    r"|(?<![A-Za-z\\])[A-Za-z]{2,} [a-z]{2,} [-0-9$\\(]"
)
LATEX_WORDS = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname|textit|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
    r"|(?<![A-Za-z])(?:sqrt|a?sinh?|a?cosh?|a?tanh?|arc(?:sin|cos|tan)|log|exp|infinity)(?![A-Za-z])"
)
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
CJK_PROSE = re.compile(
    rf"[{CJK}]{{2,}}[\s\uff1a:]*[-0-9$\\(\uff08]|[0-9}})$][^{CJK}]{{0,40}}[{CJK}]{{5,}}"
    rf"|[{CJK}]{{13,}}|[\uff0c,]\s*(?![\u6216\u548c\u4e14\u53ca])[{CJK}]|[\u3040-\u309f]{{2}}"
)
"""Words before a value, or more of them behind it than a unit has; more than a name has."""
WORDS = re.compile(r"[A-Za-z]+(?: [A-Za-z]+){0,4}")
"""A text of a few words and no number is an answer in words."""
CHANGING = re.compile(
    r"\b(?:not|no|never|neither|nor|at least|at most|more than|less than|fewer than|greater than|larger than"
    r"|smaller than|above|below|over|under|up to|between|negative|minus|plus|times|divided|multiplied|half|halves"
    r"|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?|thousandths?"
    r"|twice|thrice|double|triple|dozens?|scores?|hundreds?|thousands?|millions?|billions?|trillions?|lakhs?|crores?"
    r"|squared|cubed|factorial|choose|mod|modulo|remainder|power|percent|percentage|per cent|out of|or more|or less"
    r"|or fewer|to the|to|and (?:an?|one|two|three) (?:half|third|quarter|fourth|fifth)s?)\b",
    re.IGNORECASE,
)
"""``6 hundred`` is not 6 and ``at least 3`` is not 3: such words stay with the number, for the reader to judge."""


def is_expression(text: str) -> bool:
    """True for one line without prose: ``\\frac{1}{2}``, ``41, 42``, ``10\\text{ cm}``, ``Monday``."""
    if not text or len(text) > MAX_WHOLE_CHARACTERS or "\n" in text:
        return False
    if len(text) <= MAX_WORDS_CHARACTERS and WORDS.fullmatch(text):
        return True
    return PROSE.search(LATEX_WORDS.sub(" ", text)) is None and CJK_PROSE.search(text) is None


def is_unit(word: str) -> bool:
    """True for the name of a known unit of more than two letters: ``miles``, ``kg`` is left to the reader."""
    name = word.lower()
    return len(name) > 2 and any(spelling in KNOWN for spelling in (name, name.removesuffix("s"), name[:-2]))
