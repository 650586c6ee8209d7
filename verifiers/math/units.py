r"""Units of measure and of money at the edge of an answer: ``10\text{ cm}``, ``\dollar 5``, ``90^\circ``, ``50%``.

Two units must measure the same thing, and values are compared after conversion. A unit on one side only is
allowed: the question said which. Percent is not a unit in this sense (see ``Unit.percent``).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from rlserve.verifiers.math.normalize import FUNCTIONS, vocabulary
from rlserve.verifiers.math.numerals import read_numeral

KNOWN: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(factor))
    for dimension, entries in {
        "length": "nm:1e-9 um:1e-6 mm:0.001 cm:0.01 dm:0.1 m:1 km:1000 in:0.0254 inch:0.0254 inches:0.0254"
        " ft:0.3048 foot:0.3048 feet:0.3048 yd:0.9144 yard:0.9144 mi:1609.344 mile:1609.344 meter:1 metre:1"
        " millimeter:0.001 millimetre:0.001 centimeter:0.01 centimetre:0.01 kilometer:1000 kilometre:1000",
        "mass": "mg:1e-6 g:0.001 kg:1 t:1000 gram:0.001 milligram:1e-6 kilogram:1 ton:907.18474 tonne:1000"
        " lb:0.45359237 lbs:0.45359237 pound:0.45359237 oz:0.028349523125 ounce:0.028349523125",
        "time": "ms:0.001 s:1 sec:1 second:1 min:60 minute:60 h:3600 hr:3600 hour:3600 day:86400 week:604800"
        " millisecond:0.001",
        "month": "month:1 mo:1 year:12 yr:12 decade:120 century:1200",
        "volume": "ml:0.001 mL:0.001 cl:0.01 cL:0.01 dl:0.1 l:1 L:1 liter:1 litre:1 milliliter:0.001"
        " millilitre:0.001 gal:3.785411784 gallon:3.785411784 quart:0.946352946 pint:0.473176473",
        "money USD": "dollar:1 dollars:1 USD:1 usd:1 buck:1 cent:0.01 penny:0.01 pennies:0.01",
        "money EUR": "euro:1 EUR:1", "money GBP": "pounds:1 GBP:1", "money INR": "rupee:1 Rs:1",
        "angle": "degree:1 deg:1", "radian": "rad:1 radian:1", "celsius": "celsius:1",
        "fahrenheit": "fahrenheit:1", "kelvin": "kelvin:1 K:1", "frequency": "Hz:1 hertz:1 kHz:1000 MHz:1e6",
        "energy": "J:1 joule:1 kJ:1000 kilojoule:1000 cal:4.184 kcal:4184 calorie:4.184 Wh:3600 kWh:3600000"
        " eV:1.602176634e-19",
        "power": "W:1 watt:1 kW:1000 kilowatt:1000 MW:1e6 hp:745.7",
        "force": "N:1 newton:1 kN:1000", "pressure": "Pa:1 pascal:1 kPa:1000 atm:101325 bar:100000",
        "voltage": "V:1 volt:1", "current": "A:1 ampere:1 amp:1 mA:0.001", "charge": "C:1 coulomb:1",
        "resistance": "ohm:1", "amount": "mol:1 mole:1", "data": "byte:1 B:1 KB:1000 MB:1e6 GB:1e9 bit:0.125",
    }.items()
    for name, _, factor in (entry.partition(":") for entry in entries.split())
}  # fmt: skip
COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "cc": "cm^3", "sqft": "ft^2", "mps": "m/s"}
NOT_UNITS = vocabulary(
    "or and not but is if then no the than more less about approximately roughly nearly between to mod"
    " even odd none undefined infinity nan inf true false yes wrong correct"
)
NAMES = FUNCTIONS | {"pi"}
CURRENCY = re.compile(r"([-+]?) ?\\(dollar|euro|pounds) ?")
PERCENT = re.compile(r" ?(?:%|(?:\\text\{)? ?per ?cent(?:age)?(?: points?)? ?\}?)$", re.IGNORECASE)
DEGREES = re.compile(r" ?(?:\^ ?\\circ|\\circ) ?(?:\\text\{ ?([CF]) ?\}|([CF]))?$")
EXPLICIT = re.compile(r"(?<!^) ?(\\text\{[^{}]*\}(?:[ */^.{}0-9-]|\\text\{[^{}]*\})*)$")
FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc) ")
"""The degrees of ``\\sin 30^\\circ`` belong to its argument."""
PLAIN_WORDS = re.compile(r"( ?[A-Za-z][A-Za-z .]*(?:[A-Za-z]|\^ ?\{?[0-9]\}?)(?: ?/ ?[A-Za-z]+(?:\^ ?\{?[0-9]\}?)?)?)$")
SINGLE_LETTER = re.compile(r" +([A-Za-z])$")
LETTER = re.compile(r"(?<=[0-9]) *([A-Za-z])$")
SCALE = re.compile(r"(?<=[0-9]) ?(\\text\{)? ?(thousand|million|billion|trillion)\b ?\}?")
SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


@dataclass(frozen=True, slots=True)
class Unit:
    """What a quantity measures. ``dimension`` maps base names to powers; equal dimensions can be compared."""

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction
    """Value in base units of one of this unit."""

    @property
    def percent(self) -> bool:
        """A percentage: against a plain number it is a hundredth, never the bare number."""
        return self.dimension == (("percent", 1),)


PERCENT_UNIT = Unit((("percent", 1),), Fraction(1))


def split_unit(normal: str, *, letters: bool = False) -> tuple[str, Unit | None]:
    """The value and the unit of a normalised answer. Without a unit the value is the text.

    ``letters`` reads ``5m`` as metres and not as five times m: for an answer to a gold that has a unit.
    """
    normal = SCALE.sub(_scale, normal, count=1)
    currency = CURRENCY.match(normal)
    if currency is not None:
        rest = currency.group(1) + normal[currency.end() :]
        inner, unit = split_unit(rest)
        symbol = _unit_of([(currency.group(2), 1)])
        same = unit is None or unit.dimension == symbol.dimension
        return (inner if unit is not None and same else rest, symbol)
    if (percent := PERCENT.search(normal)) and percent.start():
        return normal[: percent.start()], PERCENT_UNIT
    if (degrees := DEGREES.search(normal)) and degrees.start() and not FUNCTION.search(normal):
        scale = {"C": "celsius", "F": "fahrenheit"}.get(degrees.group(1) or degrees.group(2) or "", "degree")
        return normal[: degrees.start()], _unit_of([(scale, 1)])
    return _split_words(normal, LETTER if letters else SINGLE_LETTER)


def _scale(match: re.Match[str]) -> str:
    opened = match.group(1) and not match.group().endswith("}")
    return f"*10^{{{SCALES[match.group(2)]}}}" + (" \\text{" if opened else "")


def _split_words(normal: str, letter: re.Pattern[str]) -> tuple[str, Unit | None]:
    explicit = EXPLICIT.search(normal)
    if explicit is not None:
        unit = parse_unit(explicit.group(1))
        return (normal[: explicit.start()].rstrip(), unit) if unit else (normal, None)
    for pattern in (PLAIN_WORDS, letter):
        plain = pattern.search(normal)
        if plain is None or not plain.start():
            continue
        value = normal[: plain.start()].rstrip()
        if read_numeral(value) is not None and (unit := parse_unit(plain.group(1), plain=True)):
            return value, unit
    return normal, None


def parse_unit(text: str, *, plain: bool = False) -> Unit | None:
    """The unit that ``text`` names, unknown words included (``apples``); None when it names none.

    ``plain`` text is outside of ``\\text``: letters there are variables unless every word is a known unit or,
    behind a blank, a word of at least three letters.
    """
    spaced = text.startswith(" ")
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace("{", "").replace("}", "")
    words = re.sub(r"\bper\b", "/", words.replace(".", " ")).strip()
    words = COMPOUND.get(words, words)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9 */^'-]*", words):
        return None
    parts = _parts(words)
    if parts is None or any(name.lower() in NOT_UNITS for name, _ in parts):
        return None
    if plain and not all(_known(name) or (spaced and _is_word(name)) for name, _ in parts):
        return None
    return _unit_of(parts)


def _is_word(name: str) -> bool:
    return len(name) >= 3 and name.islower() and name not in NAMES


def _parts(words: str) -> list[tuple[str, int]] | None:
    """``square m / s^2`` as ``[("m", 2), ("s", -2)]``; None when it is not built like a unit."""
    parts: list[tuple[str, int]] = []
    sign, prefix = 1, 1
    for name, power, slash in re.findall(r"([A-Za-z'-]+) ?(?:\^ ?(-?[0-9]{1,2}))?|(/)", words):
        if slash:
            sign = -1
        elif name in ("square", "sq", "cubic", "cu"):
            prefix = 2 if name.startswith("sq") else 3
        elif name:
            parts.append((name, sign * prefix * int(power or 1)))
            prefix = 1
    return parts if 1 <= len(parts) <= 4 and prefix == 1 else None


def _known(name: str) -> tuple[str, Fraction] | None:
    for spelling in (name, name.lower(), name.lower().removesuffix("s"), name.lower().removesuffix("es")):
        if spelling in KNOWN:
            return KNOWN[spelling]
    return None


def _unit_of(parts: list[tuple[str, int]]) -> Unit:
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for name, power in parts:
        dimension, scale = _known(name) or (name.lower().removesuffix("s"), Fraction(1))
        powers[dimension] = powers.get(dimension, 0) + power
        factor *= scale**power
    return Unit(_base(powers), factor * Fraction(1, 1000) ** powers.get("volume", 0))


def _base(powers: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """Volumes in litres are lengths cubed (a litre is a thousandth of a cubic metre)."""
    if "volume" in powers:
        powers = powers | {"length": powers.get("length", 0) + 3 * powers.pop("volume")}
    return tuple(sorted((name, power) for name, power in powers.items() if power))
