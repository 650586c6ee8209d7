r"""Every notation of a value, behind every way to announce an answer."""

import json

import pytest

from rlserve.verifiers.math.verifier import MathVerifier

MATH = MathVerifier()

ANNOUNCEMENTS = [
    "The answer is {}.",
    "The answer is {}",
    "The final answer is: {}",
    "**Answer:** {}",
    "**Answer**: {}",
    "Answer: **{}**",
    "**Final Answer**\n\n{}",
    "### Final Answer\n{}\n",
    "#### {}",
    "#### **{}**",
    "The answer is:\n\n$$\n{}\n$$",
    "The answer is:\n\\[\n{}\n\\]",
    "The answer is:\n- {}",
    "The answer is:\n```\n{}\n```",
    "<answer>{}</answer>",
    "<think>5 or \\boxed{{5}}</think>\n<answer>\n{}\n</answer>",
    "<answer>${}$</answer>",
    "\\boxed{{{}}}",
    "So we get $\\boxed{{{}}}$ after 3 steps.",
    "Thus, the answer is ${}$, since 5 > 3.",
    "Therefore the answer is {} because 5 > 3.",
    "The answer is $${}$$",
    "So the answer is \\({}\\).",
    "The answer to the question is {}.",
    "The correct answer is therefore {}, as 5 is odd.",
    "I write \\boxed{{answer}}. Hence we end with ${}$",
    "We conclude with ${}$.",
    "<think>x</think>${}$",
    "Final answer: `{}`",
    "\\boxed{{7}} is the first step.\n\nFinal answer: {}",
    "The answer is {} (see step 3).",
    "The answer is {}\n\nCheck: 3 + 4 = 7.",
    "\u6700\u7ec8\u7b54\u6848\uff1a{}",
    "\u7b54\u6848\u662f${}$\u3002",
    "\u6240\u4ee5\u7b54\u6848\u4e3a {}\u3002\u51713\u6b65",
    "The answer is: \n\n> {}",
    "## Answer: {}\n\nThere are 3 remarks.",
    "\\text{{Answer: }} {}",
    "*Answer:* {}",
    "Q: what?\nAnswer - see below.\nAnswer: {}",
    "The answer is equal to {}.",
]
NOTATIONS = [
    ("42", "43"),
    ("-7", "7"),
    ("1,234", "234"),
    ("0.5", "5"),
    ("\\frac{1}{2}", "2"),
    ("3/4", "4"),
    ("(1, 2)", "2"),
    ("x^2+1", "1"),
    ("2\\sqrt{3}", "3"),
    ("[0, 1)", "1"),
    ("\\{1, 2, 3\\}", "3"),
    ("3, 5", "5"),
    ("50\\%", "50"),
    ("10\\text{ cm}", "10\\text{ km}"),
    ("\\pi", "3"),
    ("2\\pi", "2"),
    ("\\text{Monday}", "\\text{Tuesday}"),
    ("3 \\times 10^8", "8"),
    ("9{,}500", "500"),
    ("y = 2x + 1", "1"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "2"),
    ("3:4", "4"),
    ("x > 3", "3"),
    ("(-\\infty, 3) \\cup (5, \\infty)", "5"),
    ("3 + 4i", "4"),
    ("0.\\overline{3}", "3"),
    ("90^\\circ", "80^\\circ"),
    ("\\binom{5}{2}", "2"),
    ("C", "D"),
    ("\\log_2 8", "8"),
    ("-\\frac{1}{2}", "\\frac12"),
    ("|x-3|", "3"),
    ("e^{2x}", "2"),
    ("\\emptyset", "0"),
    ("1010_2", "1010"),
    ("\\text{(B)}", "\\text{(C)}"),
]
"""A value as it is written, and what is found in it when it is cut."""


@pytest.mark.parametrize("announcement", ANNOUNCEMENTS)
def test_every_notation_is_found_whole_behind_every_announcement(announcement: str) -> None:
    for written, cut in NOTATIONS:
        completion = announcement.format(written)
        right = MATH.verify(completion, json.dumps({"answer": written}).encode(), "")
        assert right.reward == 1.0, (completion, right.reason)
        wrong = MATH.verify(completion, json.dumps({"answer": cut}).encode(), "")
        assert wrong.reward == 0.0, (completion, wrong.reason)
