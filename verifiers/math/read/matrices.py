r"""Reads matrices: the environments of LaTeX, their determinants, and sums of multiples of them.

It reads ``\begin{pmatrix}1\\2\end{pmatrix}``, an array or small matrix in brackets, ``(1, 2)^T``, a factor in
front (``\frac12 (1, 2)^T``), and a point plus a multiple of a direction.
"""

import re
from collections.abc import Callable, Sequence

from rlserve.verifiers.math.notation.split import closing_index, split_top
from rlserve.verifiers.math.read.parser import parse
from rlserve.verifiers.math.read.shapes import Group, Matrix, Scalar, Shape
from rlserve.verifiers.math.tree import Apply, Node, Number, Unreadable, negated

Inner = Callable[[str], Shape]
# The body up to the first \end of the same name, without another \begin in it: linear, and a nested matrix is refused.
BODY = r"(?:\{[lcr| ]*\})?((?:(?!\\begin ?\{).)*?)\\end ?\{\1\}"
ENVIRONMENT = re.compile(r"\\begin ?\{([bpvBV]?matrix|smallmatrix|array|cases|aligned)\*?\} ?" + BODY, re.DOTALL)
TRANSPOSED = re.compile(
    r" ?\^ ?(?:\{ ?(?:T|\\top ?|\\text\{T\}|\\intercal ?) ?\}|T(?![A-Za-z])|\\top ?|\\intercal ?|\\text\{T\})"
)
ELSE = re.compile(
    r"[=<>,;]|\\(?:in|leq|geq|neq|approx|vee|wedge|cup|pm|mp) |\\text\{|(?<![A-Za-z])(?:or|and)(?![A-Za-z])"
)
"""Signs of a relation or a list, which other steps of the reader take apart first."""
HOLE = "\x01"
"""Stands for a matrix that was read; no answer contains it, since the prefilter refuses control characters."""
MAX_TERMS = 8
"""Terms of a sum of matrices. Any value of this size will do: a line in space has two."""
MAX_CELLS = 64
"""Of a matrix that is multiplied, since each cell becomes a product. Any value of this size will do: 8 by 8."""


def read_matrix(text: str, inner: Inner) -> Shape | None:
    """Return the matrix, determinant or system of equations that ``text`` writes; None when it contains none.

    Raises Unreadable for one with a wrong structure, such as rows of different length.
    """
    if "\\begin" not in text and not TRANSPOSED.search(text):
        return None
    whole = ENVIRONMENT.fullmatch(text)
    if whole is not None and whole.group(1) in ("cases", "aligned"):
        rows = [row for row in whole.group(2).split("\\cr ") if row.strip()]
        return Group("", "", tuple(inner(row.replace("&", " ").strip().rstrip(",.;")) for row in rows))
    if whole is not None and whole.group(1) in ("vmatrix", "Vmatrix"):
        return _determinant_of(whole.group(2), inner, text)
    if text.startswith("|") and text.endswith("|") and (barred := ENVIRONMENT.fullmatch(text[1:-1].strip())):
        return _determinant_of(barred.group(2), inner, text)
    return _combination(text, inner)


def _determinant_of(body: str, inner: Inner, text: str) -> Scalar:
    return Scalar(_determinant([[_node(cell) for cell in row] for row in _rows(body, inner)]), None, text)


def _rows(body: str, inner: Inner) -> tuple[tuple[Shape, ...], ...]:
    body = re.sub(r"\\hline ?", "", body).strip().removesuffix("\\cr").strip()
    rows = tuple(tuple(inner(cell) for cell in row.split("&")) for row in body.split("\\cr "))
    if len({len(row) for row in rows}) != 1:
        raise Unreadable("rows of different length")
    return rows


def _node(cell: Shape) -> Node:
    if not isinstance(cell, Scalar) or cell.unit is not None:
        raise Unreadable("an entry that is no formula")
    return cell.node


def _determinant(rows: Sequence[Sequence[Node]]) -> Node:
    """Expand a determinant along its first row."""
    # 4 rows: 24 products. The number of products is the factorial of the size.
    if len(rows) != len(rows[0]) or len(rows) > 4:
        raise Unreadable("a determinant that is not square or has more than 4 rows")
    if len(rows) == 1:
        return rows[0][0]
    terms: list[Node] = []
    for column, entry in enumerate(rows[0]):
        minor = _determinant([[*row[:column], *row[column + 1 :]] for row in rows[1:]])
        term = Apply("mul", (entry, minor))
        terms.append(negated(term) if column % 2 else term)
    return Apply("add", tuple(terms))


def _combination(text: str, inner: Inner) -> Matrix | None:
    """Read a sum of multiples of matrices; None when ``text`` contains no matrix."""
    matrices: list[Matrix] = []
    skeleton = _with_holes(text, inner, matrices)
    if not matrices:
        return None
    if len(split_top(skeleton, ELSE)) > 1:
        return None
    signs: list[str] = []
    terms = split_top(skeleton, re.compile(r"(?<=[^\s(*/^+-])\s*[-+]"), signs)
    if len(terms) > MAX_TERMS or any(term.count(HOLE) != 1 for term in terms):
        raise Unreadable("a formula of matrices that is no sum of multiples")
    if len(terms) == 1 and terms[0].strip() == HOLE:
        return matrices[0]
    total: list[list[Node]] | None = None
    for term, sign, matrix in zip(terms, ["+", *(sign.strip() for sign in signs)], matrices, strict=True):
        cells = _multiplied(term, sign, matrix)
        if total is not None and [len(row) for row in total] != [len(row) for row in cells]:
            raise Unreadable("a sum of matrices of different size")
        total = cells if total is None else [
            [Apply("add", pair) for pair in zip(mine, theirs, strict=True)]
            for mine, theirs in zip(total, cells, strict=True)
        ]  # fmt: skip
    assert total is not None
    return Matrix(tuple(tuple(Scalar(cell) for cell in row) for row in total))


def _with_holes(text: str, inner: Inner, matrices: list[Matrix]) -> str:
    """Append each matrix and each transposed row of ``text`` to ``matrices``, and return it with holes instead."""

    def environment(match: re.Match[str]) -> str:
        if match.group(1) in ("vmatrix", "Vmatrix", "cases", "aligned"):
            raise Unreadable("a determinant inside a formula")
        matrices.append(Matrix(_rows(match.group(2), inner)))
        return HOLE

    text = ENVIRONMENT.sub(environment, text)
    text = re.sub(rf"[(\[] ?{HOLE} ?[)\]]", HOLE, text)
    if "\\begin" in text or "\\end" in text:
        raise Unreadable("a matrix inside a matrix")
    # The environments were found first, the rows are found now: collect both again in the order of the text.
    order = list(matrices)
    matrices.clear()
    pieces: list[str] = []
    index = 0
    while index < len(text):
        found = _row_at(text, index, inner)
        if text[index] == HOLE:
            end, matrix = index + 1, order.pop(0)
        elif found is not None:
            end, matrix = found
        else:
            pieces.append(text[index])
            index += 1
            continue
        transposed = TRANSPOSED.match(text, end)
        if transposed is not None:
            end = transposed.end()
            matrix = Matrix(tuple(zip(*matrix.rows, strict=True)))
        matrices.append(matrix)
        pieces.append(HOLE)
        index = end
    return "".join(pieces)


def _row_at(text: str, index: int, inner: Inner) -> tuple[int, Matrix] | None:
    """Return end and row of a tuple ``(1, 2)`` at ``index`` with a transposition behind it; None without one."""
    if text[index] not in "([" or not re.match(r"[(\[][^()\[\]]*,", text[index:]):
        return None
    end = closing_index(text, index)
    if end is None or not TRANSPOSED.match(text, end + 1):
        return None
    parts = split_top(text[index + 1 : end], re.compile(","))
    return end + 1, Matrix((tuple(inner(part) for part in parts),))


def _multiplied(term: str, sign: str, matrix: Matrix) -> list[list[Node]]:
    before, _, behind = term.partition(HOLE)
    before, behind = before.strip().removesuffix("*").strip(), behind.strip()
    if len(matrix.rows) * len(matrix.rows[0]) > MAX_CELLS:
        raise Unreadable("a matrix too large to multiply")
    if behind and not behind.startswith("/"):
        raise Unreadable("something behind a matrix")
    factor = parse({"": "1", "-": "-1", "+": "1"}.get(before, before))
    if behind:
        factor = Apply("div", (factor, parse(behind[1:])))
    if sign == "-":
        factor = negated(factor)
    if factor == Number(parse("1").value):  # type: ignore[union-attr]
        return [[_node(cell) for cell in row] for row in matrix.rows]
    return [[Apply("mul", (factor, _node(cell))) for cell in row] for row in matrix.rows]
