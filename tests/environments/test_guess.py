"""The guessing game: fair, reproducible, won by halving, and honest about malformed guesses."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve import plugins
from rlserve.environments.guess import NOT_A_GUESS, GuessEnvironment
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Outcome, Turn


def outcomes(environment: GuessEnvironment, index: int, texts: list[str]) -> list[Turn]:
    episode = environment.open(environment.task("train", index, 0))
    answers = []
    for text in texts:
        answers.append(episode.step(text))
        if answers[-1].done:
            break
    return answers


@given(max_number=st.integers(1, 200), index=st.integers(0, 10**6))
def test_halving_what_is_left_always_wins_in_as_many_turns_as_the_range_has_bits(max_number: int, index: int) -> None:
    environment = GuessEnvironment(max_number=max_number, turns=(max_number + 1).bit_length())
    episode = environment.open(environment.task("test", index, 3))
    low, high = 0, max_number
    while not (answer := episode.step(str((low + high) // 2))).done:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if answer.messages[0].content == ">" else (low, middle - 1)
    assert answer.verdict is not None and answer.verdict.outcome is Outcome.PASS


def test_no_fixed_text_wins_more_often_than_by_chance() -> None:
    environment = GuessEnvironment(max_number=9, turns=1)
    wins = {n: sum(won(environment, index, n) for index in range(1000)) for n in range(10)}
    assert sum(wins.values()) == 1000
    assert all(60 < count < 140 for count in wins.values())


def won(environment: GuessEnvironment, index: int, number: int) -> bool:
    verdict = outcomes(environment, index, [str(number)])[-1].verdict
    return verdict is not None and verdict.outcome is Outcome.PASS


@settings(max_examples=200)
@given(text=st.text())
def test_whatever_the_policy_writes_costs_a_turn_and_wins_only_as_the_number(text: str) -> None:
    environment = GuessEnvironment(max_number=99, turns=2)
    first, *rest = outcomes(environment, 0, [text, text])
    right = first.verdict is not None and first.verdict.reward == 1
    assert right == (text.strip().isascii() and text.strip().isdigit() and won_by(environment, text.strip()))
    assert right or (rest and rest[0].done and rest[0].verdict is not None and rest[0].verdict.reward == 0)


def won_by(environment: GuessEnvironment, digits: str) -> bool:
    return len(digits) <= 2 and won(environment, 0, int(digits))


@pytest.mark.parametrize("text", ["", "10", "-1", "3.0", "\u0663", "5 5", "5>", "05", "x" * 100_000])
def test_a_text_that_is_no_number_in_the_range_is_told_so(text: str) -> None:
    environment = GuessEnvironment(max_number=9, turns=2)
    assert [m.content for m in outcomes(environment, 1, [text])[0].messages] == [NOT_A_GUESS]


def test_demonstrations_are_games_that_the_hints_allow() -> None:
    environment = GuessEnvironment(max_number=9, turns=3, turn_end="|")
    shown = [environment.demonstration("train", i, 5) for i in range(300)]
    assert shown == [environment.demonstration("train", i, 5) for i in range(300)]
    for prompt, guess in shown:
        assert prompt.startswith("g9?")
        turns = [(int(number), hint) for number, hint in zip(*[iter(split_turns(prompt[3:]))] * 2, strict=True)]
        assert all(int(guess) > n if hint == ">" else int(guess) < n for n, hint in turns)
    assert {len(split_turns(prompt[3:])) // 2 for prompt, _ in shown} == {0, 1, 2}


def split_turns(text: str) -> list[str]:
    """``"4|>7|<"`` as ``["4", ">", "7", "<"]``."""
    return [part for part in text.replace("|>", "|>|").replace("|<", "|<|").split("|") if part]


def test_it_is_an_episodic_environment_and_arithmetic_is_not() -> None:
    loaded: Any = plugins.load(plugins.ENVIRONMENT_GROUP, "guess")()
    assert isinstance(loaded, plugins.EpisodicEnvironment)
    single: Any = plugins.load(plugins.ENVIRONMENT_GROUP, "arithmetic")()
    assert not isinstance(single, plugins.EpisodicEnvironment)


@pytest.mark.parametrize(("max_number", "turns"), [(0, 1), (10**9, 1), (9, 0), (9, 65)])
def test_options_out_of_range_are_refused_by_name(max_number: int, turns: int) -> None:
    with pytest.raises(InvalidRequest, match=r"guess\.max_number, turns"):
        GuessEnvironment(max_number=max_number, turns=turns)


def test_a_bad_split_is_unknown() -> None:
    with pytest.raises(UnknownName, match="train, validation, test"):
        GuessEnvironment().task("trian", 0, 0)
