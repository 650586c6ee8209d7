"""Which answer of a completion counts."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.verifiers.math.extract.extract import Extracted, find_answer
from rlserve.verifiers.math.extract.markup import without_markup
from rlserve.verifiers.reasoning import answer_of

FOUND = [
    ("so it is \\boxed{42}", "42", "box"),
    ("**42**", "42", "whole"),
    ("\\boxed{41}? No: \\boxed{42}.", "42", "box"),
    ("\\boxed{\\frac{1}{2}} of them", "\\frac{1}{2}", "box"),
    ("\\boxed{\\{1,2\\}}", "\\{1,2\\}", "box"),
    ("\\fbox{7}", "7", "box"),
    ("\\boxed 7", "7", "box"),
    ("\\boxed{7}. The final answer is 42.", "7", "box"),
    ("\\boxed{42} and $x=43$", "42", "box"),
    ("\\boxed{7} \\boxed{42}", "7, 42", "box"),
    ("\\boxed{7} or \\boxed{42}", "7, 42", "box"),
    ("\\boxed{42}, \\boxed{42}", "42", "box"),
    ("\\boxed{42} then, cut off, \\boxed{43", "42", "box"),
    ("The answer is 42.", "42", "phrase"),
    ("The answer is 41. Wait, the answer is 42.", "42", "phrase"),
    ("Answer: $\\frac{1}{2}$\nBecause 3 = 3.", "$\\frac{1}{2}$", "phrase"),
    ("**Final answer:** 1,234", "1,234", "phrase"),
    ("The answer is therefore 42, not 43.", "42", "phrase"),
    ("16 - 3 = 13\n#### 18", "18", "marker"),
    ("#### 18\n#### $19", "$19", "marker"),
    ("\\frac{1}{2}", "\\frac{1}{2}", "whole"),
    ("41, 42", "41, 42", "whole"),
    ("2sqrt(3)", "2sqrt(3)", "whole"),
    ("Monday", "Monday", "whole"),
    ("We get $x+1$ in the end.", "x+1", "last"),
    ("We get 3 and 4, hence 12 apples.", "12", "last"),
    ("It costs $18 and sells for $20.", "$20", "last"),
    ("That leaves -3 of them", "-3", "last"),
    ("Then 5-3 is what is left", "3", "last"),
]


@pytest.mark.parametrize(("text", "answer", "rule"), FOUND)
def test_the_answer_that_counts_is_found_by_one_order_of_rules(text: str, answer: str, rule: str) -> None:
    assert find_answer(text) == Extracted(answer, rule)


@pytest.mark.parametrize("text", ["", "   ", "I do not know what this is about"])
def test_a_text_without_an_answer_has_none(text: str) -> None:
    assert find_answer(text) is None


def test_a_bare_answer_counts_as_a_whole_but_a_box_in_it_still_goes_first() -> None:
    assert find_answer("6 (not 5, it is not the case)", bare=True) == Extracted(
        "6 (not 5, it is not the case)", "whole"
    )
    assert find_answer("it is \\boxed{5}", bare=True) == Extracted("5", "box")


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 15_000,
        "\\boxed{1}" * 12_000,
        "{" * 100_000,
        "answer is " * 10_000,
        "answer" + " " * 100_000,
        "answer is" + " *" * 50_000,
        "#" * 100_000,
        "$" * 100_000,
        "1 " * 50_000,
        "1," * 50_000,
        "9" * 100_000,
        "$1" * 50_000,
        "\\(" * 50_000,
        "a" * 100_000,
        "\\text{" * 16_000,
        "the answer to " * 7_000,
        "The answer is x" + " " * 100_000 + "y",
        "The answer is " + "1 and " * 16_000,
        "answer: " + "- " * 50_000,
        "answer:\n" + "- 1\n" * 25_000,
        "#### " * 20_000,
        "#### 1\n" * 14_000,
        "<answer>" * 12_000,
        "</answer>" * 11_000,
        "<answer></answer>" * 6_000,
        "\\boxed{}" * 12_000,
        "\\boxed{answer}" * 7_000,
        "\\boxed{x is 1} " * 6_000,
        "<think>" * 14_000,
        "\u7b54\u6848\uff1a" * 30_000,
        "(" * 50_000 + ")" * 50_000,
        "x^" * 50_000,
        "1+" * 50_000,
        "is the answer 1, " * 6_000,
        "the roots are:\n" * 6_600,
        "-" * 100_000 + "x",
        "<b>" * 30_000 + "</b>",
        "<|" + "a" * 100_000,
        '"answer": "' * 9_000,
        "choose A" + "*" * 100_000,
        "3 hours 2 minutes " * 5_500,
        "The answer is " + "(1) (2) " * 12_000,
        "\\begin{align}a" * 3_700 + "\\end{align}" * 4_000,
        "\\begin{align}" + "x &= 1 \\\\ " * 9_000 + "\\end{align}",
    ],
    ids=lambda text: text[:12],
)
def test_a_hostile_text_of_100_kb_is_searched_in_linear_time(text: str) -> None:
    start = time.process_time()
    find_answer(text)
    find_answer(text, bare=True)
    assert time.process_time() - start < 3.0  # a tenth of a second; quadratic would be minutes, a collection a part


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec=None), max_size=300), st.booleans())
def test_extraction_never_raises_and_finds_only_what_is_there(text: str, bare: bool) -> None:
    found = find_answer(text, bare=bare)
    if found is not None and found.rule != "box":
        read = without_markup(answer_of(text))  # an emoji between two numbers is a space
        assert all(part in read for part in (found.text.split(", ") if found.rule == "last" else [found.text]))
