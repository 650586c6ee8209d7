"""Any answer that LaTeX can be bent into is judged, in bounded time, without an error."""

import os
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlserve.verifiers.math.verifier import MathVerifier

EXAMPLES = int(os.environ.get("RLSERVE_FUZZ_EXAMPLES", "150"))
WORDS = r"""
1 2 3 10 0.5 -7 1e5 1,000 50\% \$3 x y \pi e i + - * / ^ _ = < \le \ne , ; : ( ) [ ] \{ \} { } | ! ' \\ &
\frac{1}{2} \frac \sqrt{2} \sqrt[3]{8} \boxed{4} \boxed \left( \right) \text{cm} \cup \cap \infty
\begin{pmatrix} \end{pmatrix} \int_0^1 \sum_{n=1}^{9} \lim \sin \log_2 \binom{4}{2} \overline{3} _2 ^{9^9}
\mathbb{R} \emptyset \pm \approx \circ $ $$ \( \)
"""
ODD = ("\u221e", "\u00bd", "\u00b2", "\u2212", "\U0001f600", "\x00", "\ud800", " ", "\n")
FRAGMENTS = (*WORDS.split(), *ODD)
answers = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join) | st.text(max_size=30)
GOLDS = (
    "4",
    "\\frac{1}{2}",
    "(1,2]",
    "\\{1,2\\}",
    "x=3",
    "10\\text{ cm}",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
    "50\\%",
)
VERIFIER = MathVerifier()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(answers, st.sampled_from(GOLDS), st.booleans())
def test_any_answer_is_judged(answer: str, gold: str, bare: bool) -> None:
    import json

    start = time.monotonic()
    verdict = VERIFIER.verify(answer, json.dumps({"answer": gold, "bare": bare}).encode(), "")
    assert verdict.reward in (0.0, 1.0)
    assert verdict.reason
    assert time.monotonic() - start < 5.0
