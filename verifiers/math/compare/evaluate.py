"""Evaluates an expression tree: exactly, as a fraction, or numerically, to any precision.

Every operation checks the size of its result before it computes, so a tower of powers costs nothing. Undefined is
raised where there is no finite value (a division by zero, infinity), TooLarge where the value has more digits than any
honest answer.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import reduce
from typing import Any

import mpmath

from rlserve.verifiers.math.tree import Apply, Node, Number, Symbol

MAX_BITS = 40_000
"""Largest numerator or denominator that is computed, and largest binary exponent of an approximation. Any value of
this size will do: 12,000 digits, which Python multiplies in a few milliseconds."""
MAX_EXPONENT = 10_000
"""Of a power. Any value of this size will do: the size of the result is checked as well."""
MAX_FACTORIAL = 200
"""200! has 1,246 bits. Any value of this size will do: a larger factorial equals only the same text."""
MAX_CHOOSE = 2_000
"""Objects to choose from: 2,000 choose 1,000 has 1,995 bits. Any value of this size will do."""
FUNCTIONS = {
    "ln": "log", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec",
    "arccsc": "acsc", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "abs": "fabs", "sgn": "sign",
}  # fmt: skip
"""Our name of a function to mpmath's, where they differ."""


class Undefined(Exception):
    """There is no finite value."""


class TooLarge(Exception):
    """The value has more digits than the limits above allow."""


def fold(node: Node) -> Node:
    """Return the tree with every rational part computed: a rational formula becomes one Number."""
    if not isinstance(node, Apply):
        return node
    args = tuple(fold(arg) for arg in node.args)
    values = [arg.value for arg in args if isinstance(arg, Number)]
    if len(values) == len(args):
        value = _bounded(_exact_apply(node.op, values))
        if value is not None:
            return Number(value)
    return Apply(node.op, args)


def exact(node: Node) -> Fraction | None:
    """Return the value as a fraction; None when these operations do not give one (roots, functions, variables)."""
    folded = fold(node)
    return folded.value if isinstance(folded, Number) else None


def _bounded(value: Fraction | None) -> Fraction | None:
    if value is not None and max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge
    return value


def _exact_apply(op: str, args: list[Fraction]) -> Fraction | None:
    if op == "add":
        return sum(args, Fraction(0))
    if op == "neg":
        return -args[0]
    if op == "mul":
        return _exact_product(args)
    if op == "div":
        return _exact_quotient(args[0], args[1])
    if op == "pow":
        return _exact_power(args[0], args[1])
    if op in ("sqrt", "root"):
        return _exact_root(args[0], args[1] if op == "root" else Fraction(2))
    if op in ("abs", "floor", "ceil"):
        return _exact_rounding(op, args[0])
    if op in ("max", "min"):
        return max(args) if op == "max" else min(args)
    return _exact_integer(op, args)


def _exact_product(args: list[Fraction]) -> Fraction:
    product = Fraction(1)
    for arg in args:
        product *= arg
        _bounded(product)  # after each factor: a hundred factors of 400 digits never become one number
    return product


def _exact_rounding(op: str, value: Fraction) -> Fraction:
    if op == "abs":
        return abs(value)
    return Fraction(math.floor(value) if op == "floor" else math.ceil(value))


def _exact_quotient(top: Fraction, bottom: Fraction) -> Fraction:
    if not bottom:
        raise Undefined
    return top / bottom


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        root = _exact_root(base, Fraction(exponent.denominator)) if base >= 0 else None
        return None if root is None else _exact_power(root, Fraction(exponent.numerator))
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:  # 0^0 too: which value it has depends on the book
            raise Undefined
        return base ** (int(exponent) % 2) if base == -1 else base if exponent else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > MAX_EXPONENT or bits * abs(exponent) > MAX_BITS:
        raise TooLarge
    return base ** int(exponent)


def _exact_root(value: Fraction, degree: Fraction) -> Fraction | None:
    """Return the rational root, real for odd degrees of negative numbers; None when it is not rational."""
    # Any bound of this size will do: no answer has a higher root than the 64th.
    if degree.denominator != 1 or not 2 <= degree <= 64 or (value < 0 and degree % 2 == 0):
        return None
    n = int(degree)
    top, bottom = _integer_root(abs(value.numerator), n), _integer_root(value.denominator, n)
    if top is None or bottom is None:
        return None
    return Fraction(top if value >= 0 else -top, bottom)


def _integer_root(value: int, degree: int) -> int | None:
    """Return the integer whose ``degree``-th power is ``value``, by bisection; None when there is none."""
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < value else (low, middle)
    return low if low**degree == value else None


def _exact_integer(op: str, args: list[Fraction]) -> Fraction | None:
    """Compute an operation on whole numbers; None for other operations."""
    if op not in ("factorial", "binom", "permutations", "gcd", "lcm"):
        return None
    if any(arg.denominator != 1 or arg < 0 for arg in args):
        raise Undefined
    whole = [int(arg) for arg in args]
    if op in ("gcd", "lcm"):
        return Fraction(reduce(math.gcd if op == "gcd" else math.lcm, whole))
    if whole[0] > (MAX_FACTORIAL if op == "factorial" else MAX_CHOOSE):
        raise TooLarge
    if op == "factorial":
        return Fraction(math.factorial(whole[0]))
    return Fraction(math.comb(*whole) if op == "binom" else math.perm(*whole))


class Approximator:
    """Evaluates trees numerically at given points, in complex arithmetic of any precision.

    It has an mpmath context of its own: the precision of ``mpmath.mp`` is global.

    Example::

        approximator = Approximator()
        approximator.value(parse("x^{2}"), {"x": Fraction(3, 2)}, bits=64)   # mpf('2.25')
        approximator.magnitude    # 2: bits of the largest value met; the caller raises the precision by it
    """

    def __init__(self) -> None:
        self._context: Any = mpmath.MPContext()
        self.magnitude = 0
        """Largest binary exponent (either sign) or numeral size, in bits, since the caller last set it to 0."""

    def value(self, node: Node, point: Mapping[str, Fraction], *, bits: int) -> Any:
        """Return the value of ``node`` with its variables at ``point``, computed with ``bits`` of precision."""
        self._context.prec = bits
        try:
            return self._value(node, point)
        except (ZeroDivisionError, ValueError, OverflowError, mpmath.libmp.NoConvergence) as error:
            raise Undefined from error

    def _value(self, node: Node, point: Mapping[str, Fraction]) -> Any:
        if isinstance(node, Number):
            return self._fraction(node.value)
        if isinstance(node, Symbol):
            return self._symbol(node.name, point)
        value = self._apply(node, [self._value(arg, point) for arg in node.args])
        if not self._context.isfinite(value):
            raise Undefined
        self._note(value)
        return value

    def _note(self, value: Any) -> None:
        if value:
            size = abs(int(self._context.mag(value)))
            if size > MAX_BITS:
                raise TooLarge
            self.magnitude = max(self.magnitude, size)

    def _fraction(self, value: Fraction) -> Any:
        size = max(value.numerator.bit_length(), value.denominator.bit_length())
        self.magnitude = max(self.magnitude, size)
        return self._context.mpf(value.numerator) / value.denominator

    def _symbol(self, name: str, point: Mapping[str, Fraction]) -> Any:
        if name in point:
            return self._fraction(point[name])
        if name == "infty":
            raise Undefined
        context = self._context
        # "+" rounds mpmath's lazy constants to the precision of this context.
        constants = {"pi": +context.pi, "e": +context.e, "i": context.mpc(0, 1)}
        if name not in constants:
            raise Undefined  # a variable without a value at this point
        return constants[name]

    def _apply(self, node: Apply, args: list[Any]) -> Any:
        context, op = self._context, node.op
        if op == "add":
            return sum(args[1:], args[0])
        if op == "mul":
            return self._context.fprod(args)
        if op == "div":
            return args[0] / args[1]
        if op == "neg":
            return -args[0]
        if op in ("pow", "root", "sqrt"):
            return self._power(op, args)
        if op in ("max", "min"):
            return self._extreme(op, args)
        if op == "exp":
            return self._power("pow", [+context.e, args[0]])
        if op == "lg":
            return context.log(args[0]) / context.log(10)
        if op in ("factorial", "binom", "permutations", "gcd", "lcm"):
            return self._of_integers(op, args)
        return getattr(context, FUNCTIONS.get(op, op))(args[0])

    def _of_integers(self, op: str, args: list[Any]) -> Any:
        if not all(self._context.isint(arg) for arg in args):
            raise Undefined
        value = _bounded(_exact_integer(op, [Fraction(int(self._context.re(arg))) for arg in args]))
        assert value is not None
        return self._fraction(value)

    def _power(self, op: str, args: list[Any]) -> Any:
        context, base = self._context, args[0]
        if op == "sqrt":
            return context.sqrt(base)
        if op == "root":
            # The real root of a negative number, as in exact arithmetic: power() would give the complex one.
            odd = context.isint(args[1]) and int(args[1]) % 2 == 1
            if odd and context.im(base) == 0 and context.re(base) < 0:
                return -context.power(-base, 1 / args[1])
            return context.power(base, 1 / args[1])
        if base == 0:
            if context.re(args[1]) <= 0:
                raise Undefined
            return context.mpf(0)
        # A base of size 1, such as i or e^{ix}, keeps its size under any exponent.
        if abs(args[1]) > MAX_EXPONENT and abs(abs(base) - 1) > 1e-9:
            raise TooLarge
        if abs(args[1]) * max(1, abs(int(context.mag(base)))) > MAX_BITS:
            raise TooLarge
        return context.power(base, args[1])

    def _extreme(self, op: str, args: list[Any]) -> Any:
        if any(self._context.im(arg) != 0 for arg in args):
            raise Undefined
        return max(args) if op == "max" else min(args)
