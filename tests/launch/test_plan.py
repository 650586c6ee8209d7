"""The process plan of a configuration."""

from pathlib import Path

import pytest

from rlserve.config.load import validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.plan import plan_processes

BASE = {"name": "t", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}


def test_every_rank_and_worker_is_a_process_of_its_own() -> None:
    config = validate(RunConfig, {**BASE, "learner": {"ranks": 2}, "rollout": {"workers": 3}})
    specs = plan_processes(config, Path("runs/t"), hub_address="h:1")
    assert [s.name for s in specs] == [
        "environment-0",
        "verifier-0",
        "learner",
        "learner-rank-1",
        "rollout-0",
        "rollout-1",
        "rollout-2",
    ]
    ranks = [s.environment for s in specs if s.kind == "learner"]
    assert [(r["RANK"], r["WORLD_SIZE"]) for r in ranks] == [("0", "2"), ("1", "2")]


def test_only_a_resumed_learner_is_told_to_resume() -> None:
    config = validate(RunConfig, BASE)
    resumed = plan_processes(config, Path("runs/t"), hub_address="h:1", resume=True)
    assert {s.kind for s in resumed if "--resume" in s.command} == {"learner"}
    fresh = plan_processes(config, Path("runs/t"), hub_address="h:1")
    assert not [s for s in fresh if "--resume" in s.command]


def test_what_must_not_restart_is_marked() -> None:
    values = {**BASE, "model": {}, "pretrain": {"stage": {"corpus": {"environment": "arithmetic"}}}}
    specs = plan_processes(validate(RunConfig, values), Path("runs/t"), hub_address="h:1")
    assert {s.kind for s in specs if not s.restartable} == {"learner", "prepare"}


def test_each_server_of_a_teacher_is_a_process_and_a_made_one_is_prepared() -> None:
    teacher = {"name": "big", "model": "start", "servers": 2, "max_length": 4096}
    specs = plan_processes(validate(RunConfig, {**BASE, "teachers": [teacher]}), Path("runs/t"), hub_address="h:1")
    found = [s for s in specs if s.kind == "teacher"]
    assert [s.name for s in found] == ["teacher-big-0", "teacher-big-1"]
    assert all("--teacher" in s.command and "big" in s.command for s in found)
    assert "prepare" not in [s.kind for s in specs]
    made = {**teacher, "sft": {"stage": {"corpus": {"environment": "arithmetic"}}}}
    specs = plan_processes(validate(RunConfig, {**BASE, "teachers": [made]}), Path("runs/t"), hub_address="h:1")
    assert specs[0].kind == "prepare"


def test_actors_stay_on_the_cores_that_they_are_given() -> None:
    config = validate(RunConfig, {**BASE, "launch": {"cores": {"learner": [0], "rollout": [1, 2]}}})
    cores = {
        s.kind: s.command[s.command.index("--cores") + 1]
        for s in plan_processes(config, Path("runs/t"), hub_address="h:1")
        if "--cores" in s.command
    }
    assert cores == {"learner": "0", "rollout": "1,2"}


@pytest.mark.parametrize(
    ("cores", "message"),
    [({"learners": [0]}, "names 'learners'"), ({"learner": []}, r"learner: is \[\]"), ({"learner": [-1]}, r"\[-1\]")],
)
def test_cores_that_cannot_be_are_named(cores: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig, {**BASE, "launch": {"cores": cores}})


def test_actors_of_a_machine_that_others_reach_listen_at_its_address() -> None:
    values = {
        **BASE,
        "launch": {"host": "10.0.0.7"},
        "learner": {"address": "127.0.0.1:7003"},
        "verifier": {"address": "10.1.1.1:7002"},
        "teachers": [{"name": "big", "model": "m"}],
    }
    specs = plan_processes(validate(RunConfig, values), Path("runs/t"), hub_address="h:1")
    assert {s.kind: s.command[s.command.index("--address") + 1] for s in specs} == {
        "environment": "10.0.0.7:0",
        "verifier": "10.1.1.1:7002",
        "teacher": "10.0.0.7:0",
        "learner": "10.0.0.7:7003",
        "rollout": "10.0.0.7:0",
    }
    assert not [
        s for s in plan_processes(validate(RunConfig, BASE), Path("t"), hub_address="h:1") if "--address" in s.command
    ]
