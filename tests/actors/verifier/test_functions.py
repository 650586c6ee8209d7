"""Rewards by functions of a file: called as TRL calls them, in judge processes; mistakes are named."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlserve import plugins
from rlserve.actors.verifier.pool import VerifierPool
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import ConfigError, InvalidRequest, PluginFailed, UnknownName
from rlserve.records import FailureKind, Outcome
from tests.support.user_files import REWARDS

PAYLOAD = json.dumps({"answer": 6, "level": {"deep": [1.5, None]}}).encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_reward.py"
    path.write_text(REWARDS)
    return path


def verifier(*functions: Any) -> Any:
    return plugins.load(plugins.VERIFIER_GROUP, "function")(functions=functions)


def rewards(made: Any, completions: list[str], payload: bytes = PAYLOAD, prompt: str = "3+3=") -> list[float]:
    return [verdict.reward for verdict in made.verify_group(completions, payload, prompt)]


def test_a_function_gets_the_whole_group_and_its_columns(file: Path) -> None:
    assert rewards(verifier(f"{file}:digits"), ["12", "a1", ""]) == [1.0, 0.5, 0.0]
    assert rewards(verifier(f"{file}:exact"), ["6", "7"]) == [1.0, 0.0]
    assert rewards(verifier(f"{file}:best"), ["a", "aaa", "aa"]) == [0.0, 1.0, 0.0]
    verdicts = verifier(f"{file}:exact").verify_group(["6", "7"], PAYLOAD, "3+3=")
    assert [v.outcome for v in verdicts] == [Outcome.PASS, Outcome.FAIL]


def test_columns_keep_their_types(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(
        "def same(prompts, completions, answer, level):\n"
        "    assert prompts == ['3+3='] * 2 and answer == [6, 6] and level == [{'deep': [1.5, None]}] * 2\n"
        "    return [1] * len(completions)\n"
    )
    assert rewards(verifier(f"{tmp_path / 'typed.py'}:same"), ["a", "b"]) == [1.0, 1.0]


def test_several_functions_add_up_by_weight_and_none_takes_no_part(file: Path) -> None:
    made = verifier({"function": f"{file}:digits", "weight": 2.0}, {"function": f"{file}:undecided", "weight": 0.5})
    verdicts = made.verify_group(["1a", "?"], PAYLOAD, "")
    assert [v.reward for v in verdicts] == [1.5, 0.0]
    assert verdicts[0].parts == {"digits": 0.5, "undecided": 1.0} and verdicts[1].parts == {"digits": 0.0}
    alone = verifier(f"{file}:undecided").verify_group(["?", "x"], PAYLOAD, "")
    assert [v.has_reward for v in alone] == [False, True]


def test_where_the_data_has_messages_completions_are_messages_too(file: Path) -> None:
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert rewards(verifier(f"{file}:chat"), ["yes", "no"], json.dumps({"prompt": prompt}).encode()) == [1.0, 0.0]


WRONG = {
    "misnamed": "my_reward.py:misnamed takes 'answr', which is no column of the task; did you mean 'answer'? (columns: "
    "answer, level; beside them prompts and completions)",
    "raises": "my_reward.py:raises raised ZeroDivisionError: division by zero (my_reward.py:36)",
    "one": "my_reward.py:one returned 1 reward for 2 completions; return one for each",
    "nan": "returned nan as reward 0; return a number within 1e+09 of 0, or None for no verdict",
    "inf": "returned inf as reward 0",
    "text": "returned '1.0' (a str) as reward 0; return a number, or None",
    "number": "returned 1.0 (a float); return a list with a number a completion",
    "forgets_to_await": "returned a coroutine; declare it as `async def`, or await in it",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_function_is_told_by_name_and_fix(file: Path, name: str) -> None:
    with pytest.raises(PluginFailed) as error:
        verifier(f"{file}:{name}").verify_group(["ab", "c"], PAYLOAD, "")
    assert WRONG[name] in str(error.value)
    assert name != "raises" or 'my_reward.py", line 36, in raises' in error.value.__notes__[0]


def test_what_is_no_function_is_refused_when_it_is_made(file: Path, tmp_path: Path) -> None:
    for name, error, text in (
        ("digts", UnknownName, "has no 'digts'; did you mean 'digits'?"),
        ("Kind", InvalidRequest, "'my_reward.py:Kind' is a class; give a function"),
        ("VALUE", InvalidRequest, "'my_reward.py:VALUE' is of type int; give a function"),
    ):
        with pytest.raises(error, match=text.replace("?", r"\?")):
            verifier(f"{file}:{name}")
    with pytest.raises(UnknownName, match=r"there is no file '.*my_rewrd.py'; did you mean 'my_reward.py'\?"):
        verifier(f"{tmp_path / 'my_rewrd.py'}:digits")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(PluginFailed, match=r"broken.py' cannot be imported: ModuleNotFoundError.* \(broken.py:1\)"):
        verifier(f"{tmp_path / 'broken.py'}:f")
    with pytest.raises(InvalidRequest, match="'digits' is there twice"):
        verifier(f"{file}:digits", f"{file}:digits")


@asynccontextmanager
async def pool_of(file: Path, *names: str, **limits: Any) -> AsyncIterator[VerifierPool]:
    verifiers = {f"function/{name}": {"functions": [f"{file}:{name}"]} for name in names}
    async with VerifierPool(verifiers, VerifierConfig(workers=2, spares=0, **limits)) as pool:
        yield pool


async def test_judge_processes_call_a_function_once_a_group_and_tell_its_line(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool_of(file, "best", "raises", "slow", limit_seconds=0.3, attempts=1) as pool:
        assert pool.specs["function/best"].judges_groups
        found = await pool.verify_all("function/best", ["a" * n for n in range(100)], b"{}")
        assert [v.reward for v in found] == [0.0] * 99 + [1.0], "all hundred stand beside each other in one call"
        found = await pool.verify_all("function/raises", ["ab", "c"], b"{}")
        assert [v.failure.kind for v in found if v.failure] == [FailureKind.INTERNAL] * 2
        assert "my_reward.py:raises raised ZeroDivisionError: division by zero (my_reward.py:36)" in found[0].reason
        assert caplog.text.count('my_reward.py", line 36, in raises') == 1
        found = await pool.verify_all("function/slow", ["ab", "c"], b"{}")
        assert [v.failure.kind for v in found if v.failure] == [FailureKind.TIMEOUT] * 2
        assert "not verified within 0.3 s a completion (verifier.limit_seconds)" in found[0].reason
        assert (await pool.verify("function/best", "a", b"{}")).reward == 1.0


async def test_an_async_function_judges_many_groups_at_once(file: Path) -> None:
    async with pool_of(file, "waits") as pool:
        await pool.verify("function/waits", "start", b"{}")
        started = time.monotonic()
        found = await asyncio.gather(*(pool.verify_all("function/waits", ["a", "aa"], b"{}") for _ in range(40)))
        assert [[v.reward for v in group] for group in found] == [[1.0, 2.0]] * 40
        assert time.monotonic() - started < 10, "one after another they would take 20 s"


KEYED = """
import os

async def asks(completions, **columns):
    return [float(len(os.environ["SERVER_KEY"]) + 100 * ("OTHER_KEY" in os.environ))] * len(completions)

def keyed(completions, **columns):
    return [float(len(os.environ["SERVER_KEY"]) + 100 * ("OTHER_KEY" in os.environ))] * len(completions)
"""


async def test_judge_processes_get_the_variables_that_are_named_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keyed.py").write_text(KEYED)
    monkeypatch.setenv("SERVER_KEY", "12345")
    monkeypatch.setenv("OTHER_KEY", "1")
    async with pool_of(tmp_path / "keyed.py", "keyed", "asks", environment=("SERVER_KEY",)) as pool:
        for name in ("keyed", "asks"):
            assert (await pool.verify(f"function/{name}", "a", b"{}")).reward == 5.0
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(ConfigError, match=r"verifier\.environment: 'SERVER_KEY' is not set here; export it"):
        async with pool_of(tmp_path / "keyed.py", "keyed", environment=("SERVER_KEY",)):
            pass
    with pytest.raises(ValidationError, match="what is no name of a variable"):
        VerifierConfig(environment=("SERVER_KEY=12345",))
