"""Functions, environments and algorithms in files of the user's: found beside the configuration, tried before a run."""

from pathlib import Path

import pytest

from rlserve import plugins
from rlserve.actors.environment.main import load_environments
from rlserve.config.load import load_run, to_toml, validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.preflight.machine import check_variables
from rlserve.launch.preflight.probe import _look_at_algorithm as look_at_algorithm
from rlserve.launch.preflight.tasks import Taken, look_at_environment
from rlserve.launch.preflight.verdicts import look_at_verifier, wanted
from tests.support.user_files import ENVIRONMENT, LOSS, REWARDS

MODEL = '[model]\npath = "somewhere"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("my_reward.py", REWARDS), ("my_env.py", ENVIRONMENT), ("my_loss.py", LOSS)):
        (tmp_path / name).write_text(text)
    return tmp_path


def config_of(folder: Path, head: str, *overrides: str) -> RunConfig:
    (folder / "run.toml").write_text(f'name = "mine"\n{head}\n{MODEL}')
    return load_run([folder / "run.toml"], overrides)


def findings(config: RunConfig) -> list[str]:
    taken: list[Taken] = []
    found = [f for index in range(len(config.environments)) for f in look_at_environment(config, index, taken)]
    for name, (key, task, answer) in wanted(taken).items():
        found += look_at_verifier(config, name, key, task, answer)
    return [("" if finding.is_fault else "warning ") + finding.message for finding in found]


def test_files_are_relative_to_the_configuration_and_what_is_typed_to_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    config = config_of(folder, 'environment = "my_env.py:Doubles"\nreward = "my_reward.py:exact"')
    assert config.environments[0].name == "Doubles"
    assert config.environments[0].plugin == f"{folder}/my_env.py:Doubles"
    assert [r.function for r in config.reward] == [f"{folder}/my_reward.py:exact"]
    assert findings(config) == []
    monkeypatch.chdir(folder)
    typed = config_of(folder, 'environment = "arithmetic"', "reward=my_reward.py:digits", "algorithm=my_loss.py:Plain")
    assert typed.reward[0].function == f"{folder}/my_reward.py:digits"
    assert typed.algorithm.type == f"{folder}/my_loss.py:Plain"
    (folder / "again.toml").write_text(to_toml(typed))
    assert load_run([folder / "again.toml"]) == typed
    assert list(look_at_algorithm(typed)) == []


def test_an_environment_of_its_own_reward_keeps_it(folder: Path) -> None:
    head = """reward = ["my_reward.py:digits"]
[[environments]]
name = "a"
plugin = "arithmetic"
[[environments]]
name = "b"
plugin = "my_env.py:Doubles"
reward = [{ function = "my_reward.py:exact", weight = 0.5 }]
"""
    config = config_of(folder, head)
    assert set(config.verifier_options) == {"function/a", "function/b"}
    assert config.verifier_options["function/b"]["functions"][0]["weight"] == 0.5
    assert findings(config) == []


def test_an_episode_leaves_the_verdict_to_the_functions(folder: Path) -> None:
    config = config_of(folder, 'environment = "guess"\nreward = "my_reward.py:digits"')
    (environment,) = load_environments(config.rewarded_environments).values()
    own = plugins.load(plugins.ENVIRONMENT_GROUP, "guess")()
    task = environment.task("train", 0, 0)
    assert task.verifier == "function/guess" and isinstance(environment, plugins.EpisodicEnvironment)
    assert own.open(own.task("train", 0, 0)).step("5").verdict is not None
    episode = environment.open(task)
    assert episode.step("5").verdict is None and episode.step("5").messages
    episode.close()  # type: ignore[attr-defined]
    assert findings(config) == []


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("misnamed", "takes 'answr', which is no column of the task; did you mean 'answer'? (columns: number, answer;"),
        ("raises", 'my_reward.py", line 36, in raises'),
        ("one", "returned 1 reward for 2 completions"),
        ("nan", "returned nan as reward 0"),
        ("text", "returned '1.0' (a str)"),
        ("digts", "did you mean 'digits'?"),
        ("Kind", "'my_reward.py:Kind' is a class"),
        ("slow", "slow took longer than 0.5 s for two completions"),
    ],
)
def test_a_wrong_function_is_a_fault_of_its_key(folder: Path, function: str, said: str) -> None:
    head = f'environment = "my_env.py:Doubles"\nreward = "my_reward.py:{function}"\nverifier.limit_seconds = 0.5'
    (found,) = findings(config_of(folder, head))
    assert found.startswith("environments.0.reward") and said in found


def test_a_function_that_fears_an_empty_answer_is_a_warning(folder: Path) -> None:
    head = 'environment = "my_env.py:Doubles"\nreward = "my_reward.py:fears_empty"'
    (found,) = findings(config_of(folder, head))
    assert found.startswith("warning environments.0.reward: my_reward.py:fears_empty raised ZeroDivisionError")


def test_a_wrong_environment_and_a_wrong_algorithm_are_told(folder: Path) -> None:
    (found,) = findings(config_of(folder, 'environment = "my_env.py:Double"'))
    assert found.startswith("environments.0.plugin: ") and "did you mean 'Doubles'?" in found
    (fault,) = look_at_algorithm(config_of(folder, 'environment = "arithmetic"\nalgorithm = "my_loss.py:Plan"'))
    assert fault.message.startswith("algorithm.type: ") and "did you mean 'Plain'?" in fault.message


def test_short_forms_are_refused_where_they_contradict() -> None:
    values = {"name": "x", "model": {"path": "m"}, "environment": "arithmetic", "environments": [{"name": "guess"}]}
    with pytest.raises(ConfigError, match=r"environment: is 'arithmetic', and \[\[environments\]\] are given"):
        validate(RunConfig, values)
    with pytest.raises(ConfigError, match=r"reward.0.function: is 'digits'; give FILE.py:NAME"):
        validate(RunConfig, {"name": "x", "model": {"path": "m"}, "environment": "arithmetic", "reward": "digits"})


def test_a_variable_that_functions_will_not_have_is_told_before_a_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "asks.py").write_text(
        "import os\ndef asks(completions, **columns):\n    return [len(os.environ['MY_KEY']) / 5] * len(completions)\n"
    )
    monkeypatch.setenv("MY_KEY", "hush!")
    head = 'environment = "my_env.py:Doubles"\nreward = "asks.py:asks"'
    (found,) = findings(config_of(folder, head))
    assert "KeyError: 'MY_KEY'" in found and "those in verifier.environment; add 'MY_KEY'" in found
    named = config_of(folder, head, 'verifier.environment=["MY_KEY"]')
    assert findings(named) == [] and list(check_variables(named)) == [] and "hush!" not in to_toml(named)
    monkeypatch.delenv("MY_KEY")
    assert "verifier.environment: 'MY_KEY' is not set here" in next(check_variables(named)).message
    with pytest.raises(ConfigError, match=r"verifier\.environment: has what is no name") as refused:
        config_of(folder, head, 'verifier.environment=["MY_KEY=hush!"]')
    assert "hush!" not in str(refused.value)
