r"""Extracts the answer from the clause behind an announcement: ``42`` from ``therefore 42, since 6*7 = 42``.

The answer keeps every word that changes its value (``at least 3``, ``6 hundred``, ``10 miles``), which the reader
evaluates or refuses. Words that only name what is counted, and reasons behind the answer, are dropped.
"""

import re
from itertools import islice, pairwise

from rlserve.verifiers.math.extract.prose import CJK, is_expression
from rlserve.verifiers.math.extract.runs import Run, runs
from rlserve.verifiers.math.notation.unit_table import is_unit
from rlserve.verifiers.math.notation.words import CHANGING
from rlserve.verifiers.math.prefilter import MAX_CHARACTERS

# Words in front of a value: adverbs, "given by", and nouns with an article only where a value follows them.
LEAD = re.compile(
    r"(?:(?:therefore|thus|hence|so|then|just|simply|exactly|precisely|indeed|clearly|obviously|also|now|still|again"
    r"|actually|in fact|of course|finally|equal to|given by|found to be|either|the (?:number|value|expression|fraction"
    r"|integer|set|point|pair|interval|letter|choice|option)(?= *[-$\\0-9({A-Z*])"
    r"|(?:option|choice|letter)(?= *[($\\*]*[A-Z]\b)"
    r"|(?:as follows|the following|this|below)(?=\s*:)|:|=)\s*,?\s*)+",
    re.IGNORECASE,
)
NEGATED = re.compile(r"(?:not|n't|never|no longer|neither)\b(?P<rest>[^\n]*)", re.IGNORECASE)
WORKING = re.compile(
    r"(?:since|because|we|let|first|to|note|consider|suppose|using|if|when|given|start(?:ing)?|recall|step)\b",
    re.IGNORECASE,
)
"""The first word of a derivation, written where an answer was announced."""
BUT = re.compile(r"\b(?:but|rather|instead)\b(?: rather)?,?\s*", re.IGNORECASE)
# Where a reason begins: a conjunction behind a comma or blank, a dash or a bracket with words in it; then Chinese
# commas and brackets, and the endings of Japanese and Korean sentences.
REASON = re.compile(
    r"\s*(?:,\s*|;\s*|\s+)(?:(?:since|because|as|which|where|whereas|thus|hence|therefore|meaning|so|but|while|when|if"
    r"|not|given|obtained|found|using|i\.e\.|e\.g\.|after|before|rounded|based on|according to|in total|in all"
    r"|altogether|respectively|or (?:equivalently|about|approximately|roughly|simply)"
    r"|as (?:required|desired|expected|claimed)|and (?:not|we|this|that|the|it|so|thus|hence)"
    r"|we|this|that|it)(?![A-Za-z]))"
    r"|\s+[-\u2013\u2014]{1,3}\s+(?=[A-Za-z]{3})|\s*\((?=[^()]*(?:[A-Za-z]{4}|\b(?:and|of|is|in|the|not|all|both)\b))(?![^()]*\\)"
    rf"|\s*[\uff0c,]\s*(?=[{CJK}])(?![\u6216\u548c\u4e14\u53ca])|\s*\uff08(?=[^\uff09]*[{CJK}])"
    r"|\s*(?:\u3067\u3059|\u3067\u3042\u308b|\uc785\ub2c8\ub2e4|\uc774\ub2e4)",
    re.IGNORECASE,
)
REMARK = re.compile(r"\s\((?=[^()\\]*\b[A-Za-z]{2,}\s+[A-Za-z]{2,}[^()\\]*\))")
"""``3, 5 (both odd)``."""
LISTED = re.compile(r"\s*,?\s*\b(?:and|or)\b\s*|\s*[,;]\s*|\s*[\u6216\u548c\u3001\uff0c]\s*", re.IGNORECASE)
CHOICE_WITH_TEXT = re.compile(
    r"(?:\\text\w*\{)?[*_]{0,2}(?:\([A-J]\)|\\text\w*\{\(?[A-J]\)?\}|[A-J][).:])[*_]{0,2}(?:\\ |[\s}:.])+[^\s,;]"
)
WRAPPERS = (("**", "**"), ("__", "__"), ("`", "`"), ('"', '"'), ("\u201c", "\u201d"), ("*", "*"), ("<b>", "</b>"))
# Verbs of a sentence with one value: "There are 3 solutions", "Tom pays 5 dollars".
SENTENCE = re.compile(
    r"(?<![A-Za-z\\])(?:is|are|was|were|equals|has|have|had|gets?|gives?|needs?|takes?|costs?|earns?|makes?|pays|spends?"
    r"|requires?|exactly|about|approximately|roughly)(?![A-Za-z])",
    re.IGNORECASE,
)
LABEL = re.compile(
    r"(?:\\text\w*\s*\{)?\s*[A-Za-z][A-Za-z ]{2,40}(?::\s*(?:\}|(?=[^}]*\s*$))|\}\s*:)\s*(?=\S)", re.IGNORECASE
)
"""``\\text{Total: } 42``; a letter with a colon is a choice."""
TEXTED = re.compile(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}")
UNIT_WORDS = re.compile(
    r"[ \u00a0](?:of (?:a|an) )?([A-Za-z]+)((?: (?:per|an?|square|cubic|and|of|the|at) [A-Za-z]+| [A-Za-z]+)?)"
)
SMALLER = re.compile(r",? (?:and )?([0-9.]+ ([A-Za-z]+))")
"""``2 hours and 30 minutes``."""
NAME_FIRST = re.compile(r"(?i:yes|no|true|false)\b|[A-Z][a-z]+(?= *,)")
SHOWN_AGAIN = re.compile(
    r"(?<=[0-9])[*_]*[ \t]+\((?=[^()]*[0-9]\s*[\u00d7*+=\u00f7/-]\s*[0-9])[0-9\s\u00d7*+=\u00f7/.,$-]+\)$"
)
"""``42 (6 x 7)``: a number with its calculation."""
LETTER_FIRST = re.compile(r"(\([A-J]\)|[A-J]) *[,;:\u2014-]+ *(?=\S)(?![A-J]\b)")
"""A choice with a reason behind it."""
BETWEEN = re.compile(r",?\s*(?:and|or|to|through)?", re.IGNORECASE)
MAX_LISTED = 50
"""Items of a list in a sentence. Any value of this size will do: it bounds the search for more of them."""
MAX_CLAUSE_CHARACTERS = MAX_CHARACTERS
"""The prefilter refuses longer answers; the text behind them is not read."""
MAX_ANSWER_WORDS = 5
"""An answer in words has at most as many ("no real solutions exist"); a longer clause equals no gold answer."""


def answer_in(clause: str) -> str | None:
    """Return the answer of a clause (the text behind "answer is"); None when it contains none."""
    core = unwrap(clause[:MAX_CLAUSE_CHARACTERS])
    core = SHOWN_AGAIN.sub("", core)
    if (lead := LEAD.match(core)) is not None:
        core = unwrap(core[lead.end() :])
    if WORKING.match(core):
        return None
    if (negated := NEGATED.match(core)) is not None:
        # "not 5 but 6" gives 6; "not 5" gives no answer, whatever stands before it.
        but = BUT.search(negated["rest"])
        return answer_in(negated["rest"][but.end() :]) if but else None
    if (remark := REMARK.search(core, 1)) is not None:
        core = unwrap(core[: remark.start()])
    # Before REASON is searched: it would cut a list or a choice at a comma with a word behind it.
    if not core or CHOICE_WITH_TEXT.match(core) or _is_list(core):
        return core or None
    if (letter := LETTER_FIRST.match(core)) is not None:
        return letter[1]
    if (reason := REASON.search(core, 1)) is not None:
        core = unwrap(core[: reason.start()]) or core
    if _is_list(core):
        return core
    return _of_prose(core)


def value_in_sentence(content: str) -> str:
    r"""Return the value in a box: ``3`` for ``\text{There are 3 solutions}``; content without a sentence unchanged."""
    plain = TEXTED.sub(r" \1 ", content)
    if CHOICE_WITH_TEXT.match(content) or CHOICE_WITH_TEXT.match(plain.strip()):
        return content
    if (label := LABEL.match(content)) is not None:
        return content[label.end() :]
    if (word := NAME_FIRST.match(plain.strip())) is not None and not is_expression(plain.strip()):
        return word.group()
    verbs = list(SENTENCE.finditer(plain))
    # With two verbs there may be two values, and which one answers the question is a guess.
    if len(verbs) != 1:
        return _only_value(plain, content) if not verbs else content
    # Behind the verb first: "The number of ways is 12". Before it: "12 is the number of ways".
    for part in (plain[verbs[0].end() :], plain[: verbs[0].start()]):
        part = " ".join(part.split())
        found = answer_in(part)
        alone = found is not None and ("," in found or len(list(runs(part))) == 1)
        if found is not None and alone and re.search(r"[0-9]|\\[a-z]|^\(?[A-J]\)?$", found):
            return found
    return content


def _only_value(plain: str, content: str) -> str:
    r"""Return the one value of a box with words (``\text{Tom sold } 72 \text{ clips}``); else its whole content."""
    plain = " ".join(plain.split())
    # Words first: most boxes hold none, and to look for values takes as long as everything else here.
    words = re.findall(r"(?<![A-Za-z\\])[A-Za-z]+", plain)
    if len(words) < 2 or CHANGING.search(plain) or not any(word[1:].islower() for word in words):
        return content
    found = list(islice(runs(plain), 2))
    if len(found) != 1:
        return content
    # Words before the value make a sentence of it; words behind it alone may be a unit, unless they are "x of y" or
    # two and more in lower case.
    before = plain[: found[0].start].split()
    counted = re.match(r"[ ]*[A-Za-z]+ (?:[a-z]+ )*of\b|[ ]*(?:[a-z]+ ){2,}[a-z]+$", plain[found[0].end :])
    if len(before) < 2 and (before or not counted):
        return content
    return found[0].text + words_that_matter(plain, found[0])


def unwrap(text: str) -> str:
    """Return ``text`` without blanks, emphasis, quotation marks and closing punctuation around it."""
    text = text.strip()
    for _ in range(6):  # layers such as **"`5`".**; no model writes more, and the bound keeps the time linear
        before = text
        for left, right in WRAPPERS:
            if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
                text = text[len(left) : -len(right)].strip()
        text = text.strip("*_ \t\n").rstrip(",;\u3002\uff0c\uff1b ").strip()
        if text.endswith(".") and not text.endswith(".."):  # "0.333..." keeps its points
            text = text[:-1].rstrip()
        if text == before:
            break
    return text


def _is_list(text: str) -> bool:
    """One expression, or several with ``and``, ``or`` or commas between them."""
    if is_expression(text):
        return True
    parts = [part for part in LISTED.split(text) if part.strip()]
    return 1 < len(parts) <= MAX_LISTED and all(is_expression(part) and _is_value(part) for part in parts)


def _is_value(text: str) -> bool:
    if re.match(rf"[{CJK}]", text) or any(text.count(left) != text.count(right) for left, right in ("()", "[]")):
        return False
    return re.search(r"[0-9]|\\[A-Za-z]|^[A-Za-z]$|[=<>]", text) is not None


def _of_prose(text: str) -> str:
    """Return the first value of a clause with words in it, or its first words."""
    found = list(islice(runs(text), MAX_LISTED))
    if not found:
        words = re.split(r"[,;(]| [-\u2013\u2014] ", text, maxsplit=1)[0].strip()
        return words if words and len(words.split()) <= MAX_ANSWER_WORDS else text
    run = found[0]
    if (word := NAME_FIRST.match(text)) is not None:
        return word.group()
    if CHANGING.search(text[: run.start]):
        return text  # "at least 3": cut down to 3 it would equal a gold answer of 3
    joined, listed = [run], False
    for before, after in pairwise(found):
        between = text[before.end : after.start].strip()
        if not between or not BETWEEN.fullmatch(between):
            break
        if between in ("to", "through"):
            return text  # a range is no list of its ends
        joined.append(after)
        listed = listed or between.rstrip().lower().endswith(("and", "or"))
    if listed:
        return ", ".join(item.text for item in joined)
    return run.text + words_that_matter(text, run)


def words_that_matter(text: str, run: Run) -> str:
    """Return the words behind a value that change it: number words, operations, units; else ``""``."""
    following = UNIT_WORDS.match(text, run.end)
    # "5 to the left" is no power, "5 to 7" was a range before.
    rest = re.split(r"[,.;:(\n]", text[run.end :], maxsplit=1)[0]
    if (changing := CHANGING.match(rest.strip())) is not None and changing.group().lower() != "to the":
        return rest.rstrip()
    if following is None or not is_unit(following[1]):
        return ""
    second = following[2] if following[2] and is_unit(following[2].split()[-1]) else ""
    rest = text[run.end + len(following.group()) :] if second else text[following.end(1) :]
    smaller = SMALLER.match(rest)
    third = f" {smaller[1]}" if smaller is not None and is_unit(smaller[2]) else ""
    return text[run.end : following.end(1)] + second + third
