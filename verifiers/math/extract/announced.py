r"""Finds announcements of an answer: "the answer is", "**Answer**:", a heading, ``####``, ``<answer>``.

Each finder returns the last announcement that contains an answer, or None.
"""

import json
import re
from dataclasses import dataclass

from rlserve.verifiers.math.extract.clause import answer_in, unwrap
from rlserve.verifiers.math.extract.prose import is_expression

MAX_TRIES = 32
"""Empty announcements passed over from the end. Any value of this size will do: it bounds a text of headings alone."""
MAX_ITEMS = 20
"""Items of a list below an announcement. Any value of this size will do: a longer list is not an answer."""
MAX_LINE = 1000
"""Characters of a line searched for numbered parts ``(1) 3; (2) 5``. Any value of this size will do."""
# The pieces of PHRASE, in the order in which they stand in a text: "Answer (in cm) to part b then: **is** 5".
# EMPHASIS holds "}" since a model may write \textbf{Answer:}; every repetition is bounded, for linear time.
EMPHASIS = r"[*_`}\s]{0,6}"
VERB = (
    r"(?:is|are|was|equals|comes(?: out)? to|turns out to be|should be|must be|would be|will be|can only be"
    r"|=|[:\uff1a])"
)
ADVERB = r"(?:,?[ \t]+(?:then|therefore|thus|hence|here|now|so|choice|option|value)\b,?)?"
# "the answer to the question is", but not "the answer we need depends on": those verbs announce no value.
QUALIFIER = (
    r"(?:[ \t]*\([^()\n]{1,40}\)|[ \t]+(?:to|of|for|in|we|you|i|that we)(?:[ \t]+(?!(?:can|be|by|if|when|since|because"
    r"|depends|requires|must|should|is|are)\b)[^\s:=\uff1a]{1,30}){1,8}?)?"
)
# Spanish, Italian, French, German, Portuguese and Russian.
OTHERS = (
    r"\b(?:la (?:respuesta|risposta)|la r[e\u00e9]ponse|die (?:Antwort|L[o\u00f6]sung)|a resposta)"
    r"(?: final| correct[ae])?"
    r"(?:[ \t]+(?:es|est|ist|lautet|\u00e9|\u00e8)\b|[ \t]*[:=])|\b(?:respuesta|r\u00e9ponse|Antwort|resposta|risposta)"
    r"(?: (?:final|finale|correcta))?[ \t]*[:=]|\b\u043e\u0442\u0432\u0435\u0442[ \t]*[:=\u2014-]"
)
# Chinese, Japanese and Korean: "answer:", "so choose", and the full-width colon.
CHINESE = (
    r"\u3010(?:\u7b54\u6848|\u89e3\u7b54)\u3011[:\uff1a]?|"
    r"(?:\u7b54\u6848|\u7b54\u3048)[*_]{0,3}(?:\u5e94\u8be5|\u61c9\u8a72|\u5e94|\u5c31)?(?:\u662f|\u4e3a|\u70ba|\u7b49\u4e8e|\u7b49\u65bc"
    r"|\u306f|\u9009|\u9078|[:\uff1a=])+|(?:\u7b54|\u89e3\u7b54)[:\uff1a]|(?:\u6545|\u5e94|\u56e0\u6b64|\u6240\u4ee5)"
    r"(?:\u9009|\u9078)(?:\u62e9)?[:\uff1a]?|(?:\uc815\ub2f5|\ub2f5|\ub2f5\ubcc0)(?:\uc740|[:\uff1a])"
)
# "The correct option is (C)", "I choose B" at the end of a line; a word behind the letter makes it an article.
CHOSEN = (
    r"\b(?:correct |right |best )?(?:option|choice)(?:[ \t]+is|[ \t]*:)(?=[\s*_]*(?:\$?\\\w+\{)?[($*_]*[A-J]\b(?! \w))"
    r"|\b(?:choose|pick|select|go with)(?: option| choice| answer)?(?=[ \t]*[*_($]*[A-J][)*_$]*[.!\s]*$)"
)
LABEL = (
    rf"(?<![A-Za-z0-9])(?:answers?|final results?){QUALIFIER}{ADVERB}{EMPHASIS}{VERB}(?![A-Za-z])"
    r"(?:[ \t]*(?:is\b|are\b|:|=))?"
)
HEADING = r"^[ \t>]*(?:#{1,6}[ \t]*)?[*_]{0,3}(?:the |my )?(?:final |correct )?answers?[*_]{0,3}[ \t]*$"
PHRASE = re.compile(rf"{LABEL}|{HEADING}|{CHOSEN}|{CHINESE}|{OTHERS}", re.IGNORECASE | re.MULTILINE)
BLANK = re.compile(r"[\s*_:}\uff1a]*")
BULLET = re.compile(r"[ \t]*(?:[-*+\u2022\u2013][ \t]+|(?P<number>[0-9]{1,2})[.)][ \t]+|\([a-h1-9]\)[ \t]*|>[ \t]+)")
PART = re.compile(r"(?:[(\uff08](?P<label>[1-9a-h])[)\uff09]|(?P<circled>[\u2460-\u2468]))")
TABLE = re.compile(r"\|.*\|[ \t]*\n[ \t]*\|")
# The field of a JSON object, found by its text: the object around it is often cut off or not valid JSON.
FIELD = re.compile(
    r'"(?:final[_ ]?)?answer"\s*:\s*("(?:[^"\\\n]|\\.)*"|-?[0-9][0-9.eE+-]*|\[[^\[\]\n]*\])', re.IGNORECASE
)
CHOSEN_LETTER = re.compile(
    r"\b(?:option|choice|answer|statement)[ \t]+[*_]*\(?([A-J])\)?[*_]*[ \t]+is"
    r"(?:[ \t]+(?:the|only|most|thus|therefore))*[ \t]+(?:correct|right|best|answer)\b",
    re.IGNORECASE,
)
LIST_HEAD = re.compile(
    r"^[^\n]{0,200}\b(?:solutions|roots|zero(?:e?s)|values|numbers|points|pairs|integers|intercepts|eigenvalues|factors|triples)\b"
    r"[^\n]{0,60}:[*_ \t]{0,9}$",
    re.IGNORECASE | re.MULTILINE,
)
DISPLAY = re.compile(
    r"\$\$(?P<a>[^$]+)\$\$|\\\[(?P<b>(?:[^\\]|\\[^\[\]])+)\\\]|```[a-zA-Z]*[ \t]*\n(?P<c>[^`]+)```"
    r"|\\begin\{(?:equation|align|gather|displaymath)\*?\}(?P<d>(?:[^\\]|\\(?!end\{(?:equation|align|gather|displaymath)))+)\\end"
)
# A point ends a sentence before a blank only ("3.5"), not behind an abbreviation ("Mr. Lee") nor in an ellipsis; an
# exclamation mark not before a lower-case letter or a bracket, since "5! ways" is a factorial.
SENTENCE_END = re.compile(
    r"\n|(?<!\.)\.(?=\s|$)(?<![A-Z][a-z]\.)|\?+(?=\s|$)|!+(?=\s*$|\s+[^a-z(\s])|;(?=\s*$|\s+[A-Za-z]{2})|[\u3002\uff01\uff1f\uff1b]"
)
MARKER = re.compile(r"#{4,}")
# "#### Step 2:" or "#### 3. Solve": a markdown heading and not GSM8K's marker.
STEP = re.compile(r"\s*[*_]*(?:[A-Za-z]+ ?[0-9]+\b\s*(?:[:.)\u2014-]|$)|[0-9]+[.):]\s+[A-Za-z*\\])")
TAG = re.compile(r"<(?P<close>/)?(?:final[_-]?)?answer\s?>", re.IGNORECASE)
PLACEHOLDER = re.compile(
    r"[.\u2026\s_]*|(?:your|the|final|my|insert|put)?\s*(?:final )?(?:answer|result|number|solution)s?(?: here)?"
    r"|\[.*\]",
    re.IGNORECASE,
)
COMMENT = re.compile(
    r"(?:see\b.*|as\b.*|given\b.*|shown\b.*|stated\b.*|the boxed\b.*"
    r"|correct|right|wrong|incorrect|reasonable|unique|valid|clear|obvious|simple|below|above|shown|given|indeed"
    r"|the same|positive|negative|an? \w+|in (?:the|simplest|this)\b.*|supposed\b.*|expected\b.*|therefore|as|that"
    r"|this|consistent\b.*|exact|boxed|already\b.*|verified|confirmed|your\b.*)",
    re.IGNORECASE,
)
"""Words that describe an answer and are none: "the answer is correct"."""
# A number, a command, a choice's letter, a relation, a word of logic or a name: what may be an answer behind "is".
VALUE = re.compile(
    r"[0-9]|\\(?!text|math)[A-Za-z]+|^\(?[A-J]\)?$|[A-Za-z]\s*[=^<>]|^(?i:yes|no|true|false)$|^[A-Z][a-z]+$"
)


@dataclass(frozen=True, slots=True)
class Announced:
    """An announcement and its answer."""

    start: int
    end: int
    text: str
    labelled: bool = False
    """Announced by a colon, a heading or a mark, and not by a verb alone."""

    @property
    def is_value(self) -> bool:
        """False for words that may only describe an answer: "the answer is well known"."""
        return self.labelled or VALUE.search(self.text) is not None


def last_phrase(text: str) -> Announced | None:
    """Return the answer of the last "answer is" or "answer:", in its sentence or below it; else the last remark."""
    matches = list(PHRASE.finditer(text))
    remark = None
    # "The answer is 5. This answer is well known.": a remark counts only where no announcement has a value.
    for match in reversed(matches[-MAX_TRIES:]):
        found = _announced(text, match)
        if found is not None and found.is_value:
            return found
        remark = remark or found
    return remark


def _announced(text: str, match: re.Match[str]) -> Announced | None:
    blank = BLANK.match(text, match.end())
    place = blank.end() if blank else match.end()
    labelled = match.group().rstrip(" \t*_")[-1:] in ":\uff1a=" or not re.search(r"\bis|are|was\b", match.group()[-12:])
    # A displayed formula first: it may hold line breaks, points and commas, at which the rules below would cut it.
    if (display := DISPLAY.match(text, place)) is not None:
        content = next(group for group in display.groups() if group is not None)
        return Announced(match.start(), display.end(), " ".join(content.split()), True)
    below = "\n" in text[match.end() : place]
    if below and TABLE.match(text, place):
        return None  # a table of tries or of values: no cell of it is announced
    if (parts := _parts(text[place : place + MAX_LINE].partition("\n")[0])) is not None:
        return Announced(match.start(), place, parts, True)
    if below and (items := _items(text, match.end())) is not None:
        return Announced(match.start(), place, items, True)
    stop = SENTENCE_END.search(text, place)
    end = stop.start() if stop else len(text)
    found = answer_in(text[place:end])
    if found is None or COMMENT.fullmatch(found) or PLACEHOLDER.fullmatch(found):
        return None
    return Announced(match.start(), end, found, labelled or below)


def _items(text: str, place: int) -> str | None:
    """Return the items of a list below an announcement, joined by commas; None for no list."""
    items: list[str] = []
    for line in text[place : place + 4000].split("\n")[1:]:  # 4,000 characters: room for MAX_ITEMS lines
        if not line.strip():
            continue
        bullet = BULLET.match(line)
        # A number out of order ("2." first, or "1." again) begins something else: steps, or a second list.
        if bullet is None or len(items) == MAX_ITEMS or bullet["number"] not in (None, str(len(items) + 1)):
            break
        found = answer_in(line[bullet.end() :])
        if found is None:
            return None
        items.append(found)
    return ", ".join(items) if items else None


def _parts(line: str) -> str | None:
    """Return the answers of ``(1) 3; (2) 5``, joined by commas; None where no two parts are numbered."""
    marks = list(PART.finditer(line))[:MAX_ITEMS]
    labels = [ord(mark["label"] or mark["circled"]) for mark in marks]
    if len(marks) < 2 or marks[0].start() or (marks[0]["label"] or "a") not in "1a":
        return None
    if labels != list(range(labels[0], labels[0] + len(labels))):
        return None  # numbers in brackets that do not count up are factors or arguments
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    found = [
        answer_in(line[mark.end() : end].strip(" ;,\uff1b\uff0c\u3002")) for mark, end in zip(marks, ends, strict=True)
    ]
    return None if None in found else ", ".join(str(item) for item in found)


def last_list(text: str) -> str | None:
    """Return the items of a list that ends the text below a line such as "The solutions are:"."""
    heads = list(LIST_HEAD.finditer(text))
    if not heads:
        return None
    lines = [line for line in text[heads[-1].end() :].split("\n") if line.strip()]
    return _items(text, heads[-1].end()) if lines and all(BULLET.match(line) for line in lines) else None


def last_field(text: str) -> Announced | None:
    """Return the value of the last ``"answer": ...`` of a JSON object."""
    matches = list(FIELD.finditer(text))
    if not matches:
        return None
    match = matches[-1]
    content = match[1]
    # A single backslash before a letter is LaTeX that the model did not escape: json would read \frac as a form feed.
    raw = content.strip('"') if re.search(r"(?<!\\)\\[A-Za-z(\[]", content) else _of_json(content)
    return Announced(match.start(), match.end(), answer_in(raw) or raw, True) if raw.strip() else None


def _of_json(content: str) -> str:
    try:
        value = json.loads(content)
    except ValueError:
        return content.strip('"[]')
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, str) else content


def last_choice(text: str) -> Announced | None:
    """Return the letter of the last "option C is correct"."""
    matches = list(CHOSEN_LETTER.finditer(text))
    return Announced(matches[-1].start(), matches[-1].end(), matches[-1][1].upper()) if matches else None


def last_marker(text: str) -> Announced | None:
    """Return the text behind the last ``####`` on its line (GSM8K). A markdown heading of that level is no marker."""
    matches = list(MARKER.finditer(text))
    for match in reversed(matches[-MAX_TRIES:]):
        end = text.find("\n", match.end())
        end = len(text) if end < 0 else end
        line = unwrap(text[match.end() : end])
        # With text below it the line may be a heading: then only what looks like a bare value is an answer.
        heads = bool(text[end:].strip())
        if not line or STEP.match(line) or (heads and not _is_answer(line)):
            continue
        found = answer_in(line)
        if found is not None and (is_expression(found) or not heads):
            return Announced(match.start(), end, found, True)
    return None


def _is_answer(line: str) -> bool:
    return re.match(r"[-+$\\({\[0-9.\u20ac\u00a3]|[A-Za-z]\b(?!\w)", line) is not None


def last_tag(text: str) -> Announced | None:
    """Return the content of the last ``<answer>`` tags.

    A tag that is not closed counts to the end of the text. A closing tag without an opening one, which the prompt may
    contain, counts from the tag before it or from the beginning.
    """
    marks = list(TAG.finditer(text))[-2 * MAX_TRIES :]
    end = len(text)
    for index in range(len(marks) - 1, -1, -1):
        mark = marks[index]
        if mark["close"]:
            end = mark.start()
            if index and not marks[index - 1]["close"]:
                continue  # the next round meets the opening tag and takes the text up to this end
            begin = marks[index - 1].end() if index else 0
        else:
            begin = mark.end()
        content = text[begin:end].strip()
        if content and not PLACEHOLDER.fullmatch(content):
            return Announced(begin, end, content, True)
        end = mark.start()
    return None
