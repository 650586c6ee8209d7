"""Which answers are equal: a table by kind, in both directions of the truth."""

import pytest

from rlserve.verifiers.math.equivalence import Equivalence
from rlserve.verifiers.math.quantities import Policy

EQUAL = [
    ("x=1,y=2", "y=2, x=1"),
    ("x=1,y=2", "(1,2)"),
    ("\\{1,2\\}", "x_1=2, x_2=1"),
    ("42", "42"),
    ("1/2", "0.5"),
    ("\\frac12", "\\dfrac{1}{2}"),
    ("0.5", ".5"),
    ("1{,}000", "1000"),
    ("1,000,000", "1000000"),
    ("1000", "1\\,000"),
    ("50\\%", "0.5"),
    ("50\\%", "\\frac{1}{2}"),
    ("50\\%", "50 percent"),
    ("\\$50", "50"),
    ("50", "\\$50"),
    ("10\\text{ km}", "10000\\text{ m}"),
    ("10\\text{ km}", "10"),
    ("90^\\circ", "90"),
    ("90^\\circ", "\\frac{\\pi}{2}"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("\\{1,2\\}", "\\{1,1,2\\}"),
    ("\\emptyset", "\\varnothing"),
    ("\\emptyset", "\\{\\}"),
    ("(1,2)", "(1, 2)"),
    ("(1,2)", "1,2"),
    ("(1,2)", "\\left(1,2\\right)"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("x=5", "x = 5"),
    ("y=2x+1", "2x+1"),
    ("x>3", "3<x"),
    ("x>3", "(3,\\infty)"),
    ("x\\ge 3", "[3,\\infty)"),
    ("(-\\infty,1)\\cup(2,\\infty)", "x<1 \\text{ or } x>2"),
    ("x \\neq 3", "(-\\infty,3)\\cup(3,\\infty)"),
    ("\\mathbb{R}", "(-\\infty,\\infty)"),
    ("\\mathbb{R}\\setminus\\{3\\}", "x\\ne 3"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1,2)"),
    ("0.\\overline{3}", "1/3"),
    ("\\frac13", "0.\\overline{3}"),
    ("0.\\overline{142857}", "\\frac17"),
    ("1/3", "0.333..."),
    ("5", "5."),
    ("5", "5.0"),
    ("i", "\\sqrt{-1}"),
    ("e^{i\\pi}", "-1"),
    ("10", "C_5^2"),
    ("\\pm 2", "2,-2"),
    ("\\pm 2", "x=2 or x=-2"),
    ("x=\\pm2", "\\{-2,2\\}"),
    ("1,2", "x=1 \\text{ and } x=2"),
    ("3\\sqrt{2}", "\\sqrt{18}"),
    ("\\frac{1}{\\sqrt2}", "\\frac{\\sqrt2}{2}"),
    ("A", "(A)"),
    ("A", "\\text{A}"),
    ("A", "\\textbf{(A)}"),
    ("A", "A."),
    ("\\text{Monday}", "monday"),
    ("yes", "Yes"),
    ("12", "12.00"),
    ("2^{-3}", "1/8"),
    ("\\frac{-1}{2}", "-\\frac{1}{2}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("\\ln 2", "\\log 2"),
    ("\\infty", "+\\infty"),
    ("-\\infty", "-\\infty"),
    ("3+4i", "4i+3"),
    ("\\sqrt[3]{8}", "2"),
    ("|{-5}|", "5"),
    ("\\lfloor 3.7\\rfloor", "3"),
    ("\\binom{10}{3}", "120"),
    ("10!/8!", "90"),
    ("5", "$5$"),
    ("5", "\\(5\\)"),
    ("5", "\\text{5}"),
    ("1.5\\times10^8", "150000000"),
    ("3.2e-5", "0.000032"),
    ("1e6", "10^{6}"),
    ("\\frac{3}{4}", "75\\%"),
    ("(x-1)(x+2)", "x^2+x-2"),
    ("x^2-1=0", "x^2=1"),
    ("2x+3y=6", "y=2-\\frac{2}{3}x"),
    ("60\\text{ mph}", "60\\text{ miles per hour}"),
    ("5\\text{ m/s}", "5\\text{ m s}^{-1}"),
    ("1\\text{ hour}", "60\\text{ minutes}"),
    ("1000\\text{ g}", "1\\text{ kg}"),
    ("(1,2),(3,4)", "(3,4),(1,2)"),
    ("[1,2]\\cup[3,4]", "[3,4]\\cup[1,2]"),
    ("(0,1)\\cup(1,2)", "(1,2)\\cup(0,1)"),
    ("2:3", "4:6"),
    ("11_2", "11_{2}"),
    ("1A_{16}", "1a_{16}"),
    ("\\frac{x+1}{2}", "0.5x+0.5"),
    ("7", "7 apples"),
    ("10\\text{ cm}^2", "10\\text{ square centimeters}"),
    ("\\text{May 5}", "May 5"),
    ("12:30", "12:30"),
    ("x_1=1,x_2=2", "x_1=1, x_2=2"),
    ("1 \\frac{1}{2}", "1.5"),
    ("-1\\frac12", "-1.5"),
    ("\\tan 45^\\circ", "1"),
    ("y = \\frac{1}{2}x", "y=x/2"),
    ("(-1,3)", "(-1,3)"),
    ("x\\in[1,2]", "1\\le x\\le2"),
    ("f(x)=x^2", "x^2"),
    ("6\\cdot 10^{23}", "6\\times10^{23}"),
    ("1.0", "1"),
    ("100\\%", "1"),
    ("\\frac{7}{2}", "3.5"),
    ("3.50", "\\$3.50"),
    ("10^{400}", "10^{400}"),
    ("1/0", "1/0"),
    ("\\begin{cases}x=1\\\\y=2\\end{cases}", "(1,2)"),
]
DIFFERENT = [
    ("x=1,y=2", "\\{1,2\\}"),
    ("x=1,y=2", "2,1"),
    ("x=1,y=2", "x=2,y=1"),
    ("x=1,y=2", "(2,1)"),
    ("2x=10", "y=5"),
    ("10\\text{ km}", "10\\text{ mm}"),
    ("1010_2", "1010"),
    ("1010_2", "1010_3"),
    ("0.\\overline{3}", "0"),
    ("0.\\overline{3}", "0.3"),
    ("\\$50", "50\\%"),
    ("(1,2)", "\\{1,2\\}"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "2,1"),
    ("(1,2)", "[1,2]"),
    ("x=5", "x=y=5"),
    ("5", "x=y=5"),
    ("5", "5=6"),
    ("5", "5 \\ne 6"),
    ("x=5", "6=5"),
    ("\\sin x", "\\sin x+10^{-30}"),
    ("x", "\\sqrt{x^2}"),
    ("42", "41 or 42"),
    ("42", "41 and 42"),
    ("42", "42, 43"),
    ("42", "4 2"),
    ("42", "42 42"),
    ("5", "5 or 6"),
    ("5", "\\text{five}"),
    ("5", "V"),
    ("52", "5\xb2"),
    ("5", "5%"),
    ("5", "5\\%"),
    ("0.5", "50"),
    ("x>3", "x>=3"),
    ("[0,1]", "[0,1)"),
    ("(0,1)", "[0,1]"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}"),
    ("\\{1,2\\}", "(1,2)"),
    ("\\{1,2\\}", "[1,2]"),
    ("1,2,3", "1,2"),
    ("1,2", "1,2,3"),
    ("2:3", "3:2"),
    ("2\\frac12", "1"),
    ("1,000", "1"),
    ("1,000", "1.000"),
    ("3.14", "3,14"),
    ("\\pi", "3.14"),
    ("\\pi", "22/7"),
    ("\\pi", "3.1416"),
    ("\\sqrt2", "1.4142"),
    ("1/3", "0.3333"),
    ("1/3", "0.3"),
    ("10\\text{ cm}", "10\\text{ cm}^2"),
    ("10\\text{ kg}", "10\\text{ m}"),
    ("10\\text{ apples}", "10\\text{ oranges}"),
    ("5", "y=6"),
    ("x=5", "y=5"),
    ("y=2x+1", "y=2x-1"),
    ("y=2x+1", "2x+1=0"),
    ("5", "5=x=y"),
    ("5", "\\infty-\\infty"),
    ("0", "\\infty\\cdot 0"),
    ("\\infty", "-\\infty"),
    ("\\infty", "1/0"),
    ("0", "0^0"),
    ("1", "0^0"),
    ("5", "((((5"),
    ("5", "5)))))"),
    ("5", "{5"),
    ("5", "2^{2^{2^{2^{2^{2}}}}}"),
    ("5", "100000!"),
    ("5", "(10^{9})!"),
    ("5", "\\binom{10^9}{10^8}"),
    ("5", "\\binom{1000000}{500000}"),
    ("5", "10^{10^9}"),
    ("1", "1^{10^{10^{10}}}x"),
    ("5", "\\begin{pmatrix}5\\end{pmatrix}"),
    ("5", "True"),
    ("1", "True"),
    ("5", "5|6"),
    ("5", "5 \\mid 6"),
    ("5", "5\\cup 6"),
    ("1", "\\sin^2 x"),
    ("\\frac{x^3}{3}", "\\frac{x^3}{3}+C"),
    ("ab", "a+b"),
    ("no", "on"),
    ("Monday", "Tuesday"),
    ("A", "a"),
    ("A", "B"),
    ("A", "A, B"),
    ("A", "A or B"),
    ("2", "\\pm 2"),
    ("2,-2", "2"),
    ("x<1 \\text{ or } x>2", "x<1 \\text{ and } x>2"),
    ("(1,2)", "1<x<=2"),
    ("50", "50\\%"),
    ("\\$50", "\\text{50 cents}"),
    ("20^\\circ\\text{C}", "20^\\circ\\text{F}"),
    ("1/2", "1\\2"),
    ("3", "3i"),
    ("i", "1"),
    ("-i", "i"),
    ("e", "2.718"),
    ("e", "2.71828"),
    ("1000", "1e2"),
    ("3.2\\times10^{-5}", "3.2\\times10^{5}"),
    ("123", "1,2,3"),
    ("123", "1 2 3"),
    ("12", "1\u20442"),
    ("5", "\\text{}"),
    ("5", "   "),
    ("5", "."),
    ("5", "-"),
    ("5", "="),
    ("5", "\\"),
    ("5", "{}"),
    ("5", "()"),
    ("5", "\\frac{}{}"),
    ("5", "^"),
    ("5", "5_2"),
]
ASYMMETRIC = [("x=5", "5"), ("5", "x=5"), ("y=2x+1", "2x+1"), ("10", "10\\text{ cm}"), ("10\\text{ cm}", "10")]


@pytest.fixture(scope="module")
def equivalence() -> Equivalence:
    return Equivalence()


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_the_same_answer_in_another_spelling_is_equal(equivalence: Equivalence, gold: str, answer: str) -> None:
    assert equivalence.compare(gold, answer).equal


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_another_answer_or_another_kind_of_answer_is_different(
    equivalence: Equivalence, gold: str, answer: str
) -> None:
    assert not equivalence.compare(gold, answer).equal


@pytest.mark.parametrize("gold", [gold for gold, _ in EQUAL])
def test_every_gold_answer_equals_itself(equivalence: Equivalence, gold: str) -> None:
    assert equivalence.compare(gold, gold).equal


@pytest.mark.parametrize(("gold", "answer"), ASYMMETRIC)
def test_a_name_or_a_unit_may_be_added_or_left_out(equivalence: Equivalence, gold: str, answer: str) -> None:
    assert equivalence.compare(gold, answer).equal


def test_percent_is_strict_unless_the_task_set_says_otherwise(equivalence: Equivalence) -> None:
    lenient = Equivalence(Policy(percent="lenient"))
    for gold, answer in (("50\\%", "50"), ("50", "50\\%")):
        assert not equivalence.compare(gold, answer).equal
        assert lenient.compare(gold, answer).equal
    assert lenient.compare("50\\%", "0.5").equal
    assert not lenient.compare("50\\%", "\\$50").equal


@pytest.mark.parametrize(
    ("gold", "answer", "rule"),
    [
        ("42", "42.", "same text"),
        ("42", "84/2", "number"),
        ("2x", "x+x", "values at points"),
        ("10\\text{ cm}", "10\\text{ kg}", "another unit"),
        ("5", "9^{9^{9}}", "too large to compute"),
        ("5", "\\{5,6\\}", "another number of answers"),
        ("(1,2)", "\\{1,2\\}", "other brackets"),
        ("1010_2", "1010", "another base"),
        ("0", "\\frac{0}{0}", "undefined"),
    ],
)
def test_the_rule_that_decided_is_named(equivalence: Equivalence, gold: str, answer: str, rule: str) -> None:
    assert equivalence.compare(gold, answer).rule == rule


def test_an_error_far_below_any_tolerance_is_still_an_error(equivalence: Equivalence) -> None:
    for error in ("10^{-30}", "10^{-80}", "10^{-900}"):
        assert not equivalence.compare("\\sin x", f"\\sin x + {error}").equal
        assert not equivalence.compare("\\sqrt{2}", f"\\sqrt{{2}} + {error}").equal
