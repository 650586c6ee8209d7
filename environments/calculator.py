"""The environment ``calculator``: sums with a tool. The policy may call a calculator, and answers in a later turn.

The policy reads ``47+86+19?``, writes ``c47+86=``, reads ``133;``, writes ``c133+19=``, reads ``152;`` and answers
``#152``. It may also answer directly; a small model cannot add such numbers without the tool, so calling it pays, which
reinforcement learning discovers. Demonstrations do either, by a fair coin.

The verifier ``exact`` gives the verdict; it gets the policy's turns, without the calculator's answers.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping
from itertools import count

from rlserve.environments.draws import draw
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Message, Task, Tool, Turn

MARKER = "#"
"""Precedes the answer and ends the episode."""
NOT_A_CALL = "!;"
"""Answer to a text that is neither a call nor an answer; it costs a turn."""
OPERATORS: Mapping[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
MAX_TERMS = 16
"""Any value of this size will do: a problem of more terms exceeds the contexts that small models are trained with."""
MAX_NUMBER = 10**6
"""Any value of this size will do: products of two such numbers still fit the 12 digits of ``CALL``."""
MAX_TURNS = 64
"""Any value of this size will do: ``MAX_TERMS`` terms need 15 calls and an answer."""
CALL = re.compile(r"c(-?[0-9]{1,12})([-+*])([0-9]{1,12})=")
# 5% each: some 500 of the 10,000 sums of two numbers up to 99, enough to measure an accuracy to about two points.
HELD_OUT_PER_MILLE = {"test": range(0, 50), "validation": range(50, 100), "train": range(100, 1000)}
TOOL = Tool(
    name="calculator",
    description="Write c, a number, an operator, a number and =, for example c47+86=, and nothing else in that turn.",
    parameters_json=json.dumps({"type": "object", "properties": {"expression": {"type": "string"}}}),
)


class CalculatorEnvironment:
    """Sums of ``min_terms`` to ``max_terms`` numbers up to ``max_number``, from left to right, with a calculator.

    Example, an episode of the task ``47+86?``::

        episode = CalculatorEnvironment().open(task)
        episode.step("c47+86=").messages[0].content   # "133;"
        episode.step("#133").done                     # True
    """

    name = "calculator"
    version = "1"
    verifier = "exact"
    multi_turn = True

    def __init__(
        self,
        *,
        min_terms: int = 2,
        max_terms: int = 3,
        max_number: int = 99,
        operators: str = "+",
        turns: int = 6,
        turn_end: str = "<eos>",
    ) -> None:
        """``turns`` include the answer; ``turn_end`` is the text of the end token in demonstrations."""
        # So that no right call exceeds the 12 digits of CALL.
        if not 2 <= min_terms <= max_terms <= 16 or not 1 <= max_number < 10**6:
            raise InvalidRequest(
                f"calculator.min_terms, max_terms, max_number: are {min_terms}, {max_terms} and {max_number}; "
                f"give 2 <= min_terms <= max_terms <= {MAX_TERMS} and 1 <= max_number < {MAX_NUMBER:,}"
            )
        # No "*": the left-to-right order in which ``calls`` works is not that of mixed sums and products.
        if not operators or not set(operators) <= set("+-") or not 1 <= turns <= MAX_TURNS:
            raise InvalidRequest(
                f"calculator.operators, turns: are {operators!r} and {turns}; "
                f"give '+', '-' or '+-', and 1 to {MAX_TURNS}"
            )
        self._terms = range(min_terms, max_terms + 1)
        self._max_number = max_number
        self._operators = operators
        self._turns = turns
        self._turn_end = turn_end

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation (5% of all problems) and test (5%); each endless, no problem in two of them."""
        return dict.fromkeys(HELD_OUT_PER_MILLE, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The problem at ``index``. Raises UnknownName for an unknown split."""
        problem = self._problem(split, index, seed)
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=problem,
            verifier=self.verifier,
            # The answer is what the calculator itself gives at the last call, so that both agree by construction.
            payload=json.dumps({"answer": calls(problem)[-1][1], "marker": MARKER}).encode(),
            seed=seed,
            multi_turn=True,
            tools=(TOOL,),
            labels={"terms": str(len(calls(problem)) + 1)},
        )

    def open(self, task: Task) -> "CalculatorEpisode":
        """Start an episode; the calculator is the same for all tasks."""
        return CalculatorEpisode(self._turns)

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """A problem, perhaps with some calls made, and the next turn: by a fair coin the right call or an answer."""
        problem = self._problem(split, index, seed)
        key = f"demonstration/{seed}/{split}/{index}"
        steps = calls(problem)
        answer = MARKER + steps[-1][1]
        # Half of them answer without the tool: reinforcement learning must find the better half.
        if draw(f"{key}/coin", 2):
            return problem, answer
        # A demonstration is one prompt and one completion: each shows a single turn behind a beginning that is made up.
        made = draw(f"{key}/made", len(steps) + 1)
        text = problem + "".join(f"{call}{self._turn_end}{result};" for call, result in steps[:made])
        return text, steps[made][0] if made < len(steps) else answer

    def _problem(self, split: str, index: int, seed: int) -> str:
        if split not in HELD_OUT_PER_MILLE:
            raise UnknownName(f"split: {split!r} is not one of calculator ({', '.join(HELD_OUT_PER_MILLE)})")
        # Draw again until the problem's own hash puts it into this split: 1.1 draws for train, 20 for the others.
        drawn = (self._draw(f"{seed}/{split}/{index}/{attempt}") for attempt in count())
        return next(problem for problem in drawn if split_of(problem) == split)

    def _draw(self, key: str) -> str:
        num_terms = self._terms[draw(f"{key}/terms", len(self._terms))]
        text = str(draw(f"{key}/0", self._max_number + 1))
        for term in range(1, num_terms):
            text += self._operators[draw(f"{key}/operator/{term}", len(self._operators))]
            text += str(draw(f"{key}/{term}", self._max_number + 1))
        return text + "?"


class CalculatorEpisode:
    """Answers calls until the policy answers or uses up its turns."""

    def __init__(self, turns: int) -> None:
        self._left = turns

    def step(self, text: str) -> Turn:
        """Return the result of a call, or the end of the episode for an answer."""
        self._left -= 1
        # The marker anywhere in the text, as the verifier looks for it: an answer cannot be hidden behind a call.
        if MARKER in text or not self._left:
            return Turn(done=True)
        return Turn(messages=(Message(role="tool", content=calculated(text.strip())),))


def calculated(text: str) -> str:
    """``"133;"`` for ``"c47+86="``; ``"!;"`` for a text that is not a call."""
    call = CALL.fullmatch(text)
    if call is None:
        return NOT_A_CALL
    left, sign, right = call.groups()
    return f"{OPERATORS[sign](int(left), int(right))};"


def calls(problem: str) -> list[tuple[str, str]]:
    """The calls that solve a problem, with their results: ``("c1+2=", "3"), ("c3-3=", "0")`` for ``"1+2-3?"``."""
    # A term keeps its sign: the sign is the operator of its call.
    first, *rest = re.findall(r"[-+]?[0-9]+", problem)
    running, steps = first, []
    for term in rest:
        call = f"c{running}{term}="
        running = calculated(call).removesuffix(";")
        steps.append((call, running))
    return steps


def split_of(problem: str) -> str:
    """The split of a problem, by a hash of its text and independent of the seed."""
    bucket = draw(f"split/{problem}", 1000)
    return next(split for split, buckets in HELD_OUT_PER_MILLE.items() if bucket in buckets)
