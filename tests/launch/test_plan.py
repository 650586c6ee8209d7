"""The process plan of a configuration."""

from pathlib import Path

from rlserve.config.load import validate
from rlserve.config.run import RunConfig
from rlserve.launch.plan import plan_processes

BASE = {"name": "t", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}


def test_every_rank_and_worker_is_a_process_of_its_own() -> None:
    config = validate(RunConfig, {**BASE, "learner": {"ranks": 2}, "rollout": {"workers": 3}})
    specs = plan_processes(config, Path("runs/t"), hub_address="h:1", rank_port=5)
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
    assert [(r["RANK"], r["WORLD_SIZE"], r["MASTER_PORT"]) for r in ranks] == [("0", "2", "5"), ("1", "2", "5")]


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
