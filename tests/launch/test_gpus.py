"""Which GPUs each process of a run gets."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.config.load import load_run, validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.gpus import share_out, visible_gpus
from rlserve.launch.plan import plan_processes
from tests.support.processes.children import ROOT

EIGHT = tuple("01234567")


def config(*, ranks: int = 1, workers: int = 1, parallel: int = 1, servers: int = 0, **gpus: Any) -> RunConfig:
    teachers = [{"name": "t", "model": "start", "servers": servers}] if servers else []
    values = {
        "name": "t",
        "model": {"path": "m"},
        "environments": [{"name": "arithmetic"}],
        "learner": {"ranks": ranks},
        "rollout": {"workers": workers, "tensor_parallel": parallel},
        "teachers": teachers,
        "launch": {"gpus": gpus},
    }
    return validate(RunConfig, values)


def test_ranks_come_first_then_workers_then_teachers() -> None:
    assert share_out(config(ranks=2, workers=2, parallel=2, servers=1), EIGHT) == {
        "learner": ("0",),
        "learner-rank-1": ("1",),
        "rollout-0": ("2", "3"),
        "rollout-1": ("4", "5"),
        "teacher-t-0": ("6",),
    }


def test_names_are_those_of_the_launcher_s_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    # Also parts of GPUs (MIG), which have names instead of numbers.
    assert share_out(config(), ("5", "MIG-a")) == {"learner": ("5",), "rollout-0": ("MIG-a",)}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()


def test_one_gpu_is_shared_by_all_roles() -> None:
    shares = share_out(config(workers=2, servers=1), ("3",))
    assert set(shares.values()) == {("3",)} and len(shares) == 4
    with pytest.raises(ConfigError, match=r"learner\.ranks = 2"):
        share_out(config(ranks=2), ("3",))


def test_too_few_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"need 6 GPUs, this machine shows 4, and 2 are left for rollout"):
        share_out(config(ranks=2, workers=4), EIGHT[:4])


def test_a_role_takes_the_gpus_that_it_is_given() -> None:
    assert share_out(config(workers=2, learner=(7,), rollout=(7, 1)), EIGHT) == {
        "learner": ("7",),
        "rollout-0": ("7",),
        "rollout-1": ("1",),
    }
    # A count may be smaller than the number of processes, which then share; the others stay apart.
    assert share_out(config(workers=4, rollout=2), EIGHT) == {
        "learner": ("0",),
        **{f"rollout-{i}": (str(1 + i % 2),) for i in range(4)},
    }
    with pytest.raises(ConfigError, match=r"launch\.gpus\.learner: names \[8\]"):
        share_out(config(learner=(8,)), EIGHT)
    with pytest.raises(ConfigError, match=r"launch\.gpus"):
        config(learnr=1)


@given(st.integers(1, 4), st.integers(0, 4), st.integers(1, 4), st.integers(0, 3), st.integers(2, 32))
def test_no_two_processes_share_unless_they_are_asked_to(
    ranks: int, workers: int, parallel: int, servers: int, total: int
) -> None:
    asked = config(ranks=ranks, workers=workers, parallel=parallel, servers=servers)
    gpus = tuple(map(str, range(total)))
    wanted = ranks + workers * parallel + servers
    if wanted > total:
        with pytest.raises(ConfigError, match=f"need {wanted} GPUs"):
            share_out(asked, gpus)
        return
    dealt = list(itertools.chain(*share_out(asked, gpus).values()))
    assert sorted(dealt, key=int) == list(gpus[:wanted])


def test_each_process_sees_its_own_gpus_alone(tmp_path: Any) -> None:
    specs = plan_processes(config(ranks=2), tmp_path, hub_address="h:1", gpus=EIGHT)
    seen = {s.name: s.environment.get("CUDA_VISIBLE_DEVICES") for s in specs}
    assert (seen["learner"], seen["learner-rank-1"], seen["rollout-0"], seen["verifier-0"]) == ("0", "1", "2", None)
    ranks = [s.environment for s in specs if s.kind == "learner"]
    assert [(r["RANK"], r["LOCAL_RANK"]) for r in ranks] == [("0", "0"), ("1", "0")]


@pytest.mark.parametrize(
    ("name", "total"), [("one_gpu", 1), ("gsm8k_qwen", 8), ("distill_qwen", 8), ("online_dpo_qwen", 8)]
)
def test_every_shipped_configuration_fits_the_machine_that_it_names(name: str, total: int) -> None:
    shares = share_out(load_run([ROOT / "configs" / "gpu" / f"{name}.toml"]), EIGHT[:total])
    assert set(itertools.chain(*shares.values())) == set(EIGHT[:total])
