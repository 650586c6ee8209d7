"""The value of an expression tree: exactly, as a fraction, or numerically, to any precision.

Every operation checks the size of its result before it computes, so a tower of powers costs nothing. Raises
Undefined where there is no finite value (a division by zero, infinity) and TooLarge where the value has more
digits than an honest answer.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import reduce
from typing import Any

import mpmath

from rlserve.verifiers.math.tree import Apply, Node, Number, Symbol

MAX_BITS = 40_000
"""Largest numerator or denominator that is computed, and largest binary exponent of an approximation."""
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 200
MAX_CHOOSE = 2_000


FUNCTIONS = {
    "ln": "log", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec",
    "arccsc": "acsc", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "abs": "fabs", "sgn": "sign",
}  # fmt: skip
"""Our name of a function and mpmath's, where they differ."""


class Undefined(Exception):
    """There is no finite value."""


class TooLarge(Exception):
    """The value has more digits than we compute."""


def fold(node: Node) -> Node:
    """The tree with every rational part computed: a rational formula becomes one Number."""
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
    """Value as a fraction, or None when it is not rational by these operations (roots, functions, variables)."""
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
        _bounded(product)
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
        if base == 0 and exponent <= 0:
            raise Undefined
        return base ** (int(exponent) % 2) if base == -1 else base if exponent else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > MAX_EXPONENT or bits * abs(exponent) > MAX_BITS:
        raise TooLarge
    return base ** int(exponent)


def _exact_root(value: Fraction, degree: Fraction) -> Fraction | None:
    """The rational root, real for odd degrees of negative numbers; None when it is not rational."""
    if degree.denominator != 1 or not 2 <= degree <= 64 or (value < 0 and degree % 2 == 0):
        return None
    n = int(degree)
    top, bottom = _integer_root(abs(value.numerator), n), _integer_root(value.denominator, n)
    if top is None or bottom is None:
        return None
    return Fraction(top if value >= 0 else -top, bottom)


def _integer_root(value: int, degree: int) -> int | None:
    """The integer whose ``degree``-th power is ``value``, by bisection; None when there is none."""
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < value else (low, middle)
    return low if low**degree == value else None


def _exact_integer(op: str, args: list[Fraction]) -> Fraction | None:
    """Operations on whole numbers; None for other operations."""
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
    """Numeric values of trees at given points, in complex arithmetic of any precision.

    Holds its own mpmath context, so that precision is no global state.
    """

    def __init__(self) -> None:
        self._context: Any = mpmath.MPContext()
        self.magnitude = 0
        """Largest binary exponent (either sign) or numeral size, in bits, met since it was last set to 0."""

    def value(self, node: Node, point: Mapping[str, Fraction], *, bits: int) -> Any:
        """The value of ``node`` with its variables at ``point``, computed with ``bits`` of precision."""
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
        constants = {"pi": +context.pi, "e": +context.e, "i": context.mpc(0, 1)}
        if name not in constants:
            raise Undefined  # a variable that has no value here
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
            odd = context.isint(args[1]) and int(args[1]) % 2 == 1
            if odd and context.im(base) == 0 and context.re(base) < 0:
                return -context.power(-base, 1 / args[1])
            return context.power(base, 1 / args[1])
        if base == 0:
            if context.re(args[1]) <= 0:
                raise Undefined
            return context.mpf(0)
        if abs(args[1]) > MAX_EXPONENT and abs(abs(base) - 1) > 1e-9:
            raise TooLarge
        if abs(args[1]) * max(1, abs(int(context.mag(base)))) > MAX_BITS:
            raise TooLarge
        return context.power(base, args[1])

    def _extreme(self, op: str, args: list[Any]) -> Any:
        if any(self._context.im(arg) != 0 for arg in args):
            raise Undefined
        return max(args) if op == "max" else min(args)
