r"""Words that change a value: ``6\text{ hundred}`` is 600, ``5\text{ squared}`` is 25, and neither is a unit.

``spelled_out`` replaces those that we can compute by operations. No word of ``VALUE_WORDS`` is taken for a unit,
computed or not: an answer with one that we cannot compute is unreadable.
"""

import re

from rlserve.verifiers.math.notation.normalize import vocabulary

SCALES = {
    "hundred": "*10^{2}", "thousand": "*10^{3}", "million": "*10^{6}", "billion": "*10^{9}", "trillion": "*10^{12}",
    "quadrillion": "*10^{15}", "lakh": "*10^{5}", "crore": "*10^{7}", "dozen": "*12", "score": "*20", "gross": "*144",
    "half": "/2", "halves": "/2", "third": "/3", "quarter": "/4", "fourth": "/4", "fifth": "/5", "sixth": "/6",
    "seventh": "/7", "eighth": "/8", "ninth": "/9", "tenth": "/10", "eleventh": "/11", "twelfth": "/12",
    "fifteenth": "/15", "sixteenth": "/16", "twentieth": "/20", "hundredth": "/100", "thousandth": "/1000",
    "millionth": "/1000000", "squared": "^2", "cubed": "^3", "factorial": "!",
}  # fmt: skip
OPERATORS = {
    "plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/", "over": "/",
}  # fmt: skip
NUMBER_WORDS = vocabulary(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety tens thirteenth fourteenth seventeenth"
    " eighteenth nineteenth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth billionth trillionth"
    " doz hundreds mil mln bn quintillion"
)
VALUE_WORDS = (
    NUMBER_WORDS
    | frozenset(SCALES)
    | frozenset(f"{word}s" for word in (*SCALES, *NUMBER_WORDS) if not word.endswith("s"))
    | vocabulary(
        "thou grand k plus minus multiplied divided over by"
        " add added subtract subtracted raised increased decreased reduced"
        " mod modulo remainder rem residue quotient sum difference product power powers exponent exponential root log"
        " choose factorials double triple quadruple twice thrice once doubled tripled halved quadrupled rounded"
        " truncated inverse reciprocal opposite complement conjugate negated fold tuple squares of point"
        # more or less than the number
        " above below under beyond exceeding exceeds within least most greater larger smaller fewer less more maximum"
        " minimum upto until than between from through to at nearly almost about approximately approx roughly around"
        " circa ish so maybe perhaps possibly probably up"
        # its denial, its company, what is no number
        " or and not but is was are equals equal if then else no none never without except excluding unless neither nor"
        " cannot isn't aren't wrong incorrect false true correct yes even odd undefined infinity nan inf negative"
        " base binary octal hexadecimal hex vs versus the am pm noon midnight bc ad bce ce other another"
    )
)
"""Lower case. ``units.py`` first checks whether one belongs to a unit ("squared" behind metres)."""
# "halfs", "squareds" and "factorials" are no words that stand behind a number.
SCALES_IN_PROSE = tuple(
    word if word in ("half", "halves", "squared", "cubed", "factorial") else f"{word}s?"
    for word in SCALES
    if word != "gross"
)
"""The scales for which a sentence is searched, with their plurals; "gross" is more often an adjective."""
CHANGING = re.compile(
    r"\b(?:not|no|never|neither|nor|at least|at most|more than|less than|fewer than|greater than|larger than"
    r"|smaller than|above|below|over|under|up to|between|negative|minus|plus|times|divided|multiplied|twice|thrice"
    rf"|double|triple|{'|'.join(SCALES_IN_PROSE)}|choose|mod|modulo|remainder|power|percent|percentage|per cent"
    r"|out of|or more|or less|or fewer|to the|to|and (?:an?|one|two|three) (?:half|third|quarter|fourth|fifth)s?)\b",
    re.IGNORECASE,
)
"""``6 hundred`` is not 6 and ``at least 3`` is not 3: ``clause.py`` keeps such words with the number for the reader."""
# Longest first, so that "millionth" is not read as "million" with a rest.
SCALE = re.compile(
    r"(?<=[0-9}])(?P<open> ?\\text\{ ?| )?(?P<word>"
    + "|".join(sorted(SCALES, key=len, reverse=True))
    + r")s?(?![A-Za-z-]) ?(?P<close>\})?"
)
OPERATOR = re.compile(
    r" ?(?:\\text\{ ?(" + "|".join(OPERATORS) + r") ?\}|(?<![A-Za-z\\{])(" + "|".join(OPERATORS) + r")(?![A-Za-z])) ?"
    r"(?=[-0-9\\({]|[A-Za-z](?![A-Za-z]))"
)
NEGATIVE = re.compile(r"^(?:\\text\{ ?(?:negative|minus) ?\}|negative |minus ) ?(?=[0-9.\\])", re.IGNORECASE)
AND_A_HALF = re.compile(r"(?<=[0-9]) (?:\\text\{)?and a half\b ?\}?|(?<=[0-9])\\text\{ ?and a half ?\}")
CJK_VALUE_WORDS = frozenset(
    "\u4ee5\u4e0a\u4e0b\u5185\u5916\u591a\u5c11\u4f59\u9918\u534a\u6210\u6298\u8d1f\u96f6\u4e0d\u975e\u7ea6\u81f3"
    "\u5230\u6216\u548c\u4e0e\u53ca\u9664\u4e58\u52a0\u51cf\u4e4b\u65b9\u6839\u8d85\u8fc7\u5927\u5c0f\u4e8e\u7b49"
    "\u662f\u5de6\u53f3\u6253\u5341\u767e\u5343\u4e07\u4ebf\u6bd4\u6bcf\u534a"
)
"""Characters of words that change the value in front of them: above, below, half, tenth part, or, power, dozen, ..."""
# Ten, hundred, thousand, ten thousand, hundred million: the exponents of ten that the characters stand for.
CJK_SCALES = {"\u5341": 1, "\u767e": 2, "\u5343": 3, "\u4e07": 4, "\u842c": 4, "\u5104": 8, "\u4ebf": 8, "\uc5b5": 8}
CJK_SCALES |= {"\ub9cc": 4}
CJK_SCALE = re.compile("(?<=[0-9]) ?([" + "".join(CJK_SCALES) + "])(?![\u514b\u7c73\u5206\u74e6\u5361])")
"""Not in kilogram and kilometre, which begin with "thousand" in Chinese, and not in parts of a hundred."""
# "Parts of a hundred: 5" is 5%, and "of three parts: 1" is 1/3: the denominator comes first.
CJK_PERCENT = re.compile("\u767e\u5206\u4e4b ?([0-9.]+)")
CJK_FRACTION = re.compile("([0-9]+) ?\u5206\u4e4b ?([0-9]+)")


def spelled_out(text: str) -> str:
    """Return normalised ``text`` with words replaced by operations; the same text when it has none to replace."""
    if not text.isascii():
        # Fractions and percents before the scales: they contain the character for a hundred.
        text = CJK_FRACTION.sub(r"\\frac{\2}{\1}", CJK_PERCENT.sub(r"\1%", text))
        text = CJK_SCALE.sub(lambda match: f"*10^{{{CJK_SCALES[match.group(1)]}}}", text)
    if not any(character.isdigit() for character in text):
        return text  # "half" or "squared" alone is an answer in words
    text = NEGATIVE.sub("-", AND_A_HALF.sub(" 1/2", text))
    text = SCALE.sub(_scaled, text, count=2)  # "6 hundred thousand"
    return OPERATOR.sub(lambda match: OPERATORS[match.group(1) or match.group(2)], text)


def changes_value(word: str) -> bool:
    """True for a word that cannot be part of a unit; the parts of a hyphenated word are checked one by one."""
    return (
        word.lower().endswith("fold")
        or bool(CJK_VALUE_WORDS & set(word))
        or any(part in VALUE_WORDS for part in word.lower().split("-"))
    )


def _scaled(match: re.Match[str]) -> str:
    opened = (match.group("open") or "").strip().startswith("\\text")
    rest = " \\text{" if opened and not match.group("close") else "" if opened else match.group("close") or ""
    return SCALES[match.group("word")] + rest
