"""Whether an answer of a program equals what a test wants, told from the answer's data alone.

Nothing is built from the answer that hashes or compares by itself: a set of integers with one hash costs the judge no
more than a list of them. The rule, for ``wanted`` from JSON:

- booleans only to booleans, None, texts exactly; bytes to nothing, for JSON has none;
- a wanted integer exactly, also by a float, a fraction or a decimal of that very value;
- a wanted decimal (a JSON number with a point or an exponent) within 1e-6 of its own size, a wanted 0.0 within 1e-12;
  not-a-number to itself;
- lists and tuples (and other sequences) alike, item by item in order;
- a set where a list is wanted: one item for each, in any order;
- dictionaries by keys and values; a key also equals its text as JSON writes it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

RELATIVE = 1e-6
ZERO = 1e-12
MAX_HEX_DIGITS = 20_000
MAX_DECIMAL_CHARACTERS = 400
MAX_EXPONENT = 400
MAX_MATCHED = 256
"""Items of a set that are tried against each other; larger ones are compared in the order of their values."""
SEQUENCES = ("tuple", "deque", "list", "named")
SETS = ("set", "frozenset")
MAPPINGS = ("dict", "ordered_dict", "counter")


def equals(found: Any, wanted: Any, depth: int = 0) -> bool:
    """``found`` is plain data as ``inside/values`` encodes it, ``wanted`` a JSON value. Never raises."""
    if depth > 250:
        return False
    if isinstance(wanted, bool) or wanted is None or isinstance(wanted, str):
        return type(found) is type(wanted) and bool(found == wanted)
    if isinstance(wanted, int | float):
        return _equal_numbers(found, wanted)
    if isinstance(wanted, list):
        return _equal_sequences(found, wanted, depth)
    return isinstance(wanted, dict) and _equal_mappings(found, wanted, depth)


def _equal_numbers(found: Any, wanted: float) -> bool:
    value = _number(found)
    if value is None:
        return False
    if isinstance(wanted, int):
        return value == wanted
    if not math.isfinite(wanted) or (isinstance(value, float) and not math.isfinite(value)):
        return value == wanted or (value != value and wanted != wanted)
    tolerance = RELATIVE * abs(wanted) if wanted else ZERO
    # Exact sides: a difference of floats is rounded, and an integer may be beyond them.
    return abs(Fraction(value) - Fraction(wanted)) <= Fraction(tolerance)


def _number(found: Any) -> int | float | Fraction | None:
    """The number that the data stands for; None for what is none or too long to be looked at."""
    if type(found) in (int, float):
        return found  # type: ignore[no-any-return]
    tag, value = _tagged(found)
    try:
        if tag == "int" and len(value) <= MAX_HEX_DIGITS:
            return int(value, 16)
        if tag == "float":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[value]
        if tag == "fraction" and len(value) == 2 and max(map(len, value)) <= MAX_HEX_DIGITS:
            return Fraction(int(value[0], 16), int(value[1], 16))
        if tag == "decimal" and len(value) <= MAX_DECIMAL_CHARACTERS:
            exponent = value.upper().partition("E")[2]
            return Fraction(value) if not exponent or abs(int(exponent)) <= MAX_EXPONENT else None
    except (ValueError, TypeError, KeyError, ArithmeticError):
        pass
    return None


def _equal_sequences(found: Any, wanted: Sequence[Any], depth: int) -> bool:
    tag, items = ("list", found) if isinstance(found, list) else _tagged(found)
    if tag == "range":
        return _equal_sequences(_range(items, len(wanted)), wanted, depth)
    if not isinstance(items, list) or len(items) != len(wanted):
        return False
    if tag in SETS:
        return _equal_unordered(items, wanted, depth)
    return tag in SEQUENCES and all(equals(item, other, depth + 1) for item, other in zip(items, wanted, strict=True))


def _range(parts: Any, size: int) -> Any:
    """The numbers of a range, if it is as long as wanted."""
    if not isinstance(parts, list) or len(parts) != 3 or not all(type(part) is int for part in parts) or not parts[2]:
        return None
    numbers = range(*parts)
    return list(numbers) if abs(parts[0]) + abs(parts[1]) < 2**60 and len(numbers) == size else None


def _equal_unordered(items: Sequence[Any], wanted: Sequence[Any], depth: int) -> bool:
    """Whether the items can be paired, each with one of its own."""
    pairs = zip(sorted(items, key=_order), sorted(wanted, key=_order), strict=True)
    if all(equals(item, other, depth + 1) for item, other in pairs):
        return True
    return len(items) <= MAX_MATCHED and _can_be_paired(len(items), lambda i, j: equals(items[i], wanted[j], depth + 1))


def _can_be_paired(size: int, fits: Callable[[int, int], bool]) -> bool:
    """Whether a perfect matching exists: augmenting paths."""
    fitting = [[j for j in range(size) if fits(i, j)] for i in range(size)]
    taken: dict[int, int] = {}

    def place(item: int, tried: set[int]) -> bool:
        for other in fitting[item]:
            if other in tried:
                continue
            tried.add(other)
            if other not in taken or place(taken[other], tried):
                taken[other] = item
                return True
        return False

    return all(place(item, set()) for item in range(size))


def _order(data: Any) -> tuple[int, Any]:
    """A key by which equal items of both sides come at the same place, as a rule."""
    if isinstance(data, bool):
        return 1, int(data)
    number = _number(data)
    if number is not None:
        return (2, number) if number == number else (3, 0)
    if isinstance(data, str):
        return 4, data
    items = data if isinstance(data, list) else _tagged(data)[1]
    if isinstance(items, list):
        return 5, [_order(item) for item in items[:64]]
    return 6, repr(type(data))


def _equal_mappings(found: Any, wanted: Mapping[str, Any], depth: int) -> bool:
    tag, pairs = _tagged(found)
    if tag not in MAPPINGS or not isinstance(pairs, list) or len(pairs) != len(wanted):
        return False
    texts: dict[str, Any] = {}
    for pair in pairs:
        key = _key(pair[0]) if isinstance(pair, list) and len(pair) == 2 else None
        if key is None or key in texts or key not in wanted:
            return False
        texts[key] = pair[1]
    return all(equals(texts[key], wanted[key], depth + 1) for key in wanted)


def _key(data: Any) -> str | None:
    """The text of a dictionary's key, as JSON writes it; None for a key that JSON cannot have."""
    if isinstance(data, str):
        return data
    if data is None or isinstance(data, bool):
        return {None: "null", True: "true", False: "false"}[data]
    number = _number(data)
    if isinstance(number, int):
        return str(number) if abs(number) < 10**4000 else None
    return repr(number) if isinstance(number, float) else None


def _tagged(data: Any) -> tuple[str, Any]:
    """Tag and content of tagged data; an empty tag for other data."""
    if isinstance(data, dict) and isinstance(data.get("t"), str):
        return data["t"], data.get("v")
    return "", None
