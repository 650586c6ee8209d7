"""Distinguishes a mathematical expression from prose."""

import re

from rlserve.verifiers.math.prefilter import MAX_CHARACTERS

MAX_WHOLE_CHARACTERS = MAX_CHARACTERS
"""The prefilter refuses longer answers, so no longer text is worth a search for prose."""
MAX_WORDS_CHARACTERS = 60
"""An answer in words, such as a name or "no real solutions". Any value of this size will do; sentences are longer."""
# Four letters in a row, a little word, or two words before a value: no formula has these once LATEX_WORDS are gone.
PROSE = re.compile(
    r"[A-Za-z]{4,}|\b(?:is|the|we|of|to|so|as|it|are|has|for|and|but|not)\b|\bin\s+[0-9a-z]"
    r"|(?<![A-Za-z\\])[A-Za-z]{2,} [a-z]{2,} [-0-9$\\(]"
)
# Words that a formula may hold: the content of \text{...}, the names of commands and of functions.
LATEX_WORDS = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname|textit|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
    r"|(?<![A-Za-z])(?:sqrt|a?sinh?|a?cosh?|a?tanh?|arc(?:sin|cos|tan)|log|exp|infinity)(?![A-Za-z])"
)
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
CJK_PROSE = re.compile(
    rf"[{CJK}]{{2,}}[\s\uff1a:]*[-0-9$\\(\uff08]|[0-9}})$][^{CJK}]{{0,40}}[{CJK}]{{5,}}"
    rf"|[{CJK}]{{13,}}|[\uff0c,]\s*(?![\u6216\u548c\u4e14\u53ca])[{CJK}]|[\u3040-\u309f]{{2}}"
)
"""Characters before a value, more of them behind it than a unit has, or more in a row than a name has."""
WORDS = re.compile(r"[A-Za-z]+(?: [A-Za-z]+){0,4}")
"""A text of a few words and no number is an answer in words."""


def is_expression(text: str) -> bool:
    """True for one line without prose: ``\\frac{1}{2}``, ``41, 42``, ``10\\text{ cm}``, ``Monday``."""
    if not text or len(text) > MAX_WHOLE_CHARACTERS or "\n" in text:
        return False
    if len(text) <= MAX_WORDS_CHARACTERS and WORDS.fullmatch(text):
        return True
    return PROSE.search(LATEX_WORDS.sub(" ", text)) is None and CJK_PROSE.search(text) is None
