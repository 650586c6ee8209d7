"""Compares the printed output of a program with the wanted output.

Lines are compared without trailing blanks, and blank lines at the end are ignored. Every other character counts, except
in decimals: where the wanted output has a number with a point or an exponent, a printed number is right when it

- differs from the wanted one by no more than 1e-6 of its size, or
- rounds to the wanted one, which has six places or more after the point, or
- has six places or more, five of them significant, and the wanted one rounds to it.

A wanted integer is compared as text.
"""

import re
from decimal import Decimal, InvalidOperation, localcontext

RELATIVE = Decimal("1e-6")  # as in equality.py
PLACES = 6  # what "%f" prints
SIGNIFICANT = 5  # with fewer, "0.000000" would be right for every small number
MAX_CHARACTERS = 400
"""Longest number, beyond any double in full (309 digits). It bounds the exact arithmetic below."""
# An exponent of at most three digits, for the same reason.
NUMBER = re.compile(r"((?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d{1,3})?(?![\w.]))", re.ASCII)


def difference(printed: bytes, expected: str) -> str | None:
    """Where the outputs differ, without the wanted text; None when they are equal."""
    try:
        lines = lines_of(printed.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"the output is not UTF-8 (byte {error.start})"
    wanted = lines_of(expected)
    if lines == wanted:
        return None
    pairs = zip(lines, wanted, strict=False)
    line = next((i for i, (ours, theirs) in enumerate(pairs) if not _same_line(ours, theirs)), None)
    if line is not None:
        return f"line {line + 1} is {lines[line][:80]!a}"
    return f"printed {len(lines)} lines, expected {len(wanted)}" if len(lines) != len(wanted) else None


def lines_of(text: str) -> list[str]:
    """The text as lines without trailing blanks and without blank lines at the end."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_line(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    if "." not in wanted and "e" not in wanted and "E" not in wanted:
        return False
    parts, wanted_parts = NUMBER.split(line), NUMBER.split(wanted)  # the parts at odd places are the numbers
    return len(parts) == len(wanted_parts) and all(
        part == other or (place % 2 == 1 and same_number(part, other))
        for place, (part, other) in enumerate(zip(parts, wanted_parts, strict=True))
    )


def same_number(found: str, wanted: str) -> bool:
    """Whether the printed text of a number is right for the wanted text."""
    if not set(".eE") & set(wanted) or max(len(found), len(wanted)) > MAX_CHARACTERS:
        return found == wanted
    with localcontext() as context:
        # Exponents reach 999 either way: with digits for both numbers in full, the difference is exact.
        context.prec = 2 * MAX_CHARACTERS + 2000
        try:
            ours, theirs = Decimal(found), Decimal(wanted)
        except InvalidOperation:
            return False
        gap = abs(ours - theirs)
        if gap <= RELATIVE * abs(theirs) or (_places(theirs) >= PLACES and gap <= _half_unit(theirs)):
            return True
        exact = _places(ours) >= PLACES and len(str(abs(int(ours.scaleb(_places(ours)))))) >= SIGNIFICANT
        return exact and gap <= _half_unit(ours)


def _places(number: Decimal) -> int:
    """Number of digits after the point, as the number is written."""
    exponent = number.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _half_unit(number: Decimal) -> Decimal:
    return Decimal(5).scaleb(-_places(number) - 1)
