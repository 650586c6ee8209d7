r"""Splits units of measure and money off an answer: ``10\text{ cm}``, ``\dollar 5``, ``90^\circ``, ``50%``.

Two units must measure the same thing, and values are compared after conversion. One side may leave its unit out, since
the question gives it. Percent is not a unit in this sense (see ``Unit.percent``). An unknown word (``apples``) is a
unit of its own, unless it changes the value (``words.py``).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from rlserve.verifiers.math.notation.normalize import FUNCTIONS, TEXT_GROUP
from rlserve.verifiers.math.notation.numerals import read_numeral
from rlserve.verifiers.math.notation.unit_table import CJK_POWERS, COMPOUND, CURRENCIES, known
from rlserve.verifiers.math.notation.words import CJK_VALUE_WORDS, changes_value

NAMES = FUNCTIONS | {"pi"}
CODES = "|".join(code for code in CURRENCIES if code.isupper() and len(code) == 3)
CURRENCY = re.compile(
    rf"([-+]?) ?(?:(US|A|C|HK|S|NZ)? ?\\(dollar|euro|pounds|yen|rupee|won|ruble) |({CODES})(?![A-Za-z])"
    rf"|\\text\{{ ?(Rs|{CODES})\.? ?\}}|(Rs)\b\.?) ?(?=[-+0-9.\\({{])"
)
CURRENCY_BEHIND = re.compile(r" ?\\(dollar|euro|pounds|yen|rupee|won|ruble) ?(USD|AUD|CAD)?$")
# A percentage point is a percent here: the question decides which of the two is meant.
PERCENT = re.compile(r" ?(?:%|(?:\\text\{)? ?per ?cent(?:age)?(?: points?)? ?\}?)$", re.IGNORECASE)
DEGREES = re.compile(r" ?(?:\^ ?\\circ|\\circ) ?(?:\\text\{ ?([CF]) ?\}|([CF]))?$")
FUNCTION = re.compile(r"(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc|cis)(?![A-Za-z])")
"""The degrees of ``\\sin 30^\\circ`` belong to its argument."""
# \text{...} at the end, perhaps several with "/", "*" and powers between: \text{km}/\text{h}^2.
EXPLICIT = re.compile(r"(?<!^) ?(\\text\{[^{}]*\}(?:[ */^.{}0-9-]|\\text\{[^{}]*\})*)$")
OPEN_END = "+-*/^_=(<>"
"""A unit cannot follow one of these."""
WORD = r"[^\W\d_]+(?:['-][^\W\d_]+)*"
# Words at the end outside of \text: "5 square miles", "3 km/h".
PLAIN_WORDS = re.compile(
    r"((?: |(?<![\\A-Za-z ]))[^\W\d_](?:[\w .'^{}-]+(?:/ ?[^\W\d_][\w'^{} -]*)?|/ ?[^\W\d_][\w'^{} -]*))$"
)
SINGLE_LETTER = re.compile(r" +([A-Za-z])$")
LETTER = re.compile(r"(?<=[0-9})]) *([A-Za-z])$")
IN_BRACKETS = re.compile(r" ?(?:\(([^()]{1,40})\)|\[([^\[\]]{1,40})\]|\\text\{ ?[(\[]([^()\[\]{}]{1,40})[)\]] ?\})$")
FRACTION = re.compile(
    r"\\frac ?\{ ?(\\text\{[^{}]*\}(?: ?\^ ?\{?[0-9]\}?)?) ?\} ?\{ ?(\\text\{[^{}]*\}(?: ?\^ ?\{?[0-9]\}?)?) ?\}$"
)
# \frac{km}{h} outside of \text: these pairs only, since \frac{a}{b} of letters is a formula.
PLAIN_FRACTION = re.compile(
    r"(?<=[0-9]) ?\\frac ?\{ ?(km|cm|mm|mi|miles|kg|ft) ?\} ?\{ ?(h|hr|hour|s|sec|min|L|m|cm|l)(\^ ?[0-9])? ?\}$"
)
OF_A = re.compile(r" ?(?:(\\text\{) ?)?of (?:an?|one|the) (?=[a-z])")
SYMBOLS = ((re.compile(r"(?<=[0-9]) ?\\Omega ?$"), "\\text{ohm}"), (re.compile(r"\\mu ?\\text\{ ?"), "\\text{u"))
CONSTANT = re.compile(r"[-+]?(?:[-+*/^(){}0-9., ]|\\(?:frac|sqrt|pi)(?![A-Za-z])|\[[0-9]\])*")
"""A formula without letters: behind one a unit needs no ``\\text``."""
CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+$")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of a quantity. Quantities of equal ``dimension`` can be compared.

    Example: ``km/h`` has the dimension ``(("length", 1), ("time", -1))`` and the factor 5/18.
    """

    dimension: tuple[tuple[str, int], ...]
    """Base names with their powers, sorted."""
    factor: Fraction
    """Size of this unit in base units."""
    words: tuple[tuple[str, int], ...] = ()
    """Names that are no unit of measure (``apple``), with their powers; not part of the dimension."""

    @property
    def percent(self) -> bool:
        """True for a percentage: compared with a plain number it is a hundredth, never the bare number."""
        return self.dimension == (("percent", 1),)

    def measures_like(self, other: "Unit") -> bool:
        """True when values of both can be compared: the same dimension, or a word in common where neither has one."""
        if self.dimension or other.dimension:
            return self.dimension == other.dimension or {self.dimension, other.dimension} == YEN_OR_YUAN
        return bool(set(self.words) & set(other.words))


# Factor 1 and not 1/100: two percentages are compared as they stand, ``quantities.py`` converts against plain numbers.
PERCENT_UNIT = Unit((("percent", 1),), Fraction(1))
YEN_OR_YUAN = frozenset({(("money", 1),), (("money CNY", 1),)})
"""Both currencies have the same sign, so the sign alone may mean either."""


def split_unit(normal: str, *, letters: bool = False) -> tuple[str, Unit | None]:
    """Return the value and the unit of a normalised answer. Without a unit the value is the text.

    ``letters`` reads ``5m`` as metres and not as five times m: use it when the gold answer has a unit.
    """
    for pattern, name in SYMBOLS:
        # A function, since a replacement string would read the backslash of \text as an escape.
        normal = pattern.sub(lambda _, name=name: name, normal)  # type: ignore[misc]
    # Signs in front come before words behind, so that "\$5 per hour" keeps its currency.
    currency = CURRENCY.match(normal)
    if currency is not None:
        return _with_currency(normal, currency)
    if behind := CURRENCY_BEHIND.search(normal):
        return normal[: behind.start()], _unit_of([(behind.group(2) or behind.group(1), 1)])
    if normal.endswith("\\permille "):
        return f"({normal[:-10]})/10", PERCENT_UNIT
    if (percent := PERCENT.search(normal)) and percent.start():
        return normal[: percent.start()], PERCENT_UNIT
    if (degrees := DEGREES.search(normal)) and degrees.start() and not FUNCTION.search(normal):
        scale = {"C": "celsius", "F": "fahrenheit"}.get(degrees.group(1) or degrees.group(2) or "", "degree")
        return normal[: degrees.start()], _unit_of([(scale, 1)])
    normal = PLAIN_FRACTION.sub(r"\\text{\1}/\\text{\2}\3", FRACTION.sub(r"\1/\2", normal))
    return _split_words(OF_A.sub(r" \1", normal), LETTER if letters else SINGLE_LETTER)


def _with_currency(normal: str, match: re.Match[str]) -> tuple[str, Unit | None]:
    """Split off the sign in front, and the same currency repeated in words behind it (``\\$5 dollars``)."""
    prefix, symbol, *codes = match.groups()[1:]
    name = CURRENCIES.get(f"{prefix}\\{symbol}" if prefix else symbol or next(filter(None, codes)), "dollar")
    rest = match.group(1) + normal[match.end() :].removesuffix("/-")
    unit = _unit_of([(name, 1)])
    inner, second = split_unit(rest)
    same = second is None or second.dimension == unit.dimension
    return (inner if second is not None and same else rest, unit)


def _split_words(normal: str, letter: re.Pattern[str]) -> tuple[str, Unit | None]:
    explicit = EXPLICIT.search(normal)
    if explicit is not None and not set("([") & set(explicit.group(1)):
        value = normal[: explicit.start()].rstrip()
        unit = parse_unit(explicit.group(1)) if value[-1:] not in OPEN_END else None
        return (value, unit) if unit else (normal, None)
    for pattern, reading in ((IN_BRACKETS, parse_named), (CJK, parse_cjk)):
        found = pattern.search(normal)
        if found is not None and _is_constant(value := normal[: found.start()].rstrip()):
            unit = reading(next((group for group in found.groups() if group), found.group()))
            if unit is not None:
                return value, unit
    # Words before a single letter, which is the weakest evidence: "5 m" may be metres or five times m.
    for pattern in (PLAIN_WORDS, letter):
        plain = pattern.search(normal)
        if plain is None or not plain.start():
            continue
        value = normal[: plain.start()].rstrip()
        is_numeral = read_numeral(value) is not None
        if (is_numeral or (pattern is not SINGLE_LETTER and _is_constant(value))) and (
            unit := parse_unit(plain.group(1), plain=True, numeral=is_numeral or pattern is LETTER)
        ):
            return value, unit
    return normal, None


def _is_constant(value: str) -> bool:
    return CONSTANT.fullmatch(value) is not None and value[-1:] in "0123456789})i " and value.strip() != ""


def parse_unit(text: str, *, plain: bool = False, numeral: bool = True) -> Unit | None:
    """Return the unit that ``text`` names, unknown words included (``apples``); None when it names none.

    ``plain`` text is outside of ``\\text``: letters there are variables, unless every word is a known unit or a word
    of at least three letters behind a blank and a ``numeral``.
    """
    spaced = text.startswith(" ")
    words = TEXT_GROUP.sub(r" \1 ", text).replace("{", "").replace("}", "")
    words = re.sub(r"\bper\b", "/", words.replace(".", " ")).strip()
    words = COMPOUND.get(words, words)
    parts = _parts(words)
    if parts is None:
        return None
    # \text{ at most} changes the value: as a unit it would let "5 at most" equal 5.
    if any(known(name) is None and (_is_letter(name) or changes_value(name)) for name, _ in parts):
        return None
    # "5 m s" without a slash is a product of variables.
    if plain and len(parts) > 1 and "/" not in words and all(_is_letter(name) for name, _ in parts):
        return None
    if plain and not all(_known_here(name, numeral) or (spaced and numeral and _is_word(name)) for name, _ in parts):
        return None
    return _unit_of(parts)


def parse_named(text: str) -> Unit | None:
    """Return a unit in brackets: a known one, or "units"; any other text there may be a factor or a remark."""
    unit = parse_unit(text)
    return unit if unit is not None and {name for name, _ in unit.words} <= {"unit"} else None


def parse_cjk(text: str) -> Unit | None:
    """Return a unit or a counter in Chinese, Japanese or Korean."""
    for prefix, power in CJK_POWERS.items():
        if text.startswith(prefix) and (found := known(text.removeprefix(prefix))) and found[0] == "length":
            return _unit_of([(text.removeprefix(prefix), power)])
    if known(text):
        return _unit_of([(text, 1)])
    # Counters have one to three characters; more than 6 are a sentence.
    return None if len(text) > 6 or CJK_VALUE_WORDS & set(text) else _unit_of([(text, 1)])


def _is_letter(name: str) -> bool:
    return len(name) == 1 and name.isascii() and name != "u"  # short for units


def _known_here(name: str, numeral: bool) -> bool:
    """True for a known unit; a single letter counts only behind a numeral."""
    return known(name) is not None and (numeral or len(name) > 1)


def _is_word(name: str) -> bool:
    return len(name) >= 3 and name.islower() and name not in NAMES


UNIT_TOKEN = re.compile(rf" *(?:(?P<name>{WORD})(?: ?\^ ?(?P<power>-?[0-9]{{1,2}}))?|(?P<slash>/)|(?P<times>\*))")


def _parts(words: str) -> list[tuple[str, int]] | None:
    """Return ``[("m", 2), ("s", -2)]`` for ``square m / s^2``; None for text that is not built like a unit."""
    parts: list[tuple[str, int]] = []
    sign, prefix, index = 1, 1, 0
    while index < len(words):
        token = UNIT_TOKEN.match(words, index)
        if token is None:
            return None
        index, name = token.end(), token.group("name")
        if token.group("slash"):
            sign = -1
        elif name in ("square", "sq", "cubic", "cu"):
            prefix = 2 if name.startswith("sq") else 3
        elif parts and parts[-1][0].rstrip("s") == "degree" and name and name.lower() in ("celsius", "fahrenheit"):
            parts[-1] = (name.lower(), 1)
        elif name in ("squared", "cubed") and parts and known(parts[-1][0]):
            parts[-1] = (parts[-1][0], parts[-1][1] * (2 if name == "squared" else 3))
        elif name:
            parts.append((name, sign * prefix * int(token.group("power") or 1)))
            prefix = 1
    # At most four names: a longer run of words is a sentence. A prefix left over ("square") has no unit behind it.
    return parts if 1 <= len(parts) <= 4 and prefix == 1 else None


def _unit_of(parts: list[tuple[str, int]]) -> Unit:
    powers: dict[str, int] = {}
    words: dict[str, int] = {}
    factor = Fraction(1)
    for name, power in parts:
        found = known(name)
        if found is None:
            word = name.lower().removesuffix("s")
            words[word] = words.get(word, 0) + power
            continue
        powers[found[0]] = powers.get(found[0], 0) + power
        factor *= found[1] ** power
    factor *= Fraction(1, 1000) ** powers.get("volume", 0)
    return Unit(_base(powers), factor, tuple(sorted(words.items())))


def _base(powers: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """Return powers by base name, with volumes as lengths cubed: a litre is a thousandth of a cubic metre."""
    if "volume" in powers:
        powers = powers | {"length": powers.get("length", 0) + 3 * powers.pop("volume")}
    return tuple(sorted((name, power) for name, power in powers.items() if power))
