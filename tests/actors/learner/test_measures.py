"""What an evaluation measures: against brute force, scipy, and by hand."""

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlserve.actors.learner.measure.best import BestCheckpoint
from rlserve.actors.learner.measure.estimators import answer_of, bootstrap, maj_at_k, pass_at_k, wilson
from rlserve.actors.learner.measure.evaluation import (
    Evaluation,
    evaluation_leases,
    measure,
    parts_of,
    sample_rows,
    score,
)
from rlserve.batching.summary import summarize
from rlserve.config.load import load_run
from rlserve.config.run import RunConfig
from rlserve.config.tables.evaluate import EvaluateConfig
from rlserve.observability.outcome import measure_lines
from rlserve.records import RolloutGroup, Verdict
from rlserve.records.verdict import outcome_of
from rlserve.store.sqlite import SqliteStore
from tests.support.groups import group

QUICK = Path(__file__).parents[3] / "configs" / "quickstart.toml"


@st.composite
def samples_and_k(draw: st.DrawFn) -> tuple[list[int], int]:
    """Answers of up to 8 samples, of which 0 is right, and k."""
    answers = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    return answers, draw(st.integers(1, len(answers)))


@given(samples_and_k())
def test_pass_at_k_is_the_mean_over_all_draws(drawn: tuple[list[int], int]) -> None:
    answers, k = drawn
    brute = [float(0 in draw) for draw in itertools.combinations(answers, k)]
    assert pass_at_k(len(answers), answers.count(0), k) == pytest.approx(np.mean(brute))


@given(samples_and_k())
def test_maj_at_k_is_the_mean_over_all_draws_and_ties_are_decided_by_chance(drawn: tuple[list[int], int]) -> None:
    answers, k = drawn
    brute = []
    for draw in itertools.combinations(answers, k):
        votes = Counter(draw)
        first = [answer for answer, count in votes.items() if count == max(votes.values())]
        brute.append(first.count(0) / len(first))
    wrong = list(Counter(answer for answer in answers if answer).values())
    assert maj_at_k(answers.count(0), wrong, k) == pytest.approx(np.mean(brute))


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (3, 7), (61, 200), (1, 1)])
def test_wilsons_ends_are_where_the_score_test_just_does_not_reject(right: int, n: int) -> None:
    z = NormalDist().inv_cdf(0.975)

    def rejects(p: float) -> bool:
        return abs(right / n - p) > z * math.sqrt(p * (1 - p) / n)

    low, high = wilson(right, n)
    assert low == 0.0 if right == 0 else rejects(low - 1e-7) and not rejects(low + 1e-7)
    assert high == 1.0 if right == n else rejects(high + 1e-7) and not rejects(high - 1e-7)


def test_the_bootstrap_draws_problems() -> None:
    """Against a loop that draws them one by one."""
    draws = random.Random(5)
    problems = [(draws.randint(0, size), size) for size in (draws.randint(1, 8) for _ in range(100))]
    ratios = []
    for _ in range(3000):
        drawn = draws.choices(problems, k=len(problems))
        ratios.append(sum(right for right, _ in drawn) / sum(size for _, size in drawn))
    ratios.sort()
    low, high = ratios[75], ratios[-76]
    found = bootstrap(*np.array(problems, dtype=float).T)
    assert found == pytest.approx((low, high), abs=0.1 * (high - low))


def test_an_interval_over_problems_is_wider_than_one_over_samples() -> None:
    """Eight samples of one problem agree: 40 problems are 40 draws, and not 320."""
    sizes = np.full(40, 8.0)
    right = np.where(np.arange(40) < 20, 8.0, 0.0)
    low, high = bootstrap(right, sizes)
    samples_low, samples_high = wilson(160, 320)
    assert high - low > 2 * (samples_high - samples_low)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("so \\boxed{12} and \\boxed{ \\frac{1}{2} }.", "\\frac{1}{2}"),
        ("3+8=11\n#### 11", "11"),
        ("3+8=11;#1", "1"),
        ("thinking\n\nThe answer is B.\n ", "The answer is B."),
        ("", ""),
    ],
)
def test_the_answer_of_a_completion(completion: str, answer: str) -> None:
    assert answer_of(completion) == answer


def answered(index: int, *samples: tuple[str, float | None]) -> RolloutGroup:
    made = group(tuple(reward for _, reward in samples), index=index)
    texts = (text for text, _ in samples)
    return replace(
        made, trajectories=tuple(replace(t, completion=x) for t, x in zip(made.trajectories, texts, strict=True))
    )


def test_measures_by_hand() -> None:
    groups = [
        answered(0, ("#1", 1.0), ("#1.0", 1.0), ("#7", 0.0), ("#7", 0.0)),  # right: 2 to 2, a tie
        answered(1, ("#2", 1.0), ("#5", 0.0), ("#5", 0.0), ("#6", 0.0)),  # wrong
        answered(2, ("#3", 1.0), ("x", None), ("#3", 1.0), ("#9", 0.0)),  # three judged
        answered(3, ("x", None), ("x", None), ("x", None), ("x", None)),
    ]
    found = {name: m.value for name, m in measure(groups, (2, 4)).items()}
    assert found["accuracy"] == found["reward_mean"] == pytest.approx(5 / 11)
    assert found["avg@4"] == pytest.approx((2 / 4 + 1 / 4 + 2 / 3) / 3)
    assert found["pass@4"] == 1.0 and found["maj@4"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["pass@2"] == pytest.approx((5 / 6 + 1 / 2 + 1) / 3)
    for m in measure(groups, (2, 4)).values():
        assert 0 <= m.low <= m.value + 1e-12 and m.value <= m.high + 1e-12 <= 1 + 1e-9


def test_one_sample_a_problem_has_wilsons_interval_and_no_at_k() -> None:
    found = measure([group((float(index < 3),), index=index) for index in range(10)], (4,))
    assert set(found) == {"accuracy", "reward_mean"}
    assert (found["accuracy"].low, found["accuracy"].high) == wilson(3, 10)


def scored(*rewards: float) -> RolloutGroup:
    """As a function of the user's judges."""
    made = group(rewards)
    verdicts = (Verdict(outcome=outcome_of(reward, None), reward=reward) for reward in rewards)
    pairs = zip(made.trajectories, verdicts, strict=True)
    return replace(made, trajectories=tuple(replace(t, verdict=v) for t, v in pairs))


def test_of_rewards_on_a_scale_there_is_a_mean_and_no_accuracy() -> None:
    found = score([scored(0.0, 0.25), scored(1.0, 0.75)], k=(2,))
    assert found.accuracy is None and set(found.measures) == {"reward_mean"} and found.value("pass@2") is None
    assert found.text == str(found.measures["reward_mean"]) and found.text.startswith("0.500 [")
    assert not [name for name in found.metrics() if "accuracy" in name]
    assert [row["right"] for row in sample_rows("before", [scored(0.25, 1.0)], keep=1)] == [None, True]
    assert "reward/accuracy" not in summarize([scored(0.0, 0.25)], 0)
    exact = score([scored(0.0, 1.0), scored(1.0, 0.0)])
    assert exact.accuracy == 0.5 and summarize([scored(0.0, 1.0)], 0)["reward/accuracy"] == 0.5
    assert [outcome_of(reward, 0.5).value for reward in (0.4, 0.5, 1.0)] == ["fail", "pass", "pass"]


def configured(*overrides: str) -> RunConfig:
    return load_run([QUICK], overrides)


SETS = (
    'evaluate.sets=[{ name = "easy", environment = "arithmetic", split = "digits-3", problems = 3, samples = 4 }, '
    '{ name = "as-is", environment = "arithmetic", problems = 2, temperature = 0 }]'
)


def test_every_set_is_asked_and_measured_apart() -> None:
    config = configured("evaluate.problems=5", SETS)
    leases = evaluation_leases(config, "before")
    assert len({lease.group_id for lease in leases}) == len(leases) == 10
    by_split = Counter((lease.split, lease.num_samples, lease.temperature) for lease in leases)
    held_out = config.environments[0].eval_split
    assert by_split == {(held_out, 1, 1.0): 5, ("digits-3", 4, 1.0): 3, (held_out, 1, 0.0): 2}
    groups = [
        replace(group((float("easy" in lease.group_id),) * lease.num_samples, index=i), group_id=lease.group_id)
        for i, lease in enumerate(leases)
    ]
    found = score(groups, k=config.evaluate.sizes, parts=parts_of(config))
    assert found.accuracy == 0.0  # of the mixture alone
    assert [found.value(f"accuracy/{name}") for name in ("arithmetic", "easy", "as-is")] == [0.0, 1.0, 0.0]
    assert found.value("pass@4/easy") == 1.0 and found.value("pass@4") is None
    assert found.metrics()["evaluate/low/accuracy/easy"] > 0
    lines = "\n".join(measure_lines(json.loads(json.dumps(found.to_json()))))
    assert "easy pass@4" in lines and "1.000 [" in lines
    alone = configured("evaluate.problems=0", SETS)
    assert len(evaluation_leases(alone, "before")) == 5 and alone.evaluate.is_on
    assert score(groups[5:], parts=parts_of(alone)).accuracy == pytest.approx(12 / 14)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluate.keep_best=acuracy"], ("evaluate.keep_best: is 'acuracy'", "did you mean 'accuracy'?")),
        (["evaluate.keep_best=pass@4"], ("evaluate.keep_best: is 'pass@4'", "measured: accuracy, reward_mean")),
        (["evaluate.keep_best=accuracy/esy", SETS], ("evaluate.keep_best: 'esy'", "did you mean 'easy'?")),
        (["evaluate.patience=3"], ("evaluate.patience: is 3, but keep_best names no measure",)),
        (["evaluate.k=[4]"], ("evaluate.k: has 4, but a task has 1 samples",)),
        (["evaluate.keep_best=accuracy", "evaluate.problems=0"], ("evaluate.keep_best: is 'accuracy', but problems",)),
        (['evaluate.sets=[{ name = "a", environment = "arithmetik" }]'], ("evaluate.sets.0.environment", "arithmetic")),
        (['evaluate.sets=[{ name = "arithmetic", environment = "arithmetic" }]'], ("evaluate.sets.0.name",)),
        (
            ['evaluate.sets=[{ name = "a", environment = "arithmetic", split = "train" }]'],
            ("evaluate.sets.0.split: is 'train', which training draws from",),
        ),
    ],
    ids=lambda value: str(value[0])[:60],
)
def test_a_measurement_that_cannot_be_made_is_refused(overrides: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, ValidationError)) as refused:
        configured(*overrides)
    assert all(word in str(refused.value) for word in words), refused.value


def measured(accuracy: float | None) -> Evaluation:
    rewards = (None,) if accuracy is None else tuple(float(i < round(accuracy * 10)) for i in range(10))
    return score([group(rewards)])


def best_of(store: SqliteStore, place: Path, step: int = 0) -> BestCheckpoint:
    return BestCheckpoint(EvaluateConfig(keep_best="accuracy", patience=2), store, place, step=step)


def told(best: BestCheckpoint, accuracies: Sequence[float | None], start: int = 0) -> list[bool]:
    out = []
    for number, accuracy in enumerate(accuracies):
        best.note(start + 10 * number, measured(accuracy))
        out.append(bool(best.why_stop(2)))
    return out


def test_the_best_is_kept_in_mind_and_patience_ends(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "groups.sqlite")
    best = best_of(store, tmp_path)
    assert told(best, [0.5, 0.7, None, 0.7, 0.6]) == [False, False, False, False, True]
    assert best.to_json() == {"measure": "accuracy", "value": 0.7, "step": 10, "checkpoint": None}
    assert best.why_stop(2) == (
        "evaluate.accuracy did not rise in 2 evaluations (evaluate.patience); the best was 0.7 at step 10"
    )
    (tmp_path / "step-10").mkdir()
    best.link()
    assert (tmp_path / "best").resolve() == tmp_path / "step-10"
    store.close()


def test_the_best_outlives_the_process_and_a_future_that_was_given_up_does_not(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "groups.sqlite")
    told(best_of(store, tmp_path), [0.5, 0.7, 0.6])
    assert best_of(store, tmp_path, step=20).step == 10
    assert best_of(store, tmp_path, step=5).step is None
    again = best_of(store, tmp_path, step=20)
    again.note(10, measured(0.7))  # made again, after a crash
    assert again.why_stop(2) == ""
    off = BestCheckpoint(EvaluateConfig(), store, tmp_path, step=20)
    off.note(30, measured(1.0))
    assert off.step is None and off.to_json() is None
    store.close()
    assert math.isclose(
        0.7, json.loads(SqliteStore(tmp_path / "groups.sqlite").recall("best evaluation") or "")["value"]
    )
