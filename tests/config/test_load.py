"""Configuration: strict, mergeable, and clear about what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlserve.config.load import load, load_run, merge, parse_override, read_toml, read_with_base, to_toml, validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError

BASE: dict[str, Any] = {"name": "t", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"learner": {"lrr": 1.0}}, "learner.lrr: unknown key; did you mean 'lr'?"),
        ({"learner": {"lr": "fast"}}, "learner.lr: is 'fast'; input should be a valid number"),
        ({"learner": {"lr": -1.0}}, "learner.lr: is -1.0; input should be greater than 0"),
        ({"model": {"path": "m", "max_length": 100}}, "rollout.max_new_tokens: is 512"),
        ({"learner": {"tokens_per_micro_batch": 100}}, "learner.tokens_per_micro_batch: is 100"),
        ({"model": {"path": ""}}, "model.path: is '' and [pretrain] is absent"),
        ({"environments": []}, "environments: "),
        ({"environments": [{"name": "a", "weight": 0}]}, "environments: all weights are 0"),
        ({"rollout": {"group_size": 1}}, "rollout.group_size: is 1"),
        ({"rollout": {"top_p": 0.9}}, "rollout.top_p: is 0.9"),
        ({"algorithm": {"type": "grpo", "overlong_buffer": 4096}}, "algorithm.overlong_buffer: is 4096"),
        ({"name": "../up"}, "name: is '../up'"),
        ({"environments": [{"nam": "a"}]}, "environments.0.nam: unknown key; did you mean 'name'?"),
    ],
)
def test_a_fault_names_key_value_and_fix(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, merge(BASE, change))
    assert complaint in str(caught.value)


def test_every_fault_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, merge(BASE, {"seed": -1, "learner": {"lr": 0}}))
    assert len(str(caught.value).splitlines()) == 2


def test_later_files_and_flags_win(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'name = "a"\n[model]\npath = "m"\n[learner]\nlr = 1e-3\nranks = 2\n[[environments]]\nname = "x"\n'
    )
    (tmp_path / "b.toml").write_text("[learner]\nlr = 1e-4\n")
    config = load_run(
        [tmp_path / "a.toml", tmp_path / "b.toml"], ["learner.warmup_steps=7", "name=b", "environments.0.weight=3"]
    )
    assert (config.learner.lr, config.learner.ranks, config.learner.warmup_steps) == (1e-4, 2, 7)
    assert (config.name, config.environments[0].name, config.environments[0].weight) == ("b", "x", 3.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", {"a": {"b": 1}}),
        ("a=1e-5", {"a": 1e-5}),
        ("a=true", {"a": True}),
        ("a=some/path", {"a": "some/path"}),
        ('a="x=y"', {"a": "x=y"}),
        ("a=[1, 2]", {"a": [1, 2]}),
    ],
)
def test_an_override_is_toml_or_a_plain_string(text: str, value: dict[str, Any]) -> None:
    assert parse_override(text) == value


@pytest.mark.parametrize("text", ["lr", "=1", ""])
def test_a_broken_override_is_explained(text: str) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_override(text)


def test_a_missing_or_broken_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*none\.toml"):
        load_run([tmp_path / "none.toml"])
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml' is not TOML"):
        load_run([tmp_path / "bad.toml"])
    with pytest.raises(ConfigError, match="it is a directory"):
        load_run([tmp_path])
    (tmp_path / "wide.toml").write_bytes("seed = 1".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"wide\.toml' cannot be read \(it is UTF-16 text; save it as UTF-8\)"):
        load_run([tmp_path / "wide.toml"])


def test_a_configuration_may_have_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "marked.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'a'\r\nseed = 3\r\n")
    assert read_toml(path) == {"name": "a", "seed": 3}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**31),
            "stop_reward": st.floats(0, 1),
            "learner": st.fixed_dictionaries({"lr": st.floats(1e-9, 1), "zero_stage": st.sampled_from([0, 1, 2, 3])}),
            "verifier": st.fixed_dictionaries(
                {"options": st.dictionaries(st.text(max_size=5), st.just({"a b": [1, "x\n"]}), max_size=2)}
            ),
        },
    )
)
def test_a_resolved_configuration_loads_back_to_an_equal_one(change: dict[str, Any]) -> None:
    import tempfile

    config = validate(RunConfig, merge(BASE, change))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "c.toml"
        path.write_text(to_toml(config), encoding="utf-8")
        assert load(RunConfig, [path]) == config


def test_a_file_may_stand_on_another_one(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('name = "b"\nsteps = 5\n[algorithm]\ntype = "grpo"\nclip_high = 0.3\n')
    (tmp_path / "deep").mkdir()
    over = tmp_path / "deep" / "over.toml"
    over.write_text('base = "../base.toml"\nname = "o"\n[algorithm]\ntype = "dpo"\n')
    # A table of another type replaces the whole one: clip_high is no key of dpo.
    assert read_with_base(over) == {"name": "o", "steps": 5, "algorithm": {"type": "dpo"}}


def test_a_file_may_stand_on_a_shipped_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "smollm2"\nsteps = 5\n')
    assert {**read_with_base("smollm2"), "steps": 5} == read_with_base(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("base", "message"),
    [('"over.toml"', "is its own base"), ("3", "base: is 3"), ('"none.toml"', "no file")],
)
def test_a_base_that_cannot_be_is_explained(tmp_path: Path, base: str, message: str) -> None:
    over = tmp_path / "over.toml"
    over.write_text(f"base = {base}\n")
    with pytest.raises(ConfigError, match=message):
        read_with_base(over)


def test_shipped_configurations_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_run(["configs/online_dpo.toml"]).algorithm.type == "dpo"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.toml").write_text("name = 'own'")
    assert read_toml("configs/quickstart.toml") == {"name": "own"}


def test_what_files_say_can_be_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        "name = 't'\nsteps = 3\nstop_reward = 0.9\nmodel.path = 'm'\nenvironments = [{ name = 'arithmetic' }]\n"
        "algorithm = { type = 'grpo', clip_high = 0.4 }\n"
    )
    config = load_run([path], unset=["stop_reward", "algorithm.clip_high", "sft", "reference.teacher"])
    assert config.stop_reward is None and config.algorithm.clip_high == 0.28 and config.steps == 3
    assert load_run([path], ["steps=7"], unset=["steps"]).steps == 7
    with pytest.raises(ConfigError, match=r"--unset: 'stop_rewad' is no key; did you mean 'stop_reward'\?"):
        load_run([path], unset=["stop_rewad"])
