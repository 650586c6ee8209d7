"""The math verifier: extract the answer, refuse harmful input, compare with the gold answer, give the reason."""

from functools import lru_cache

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.math.compare.equivalence import Equivalence
from rlserve.verifiers.math.compare.quantities import Policy
from rlserve.verifiers.math.compare.scalars import Comparison
from rlserve.verifiers.math.compare.slow import TimeUp, prepare
from rlserve.verifiers.math.extract.extract import find_answer
from rlserve.verifiers.math.notation.normalize import normalize
from rlserve.verifiers.math.payload import decode_payload
from rlserve.verifiers.math.prefilter import MAX_CHARACTERS, reason_to_refuse, trim

SHOWN_CHARACTERS = 200
"""Of an answer in a verdict's reason. Any value of this size will do: a line for a person, kept with each rollout."""


class MathVerifier:
    r"""Reward 1 when the answer equals the gold answer, else 0. Payload: ``{"answer": "42"}``, see ``payload.py``.

    ``percent`` is ``strict`` (50% is 0.5, never 50) or ``lenient`` (either). Verdict parts, all 0 or 1:
    ``correct``, ``answered`` (an answer was found), ``refused`` (by the prefilter), ``timeout``.

    Example::

        verifier = MathVerifier()
        verifier.prepare()                                                    # once a process: imports sympy
        verdict = verifier.verify(r"so \boxed{\frac12}", b'{"answer": "0.5"}', prompt="")
        verdict.reward   # 1.0
        verdict.reason   # expected '0.5', found '\\frac12' (found by: box; decided by: number)
    """

    name = "math"
    version = "1"
    description = "equality of a mathematical answer with the gold answer"
    reward_range = (0.0, 1.0)
    limit_seconds = 4.0
    """Processor time of one completion: ``slow.CPU_SECONDS`` for math-verify, and a margin for our own comparisons."""
    memory_bytes = 256 * 2**20
    """Address space beyond the size at start: sympy can grow without bound on a hostile formula."""
    timeout_is_failure = True
    """An answer that takes longer than the limit is wrong. Without a verdict the task would be tried again, and the
    policy could learn to avoid a 0 by answers that are slow to compare."""

    def __init__(self, *, percent: str = "strict") -> None:
        if percent not in ("strict", "lenient"):
            raise InvalidRequest(f"percent: is {percent!r}; use strict or lenient")
        equivalence = Equivalence(Policy(percent=percent))
        # The trajectories of a group share gold answers, and often an answer; TimeUp is not kept.
        self._compare = lru_cache(maxsize=1024)(equivalence.compare)

    def prepare(self) -> None:
        """Import math-verify and run each form of formula once: this takes a second and must not count as judging."""
        prepare()

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse."""
        for gold in decode_payload(payload).golds:
            _gold_text(gold)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge one completion; raises InvalidRequest for a malformed payload."""
        task = decode_payload(payload)
        golds = [_gold_text(gold) for gold in task.golds]
        found = find_answer(trim(completion), bare=task.bare, prompt=prompt)
        if found is None:
            return _verdict(False, f"expected {_shown(golds[0])}, found no answer", answered=0.0)
        answer = trim(found.text)
        # Before anything parses it. The gold answer is trusted and may be longer, so only its length is checked.
        refusal = reason_to_refuse(answer)
        where = f"expected {_shown(golds[0])}, found {_shown(answer)} (found by: {found.rule}; decided by: "
        if refusal is not None:
            return _verdict(False, f"rejected: {refusal}; {where}prefilter)", refused=1.0)
        try:
            decision = self._decide(golds, answer)
        except TimeUp:
            return _verdict(False, f"timeout: the answer takes too long to compare; {where}time)", timeout=1.0)
        return _verdict(decision.equal, f"{where}{decision.rule})")

    def _decide(self, golds: list[str], answer: str) -> Comparison:
        decision = self._compare(golds[0], answer)
        for gold in golds[1:]:
            if decision.equal:
                break
            decision = self._compare(gold, answer)
        return decision


@lru_cache(maxsize=256)  # the trajectories of a group share their gold answers
def _gold_text(gold: str) -> str:
    """Return the gold answer, which the payload may give as a whole solution (``... #### 18``)."""
    found = find_answer(trim(gold), bare=True)
    text = trim(found.text) if found is not None else ""
    if len(text) > MAX_CHARACTERS or not normalize(text):
        raise InvalidRequest(f"payload.answer: {gold[:40]!a} holds no answer; send the gold answer")
    return text


def _shown(text: str) -> str:
    """Return raw text for people, escaped and cut. Never a parsed formula: printing one can hang in sympy."""
    return ascii(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")


def _verdict(correct: bool, reason: str, **flags: float) -> Verdict:
    parts = {"correct": float(correct), "answered": 1.0, "refused": 0.0, "timeout": 0.0} | flags
    return Verdict(
        outcome=Outcome.PASS if correct else Outcome.FAIL,
        reward=float(correct),
        parts=parts,
        reason=reason,
        verifier=MathVerifier.name,
        passed=int(correct),
        total=1,
    )
