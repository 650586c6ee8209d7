r"""Removes text around a value that is not part of it: an announcement in front, the letter of a parameter."""

import re

from rlserve.verifiers.math.notation.words import changes_value

# "So the final answer is" in Chinese, Japanese, Korean and English. Rows of the pattern: a conjunction (so, hence),
# "final" or "correct", the noun with its verb or colon, "solution:" or "choose" before a letter; then English.
ANNOUNCEMENT = re.compile(
    r"(?:\\text\{ ?)?(?:\u6240\u4ee5|\u56e0\u6b64|\u6545|\u5219|\u7531\u6b64)?,? ?(?:\u672c\u9898)?(?:\u7684)?"
    r"(?:\u6700\u7ec8|\u6b63\u786e|\u6700\u540e)?(?:\u7684)?"
    r"(?:(?:\u7b54\u6848|\u7b54|\u7b54\u3048|\uc815\ub2f5|\ub2f5)(?:\u5e94\u8be5)?(?:\u662f|\u4e3a|\u70ba|\u306f|\uc740|\ub294|[:=])"
    r"|\u89e3 ?:|\u9009\u62e9?(?=[: ]*[A-Z]))[: ]*\}? ?"
    r"|(?:\\text\{ ?)?(?:the )?(?:final |correct )?answer(?: is|:| =) ?:?(?: ?\})? ?",
    re.IGNORECASE,
)
# A comma before Chinese or Korean: the next clause, which is usually a reason.
ASIDE = re.compile("[,.;](?= ?[\u3400-\u9fff\uac00-\ud7af])")
SECOND_TRY = re.compile("\u6216|\u53ef\u80fd|\u4e5f|\u53c8|\u518d|\u8fd8|\u4e0d|\u90fd|\u4f46")
"""Or, perhaps, also, not, but: with one of these the rest of a sentence is part of the answer."""
LABEL = re.compile(
    r"(?:\\text\{ ?)?((?:the )?[A-Za-z]{3,12}(?: [a-z]{2,12}){0,3}) ?: ?(?:\}|(?=[^}]*$|[^}]*\{)) ?(?=.)"
)
"""``Range: [0,1]``: a name before a colon."""
RATIO = re.compile(r"(?:\\text\{ ?)?(?:the |a |in the )?ratio (?:is|of)(?: ?\})? ?(?=[0-9\\a-z])")
PARAMETER = re.compile(r"(?<![A-Za-z\\])([a-z]) ?\\in ?\\integers")


def announced(normal: str) -> str:
    """Return the value behind an announcement ("\u7b54\u6848\u662f 5", "the answer is 5"); other texts unchanged.

    A clause of prose behind a number is dropped, unless it may take the number back.
    """
    match = ANNOUNCEMENT.match(normal)
    if match is None or match.end() == len(normal):
        return _without_label(normal)
    value = normal[match.end() :].strip()
    if match.group().startswith("\\text{") and "}" not in match.group():  # \text{The answer is 5}
        value = value.removesuffix("}")
    aside = ASIDE.search(value)
    if aside is None or SECOND_TRY.search(value, aside.end()) or not re.search("[0-9]", value[: aside.start()]):
        return value.rstrip(".,;: ")
    return value[: aside.start()].strip()


def _without_label(normal: str) -> str:
    match = RATIO.match(normal)
    if match is None:
        match = LABEL.match(normal)
        if match is None or any(map(changes_value, match.group(1).split()[match.group(1).startswith("the ") :])):
            return normal  # "Not: 5" or "at least: 5": no label, since the words change the value
    return normal[match.end() :].strip() or normal


def with_parameter_of(gold: str, answer: str) -> str:
    """Return ``answer`` with the gold's letter for the integer that both run over: ``2n\\pi, n \\in \\mathbb{Z}``."""
    mine, theirs = PARAMETER.findall(gold), PARAMETER.findall(answer)
    if len(mine) != 1 or len(theirs) != 1 or mine == theirs:
        return answer
    # The gold's letter already means something else in the answer: renaming would merge two variables into one.
    if re.search(rf"(?<![A-Za-z\\]){mine[0]}(?![A-Za-z])", answer):
        return answer
    return re.sub(rf"(?<![A-Za-z\\]){theirs[0]}(?![A-Za-z])", mine[0], answer)
