"""Answers that are refused before anything reads them, and honest ones that are not."""

import time

import pytest

from rlserve.verifiers.math.prefilter import reason_to_refuse, trim

REFUSED = [
    ("x" * 2001, "too long"),
    ("9" * 401, "too many digits"),
    ("(" * 65 + "5" + ")" * 65, "too deep"),
    ("5!!", "repeated factorial"),
    ("5! !", "repeated factorial"),
    ("1," * 200, "too many elements"),
    ("\uff15", "unusual characters"),
    ("\u0665", "unusual characters"),
    ("\u2464", "unusual characters"),
    ("\u2164", "unusual characters"),
    ("5\u202e6", "unusual characters"),
    ("\u2066" + "5", "unusual characters"),
    ("5\x00", "unusual characters"),
    ("\x1b[2J5", "unusual characters"),
    ("\ud800", "unusual characters"),
    ("\\input{/etc/passwd}", "forbidden command"),
    ("\\def\\x{\\x}\\x", "forbidden command"),
    ("\\csname a\\endcsname", "forbidden command"),
    ("\\write18{ls}", "forbidden command"),
    ('__import__("os").system("ls")', "code"),
    ("().__class__", "code"),
    ("lambda: 5", "code"),
    ("eval(5)", "code"),
]
HONEST = [
    "42",
    "\\frac{1}{2}",
    "5\u00b0",
    "\u221a2",
    "\u2212 7",
    "\u03c0/4",
    "x\u00b2",
    "\\left(1,2\\right)",
    "\\{1,2,3\\}",
    "$\\$50$",
    "1,000,000",
    "\\text{Monday}",
    "Z\u00fcrich",
    "5!",
    "x \\ne 3",
    "\\infty",
    "f'(x)",
    "10\u00a0cm",
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=lambda value: ascii(value)[:24])
def test_what_only_hurts_is_refused_with_its_reason(text: str, reason: str) -> None:
    assert reason_to_refuse(text) == reason


@pytest.mark.parametrize("text", HONEST, ids=ascii)
def test_honest_answers_pass(text: str) -> None:
    assert reason_to_refuse(text) is None


def test_trailing_zero_width_characters_are_no_part_of_the_answer() -> None:
    assert trim(" 5\u200b\ufeff\n") == "5"


@pytest.mark.parametrize("character", list("({[9,!\\_ \u0665\u200b&$"), ids=ascii)
def test_100_kb_of_one_character_is_decided_at_once(character: str) -> None:
    text = character * 100_000
    start = time.process_time()
    reason_to_refuse(trim(text))
    assert time.process_time() - start < 0.1
