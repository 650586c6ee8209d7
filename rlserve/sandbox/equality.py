"""Compares an answer of a program with the value that a test wants, using the answer's plain data alone.

The comparison builds no Python object that hashes or compares by itself: a set of integers that all have one hash costs
the judge no more than a list of them. The rules, for a ``wanted`` value from JSON:

- a boolean equals only a boolean; None and texts match exactly; bytes equal nothing, since JSON has no bytes;
- an integer matches exactly; a float, a fraction or a decimal of the same value matches too;
- a decimal (a JSON number with a point or an exponent) matches within 1e-6 of its own size, 0.0 within 1e-12;
  not-a-number matches itself;
- a list matches a list, a tuple or another sequence, item by item in order;
- a list also matches a set that can be paired with it item by item, in any order;
- a dictionary matches by keys and values; a key also matches its text in JSON.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

RELATIVE = 1e-6
"""Tolerance of a wanted decimal: the usual one of judges, far above rounding in double precision (1e-16) and far below
the error of a wrong formula."""
ZERO = 1e-12
"""Tolerance of a wanted 0.0, to which no relative one applies: a few thousand roundings of numbers near 1."""
MAX_HEX_DIGITS = 20_000
"""Longest integer, about 24,000 decimal digits. Any value of this size will do: it bounds the judge's arithmetic."""
MAX_DECIMAL_CHARACTERS = 400
"""Longer than any double in full (309 digits). Any value of this size will do."""
MAX_EXPONENT = 400
"""Larger than that of any double (308), and small enough that the exact fraction of a decimal stays cheap."""
MAX_MATCHED = 256
"""Largest set whose items are tried against each other, which takes size**2 comparisons; larger ones are compared in
the order of their values. Any value of this size will do."""
MAX_DEPTH = 250
"""More than the 200 that ``inside/values`` encodes, and far from Python's recursion limit."""
ORDERED_ITEMS = 64
"""Leading items that order one list among others. Any value of this size will do: a tie costs time in matching, and
never changes the result for sets up to MAX_MATCHED."""
SEQUENCES = ("tuple", "deque", "list", "named")
SETS = ("set", "frozenset")
MAPPINGS = ("dict", "ordered_dict", "counter")


def equals(found: Any, wanted: Any, depth: int = 0) -> bool:
    """``found`` is plain data as ``inside/values`` encodes it, ``wanted`` a JSON value. Never raises."""
    if depth > MAX_DEPTH:
        return False
    # bool is tested before int, of which it is a subclass: True must not equal 1.
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
    """The number that the data represents; None when it represents none or is too long to compare."""
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
    """The numbers of a range as a list; None unless it has the wanted size, so that a huge range is never expanded."""
    if not isinstance(parts, list) or len(parts) != 3 or not all(type(part) is int for part in parts) or not parts[2]:
        return None
    numbers = range(*parts)
    return list(numbers) if abs(parts[0]) + abs(parts[1]) < 2**60 and len(numbers) == size else None


def _equal_unordered(items: Sequence[Any], wanted: Sequence[Any], depth: int) -> bool:
    """Whether the items can be paired, each with one wanted item of its own."""
    # The common case first: equal items sort alike, and one pass over the sorted pairs is enough.
    pairs = zip(sorted(items, key=_order), sorted(wanted, key=_order), strict=True)
    if all(equals(item, other, depth + 1) for item, other in pairs):
        return True
    return len(items) <= MAX_MATCHED and _can_be_paired(len(items), lambda i, j: equals(items[i], wanted[j], depth + 1))


def _can_be_paired(size: int, fits: Callable[[int, int], bool]) -> bool:
    """Whether a perfect matching of the bipartite graph ``fits`` exists, by augmenting paths (Kuhn's algorithm)."""
    # Tolerance is not transitive, so that a greedy pairing could fail where another one exists.
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
    """A sort key by which equal items of both sides mostly get the same place."""
    if isinstance(data, bool):
        return 1, int(data)
    number = _number(data)
    if number is not None:
        return (2, number) if number == number else (3, 0)
    if isinstance(data, str):
        return 4, data
    items = data if isinstance(data, list) else _tagged(data)[1]
    if isinstance(items, list):
        return 5, [_order(item) for item in items[:ORDERED_ITEMS]]
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
    """The text of a dictionary's key as JSON writes it; None for a key that JSON cannot represent."""
    if isinstance(data, str):
        return data
    if data is None or isinstance(data, bool):
        return {None: "null", True: "true", False: "false"}[data]
    number = _number(data)
    if isinstance(number, int):
        return str(number) if abs(number) < 10**4000 else None  # str refuses more than 4,300 digits
    return repr(number) if isinstance(number, float) else None


def _tagged(data: Any) -> tuple[str, Any]:
    """Tag and content of tagged data; an empty tag for other data."""
    if isinstance(data, dict) and isinstance(data.get("t"), str):
        return data["t"], data.get("v")
    return "", None
