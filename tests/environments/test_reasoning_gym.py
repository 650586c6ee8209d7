"""The adapter of reasoning-gym: every data set, pure, judged right, and nothing that a model wrote evaluated."""

import json
from importlib.util import find_spec

import pytest

# Not importorskip: a package that is there and cannot be imported is a broken installation.
if find_spec("reasoning_gym") is None:
    pytest.skip("needs reasoning-gym (pip install 'rlserve[environments]')", allow_module_level=True)

from reasoning_gym.factory import DATASETS

from rlserve.environments.reasoning_gym import NEEDS_PARTS, ReasoningGymEnvironment
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Outcome
from rlserve.verifiers.reasoning_gym.scorers import FORMULA_TASKS, is_formula
from rlserve.verifiers.reasoning_gym.verifier import ReasoningGymVerifier

VERIFIER = ReasoningGymVerifier()
WITHOUT_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Their entries hold no answer that their own scorer takes for right."""
SLOW = {"knight_swap"}
ATTACKS = [
    "__import__('os').system('touch /tmp/rlserve-pwned')",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "().__class__",
    "9**9**9**9",
    "factorial(10**9)",
    "x" * 5000,
    "(" * 500,
    "",
    "\x00",
    "\ud800",
]


@pytest.mark.parametrize("name", sorted(set(DATASETS) - NEEDS_PARTS - SLOW))
def test_every_data_set_gives_pure_tasks_whose_gold_scores_full_marks(name: str) -> None:
    environment = ReasoningGymEnvironment(task=name, prompt_format="text")
    task = environment.task("train", 3, 11)
    assert ReasoningGymEnvironment(task=name, prompt_format="text").task("train", 3, 11) == task
    assert environment.task("test", 3, 11).prompt != task.prompt or name in {"list_functions", "rearc"}
    gold = json.loads(task.payload)["entry"]
    answer = dict(gold["v"])["answer"]
    if name in WITHOUT_GOLD:
        return
    assert isinstance(answer, str)
    assert VERIFIER.verify(answer, task.payload, "").outcome is Outcome.PASS


@pytest.mark.parametrize(
    "name", [*sorted(FORMULA_TASKS), "n_queens", "spiral_matrix", "binary_matrix", "string_insertion"]
)
def test_what_a_model_wrote_is_never_evaluated(name: str) -> None:
    import os

    task = ReasoningGymEnvironment(task=name, prompt_format="text").task("train", 0, 0)
    for attack in ATTACKS:
        assert VERIFIER.verify(attack, task.payload, "").reward < 1.0
    assert not os.path.exists("/tmp/rlserve-pwned")


@pytest.mark.parametrize(
    ("task", "answer", "formula"),
    [
        ("countdown", "(3 + 4) * 5", True),
        ("countdown", "3 + x", False),
        ("countdown", "9**99999", False),
        ("simple_integration", "x**2/2 + 3*exp(x) + C", True),
        ("simple_integration", "-cos(2*x) + C", True),
        ("simple_integration", "plot(x)", False),
        ("simple_integration", "x._sympystr", False),
        ("simple_integration", "x**2**2**2", False),
        ("polynomial_multiplication", "3*x**5 - 2*x*y + 1", True),
        ("polynomial_multiplication", "lambda: 0", False),
    ],
)
def test_only_formulas_go_to_a_parser_that_evaluates(task: str, answer: str, formula: bool) -> None:
    assert is_formula(task, answer) is formula


def test_tags_mark_the_answer_of_a_chat() -> None:
    environment = ReasoningGymEnvironment(task="chain_sum", options={"max_terms": 3})
    task = environment.task("train", 0, 0)
    assert "<answer>" in task.prompt[0].content  # type: ignore[union-attr]
    _, gold = environment.demonstration("train", 0, 0)
    assert VERIFIER.verify(f"so {gold}", task.payload, "").reward == 1.0
    bare = gold.removeprefix("<answer>").removesuffix("</answer>")
    assert VERIFIER.verify(bare, task.payload, "").reward == 0.0


def test_faults_of_the_configuration_are_named() -> None:
    with pytest.raises(InvalidRequest, match=r"reasoning_gym\.task: 'nothing'"):
        ReasoningGymEnvironment(task="nothing")
    with pytest.raises(InvalidRequest, match=r"reasoning_gym\.options"):
        ReasoningGymEnvironment(task="chain_sum", options={"colour": 3})
    with pytest.raises(InvalidRequest, match="name its tasks one by one"):
        ReasoningGymEnvironment(task="composite")
    with pytest.raises(UnknownName, match="split"):
        ReasoningGymEnvironment(task="chain_sum").task("dev", 0, 0)
    with pytest.raises(InvalidRequest, match=r"payload\.entry"):
        VERIFIER.verify("1", b'{"task": "chain_sum", "options": {}, "entry": [1]}', "")
