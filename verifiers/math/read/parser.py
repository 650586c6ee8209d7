r"""Parses tokens into an expression tree, by recursive descent with a depth limit.

It reads sums, products (also implied), quotients, powers, roots, factorials, binomials, absolute values, floor and
ceiling, the elementary functions, gcd, lcm, max and min, subscripts. Two numerals side by side are not a product.
Formulas beyond these (integrals, sums, limits) raise Unreadable with the command that the parser does not know.
"""

from collections.abc import Callable
from fractions import Fraction

from rlserve.verifiers.math.notation.normalize import vocabulary
from rlserve.verifiers.math.notation.numerals import mixed
from rlserve.verifiers.math.read.cursor import END, Cursor
from rlserve.verifiers.math.read.tokens import Token, tokenize
from rlserve.verifiers.math.tree import DEGREE, Apply, Node, Number, Symbol, Unreadable, negated, symbols

MAX_DEPTH = 250
"""Nested rules. Below Python's recursion limit of 1000, at three frames a rule: a Python limit hit inside of a judge
process would depend on the caller's depth."""
ELEMENTARY = vocabulary(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arcsinh arccosh"
    " arctanh ln log lg exp cis sgn Re Im"
)
SEVERAL = {"gcd": "gcd", "lcm": "lcm", "max": "max", "min": "min"}
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
CONSTANT_COMMANDS = {"pi": "pi", "infty": "infty"}
GREEK = vocabulary(
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi omega"
    " Gamma Delta Theta Lambda Sigma Phi Psi Omega ell"
)
OPENING = {"(": ")", "[": "]", "{": "}"}
COMMAND_OPENING = {"lfloor": ("rfloor", "floor"), "lceil": ("rceil", "ceil")}
DECORATIONS = vocabulary("overline hat tilde dot ddot widetilde")
"""Marks over a letter, which make another variable of it."""
COUNT_FORMS = {
    ("_", "number", "^", "number"): (1, 3, 4),
    ("^", "number", "_", "number"): (1, 3, 4),
    ("_", "{", "number", "}", "^", "{", "number", "}"): (2, 6, 8),
    ("^", "{", "number", "}", "_", "{", "number", "}"): (2, 6, 8),
    ("_", "number", "^", "{", "number", "}"): (1, 4, 6),
    ("_", "{", "number", "}", "^", "number"): (2, 5, 6),
    ("(", "number", ",", "number", ")"): (1, 3, 5),
}
"""Kinds of tokens behind the letter, and the offsets of the two numbers and of the end."""
COUNTS = {"C": "binom", "P": "permutations", "A": "permutations"}


def parse(normal: str) -> Node:
    """Return the tree of one scalar formula, given as normalised text. Raises Unreadable."""
    parser = _Parser(tokenize(normal))
    try:
        node = parser.choice()
    except RecursionError:
        raise Unreadable("nested too deep") from None
    if parser.peek() is not END:
        raise Unreadable(f"{parser.peek().text[:20]!a} where the formula should end", parser.command())
    return node


class _Parser(Cursor):
    """One method a rule of the grammar; each consumes its tokens and returns their tree.

    ``choice`` is the whole formula, then by rising precedence ``expression`` (sums), ``_term`` (signs), ``_product``,
    ``_factor`` (powers), ``_postfix`` (factorials), ``_primary``.
    """

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__(tokens)
        self._depth = 0
        self._bars = 0
        """Open absolute values: inside of one a bar closes it, outside it opens a factor."""

    def _nested(self, rule: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        node = rule()
        self._depth -= 1
        return node

    # Sums and products

    def choice(self) -> Node:
        """Parse an expression, or two of them with ``\\choose`` or ``\\over`` between."""
        node = self._nested(self.expression)
        op = {"choose": "binom", "over": "div"}.get(self.command())
        if op is None:
            return node
        self.index += 1
        return Apply(op, (node, self._nested(self.expression)))

    def expression(self) -> Node:
        terms = [self._nested(self._term)]
        while sign := self.accept("+", "-"):
            term = self._nested(self._term)
            terms.append(negated(term) if sign == "-" else term)
        return terms[0] if len(terms) == 1 else Apply("add", tuple(terms))

    def _term(self) -> Node:
        sign = self.accept("+", "-")
        if sign:
            inner = self._nested(self._term)
            return negated(inner) if sign == "-" else inner
        return self._product(self._factor())

    def _product(self, node: Node, *, in_argument: bool = False) -> Node:
        # In the argument of a function without brackets, "*" and "/" end it: \sin x / 2 is half a sine.
        over, under = [node], list[Node]()
        while True:
            signs_allowed = not in_argument or (not under and self._divides_constant(over))
            if signs_allowed and (op := self.accept("*", "/")):
                (over if op == "*" else under).append(self._nested(self._signed_factor))
            elif self._starts_factor(in_argument=in_argument):
                over.append(self._factor())
            else:
                return _quotient(over, under)

    def _divides_constant(self, factors: list[Node]) -> bool:
        """True in ``\\cos \\pi/4``: a quotient of constants belongs to the argument of the function."""
        return self.peek().kind == "/" and self.peek(1).kind == "number" and not any(map(symbols, factors))

    def _signed_factor(self) -> Node:
        if sign := self.accept("+", "-"):
            inner = self._nested(self._signed_factor)
            return negated(inner) if sign == "-" else inner
        return self._factor()

    def _starts_factor(self, *, in_argument: bool) -> bool:
        """True when the next token starts a factor that is multiplied without a sign.

        A number does not: two numerals side by side (``2 3``) are no product.
        """
        token = self.peek()
        if token.kind == "command":
            is_function = token.text in ELEMENTARY or token.text in SEVERAL
            return token.text not in ("}", "rfloor", "rceil", "rangle", "choose", "over") and not (
                in_argument and is_function
            )
        if token.kind == "|":
            return self._bars == 0
        return token.kind in ("symbol", "(", "[", "{")

    # Powers and what stands behind a primary

    def _factor(self) -> Node:
        base = self._postfix(self._nested(self._primary))
        if self.peek().kind != "^":
            return base
        self.index += 1
        if self.accept_command("circ"):  # "30^\circ" inside of a formula, as in \sin 30^\circ
            return Apply("mul", (base, DEGREE))
        power = Apply("pow", (base, self._nested(self._exponent)))
        return self._postfix(power)

    def _exponent(self) -> Node:
        # A tower binds to the right, also where TeX would want braces: 2^{3}^{2} is 2^9.
        if self.peek().kind == "{":
            exponent = self._group()
            return Apply("pow", (exponent, self._nested(self._exponent))) if self.accept("^") else exponent
        return self._signed_factor()

    def _postfix(self, node: Node) -> Node:
        while self.accept("!"):
            node = Apply("factorial", (node,))
        return node

    def _primary(self) -> Node:
        token = self.peek()
        if token.kind == "number":
            return self._number()
        if token.kind == "symbol":
            return self._symbol()
        if token.kind in OPENING:
            return self._group()
        if token.kind == "|":
            return self._absolute()
        if token.kind == "command":
            return self._command()
        raise Unreadable(f"{token.text[:20]!a} where a value should be")

    def _number(self) -> Node:
        number = self.take("number").number
        assert number is not None
        if self.peek().kind == "number":
            return self._mixed_with_slash(number)
        if self.command() == "frac":
            before = self.index
            fraction = self._command()
            found = mixed(number, _as_fraction(fraction))
            if found is not None:
                return found
            self.index = before  # "2\frac{x}{3}" is a product: leave the fraction to ``_product``
        return number

    def _mixed_with_slash(self, whole: Number) -> Node:
        """Parse ``2 1/2``. Any other two numerals side by side raise Unreadable."""
        top, slash, bottom = self.peek(), self.peek(1), self.peek(2)
        if slash.kind == "/" and bottom.kind == "number" and top.number and bottom.number and bottom.number.value:
            found = mixed(whole, top.number.value / bottom.number.value)
            if found is not None:
                self.index += 3
                return found
        raise Unreadable("two numbers side by side")

    def _symbol(self) -> Node:
        name = self.take("symbol").text
        if name in COUNTS and (count := self._count(COUNTS[name])) is not None:
            return count
        return self._named(name)

    def _named(self, name: str) -> Node:
        if self.accept("_"):
            name += f"_{self._raw()}"
        while self.accept("'"):
            name += "'"
        return Symbol(name)

    def _count(self, op: str) -> Node | None:
        """Parse ``C_5^2``, ``C^2_5`` and ``C(5,2)``; None when the letter is a variable."""
        kinds = [self.peek(ahead).kind for ahead in range(8)]
        places = next((places for form, places in COUNT_FORMS.items() if tuple(kinds[: len(form)]) == form), None)
        if places is None:
            return self._count_of_formulas(op)
        top, bottom = (self.peek(place).number for place in places[:2])
        assert top is not None and bottom is not None
        self.index += places[2]
        # The larger number is the one chosen from: both orders of the scripts are in use.
        return Apply(op, (top, bottom) if top.value >= bottom.value else (bottom, top))

    def _count_of_formulas(self, op: str) -> Node | None:
        """Parse ``C(n, k)``; None without two arguments."""
        before = self.index
        if not self.accept("("):
            return None
        top = self._nested(self.expression)
        if not self.accept(","):
            self.index = before
            return None
        bottom = self._nested(self.expression)
        self.take(")")
        return Apply(op, (top, bottom))

    def _raw(self) -> str:
        """Return the text of a subscript, which is a name and no value."""
        if not self.accept("{"):
            self.index += 1
            return self.peek(-1).text
        start = self.index
        while self.peek().kind not in ("}", "end"):
            self.index += 1
        name = "".join(token.text for token in self.tokens[start : self.index])
        self.take("}")
        return name

    # Groups

    def _group(self) -> Node:
        closing = OPENING[self.take(self.peek().kind).kind]
        bars, self._bars = self._bars, 0  # a bar inside of brackets opens an absolute value of its own: |(|x|)|
        node = self._nested(self.choice)
        self._bars = bars
        self.take(closing)
        return node

    def _absolute(self) -> Node:
        self.take("|")
        self._bars += 1
        node = self._nested(self.expression)
        self._bars -= 1
        self.take("|")
        return Apply("abs", (node,))

    def _argument(self) -> Node:
        """Parse one argument of a command: a group, one digit of a numeral, or one letter or command."""
        token = self.peek()
        if token.kind == "{":
            return self._group()
        if token.kind == "number" and token.text.isdigit():
            return self._digit(token.text)
        return self._nested(self._primary)

    def _digit(self, digits: str) -> Node:
        """Take the first digit of a numeral and leave the rest: ``\\frac12`` is a half."""
        if len(digits) > 1:
            rest = Number(Fraction(int(digits[1:])))
            self.tokens[self.index] = Token("number", digits[1:], rest)
        else:
            self.index += 1
        return Number(Fraction(int(digits[0])))

    # Commands

    def _command(self) -> Node:
        name = self.take("command").text
        if name in CONSTANT_COMMANDS:
            return Symbol(CONSTANT_COMMANDS[name])
        if name in GREEK:
            return self._named(name)
        if name in ELEMENTARY:
            return self._function(name)
        if name in SEVERAL:
            return Apply(SEVERAL[name], self._several())
        if name in ("frac", "binom", "permutations"):
            top = self._argument()
            return Apply("div" if name == "frac" else name, (top, self._argument()))
        if name in DECORATIONS:
            return self._decorated(name)
        if name == "sqrt":
            return self._root()
        if name in COMMAND_OPENING:
            closing, op = COMMAND_OPENING[name]
            node = self._nested(self.expression)
            if not self.accept_command(closing):
                raise Unreadable(f"no \\{closing}")
            return Apply(op, (node,))
        raise Unreadable(f"\\{name} is not read here", name)

    def _decorated(self, name: str) -> Node:
        """Parse a letter, or several in braces, under a mark: one variable."""
        letters = self._raw()
        if not letters.isalpha():
            raise Unreadable(f"\\{name} over no letter", name)
        return self._named(f"{name} {letters}")

    def _root(self) -> Node:
        if not self.accept("["):
            return Apply("sqrt", (self._argument(),))
        degree = self._nested(self.expression)
        self.take("]")
        return Apply("root", (self._argument(), degree))

    def _function(self, name: str) -> Node:
        base = self._argument() if name == "log" and self.accept("_") else None
        exponent = self._nested(self._exponent) if self.accept("^") else None
        if exponent == Number(Fraction(-1)) and name in INVERSE:
            name, exponent = INVERSE[name], None  # \sin^{-1} is the inverse, \sin^2 the square
        argument = self._function_argument()
        node = _cis(argument) if name == "cis" else Apply(OPERATIONS.get(name, name), (argument,))
        if base is not None:
            node = Apply("div", (Apply("ln", (argument,)), Apply("ln", (base,))))
        return node if exponent is None else Apply("pow", (node, exponent))

    def _function_argument(self) -> Node:
        """Parse the argument of a function: a group in brackets, or without brackets the product that follows."""
        if self.peek().kind in OPENING:
            return self._group()
        if self.command() in ELEMENTARY:
            return self._nested(self._command)
        return self._nested(lambda: self._product(self._factor(), in_argument=True))

    def _several(self) -> tuple[Node, ...]:
        opening = self.take(self.peek().kind if self.peek().kind in ("(", "{", "[") else "(").kind
        nodes = [self._nested(self.expression)]
        while self.accept(","):
            nodes.append(self._nested(self.expression))
        self.take(OPENING[opening])
        return tuple(nodes)


OPERATIONS = {"Re": "re", "Im": "im"}


def _cis(angle: Node) -> Node:
    """Return ``cos(angle) + i sin(angle)``."""
    return Apply("add", (Apply("cos", (angle,)), Apply("mul", (Symbol("i"), Apply("sin", (angle,))))))


def _quotient(over: list[Node], under: list[Node]) -> Node:
    """Return a quotient of two flat products: a thousand factors must not become a thousand levels."""
    top = over[0] if len(over) == 1 else Apply("mul", tuple(over))
    if not under:
        return top
    return Apply("div", (top, under[0] if len(under) == 1 else Apply("mul", tuple(under))))


def _as_fraction(node: Node) -> Fraction | None:
    """Return the value of a quotient of two integers as written; None for anything else."""
    if not isinstance(node, Apply) or node.op != "div":
        return None
    top, bottom = node.args
    if not isinstance(top, Number) or not isinstance(bottom, Number) or not bottom.value:
        return None
    both_whole = top.value.denominator == 1 and bottom.value.denominator == 1
    return top.value / bottom.value if both_whole else None
