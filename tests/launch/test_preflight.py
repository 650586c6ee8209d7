"""The look at a configuration outlives what it looks at."""

import os
from collections.abc import Iterator
from pathlib import Path

import mistaken_plugins
import psutil
import pytest

from rlserve.config.load import load_run
from rlserve.config.run import RunConfig
from rlserve.launch.preflight.check import probe
from rlserve.launch.preflight.machine import check_broadcast, check_engines, check_gpus

QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PYTHONPATH", mistaken_plugins.install(tmp_path / "site"))
    yield


def config(*environments: str, more: tuple[str, ...] = ()) -> RunConfig:
    return load_run([QUICK], [f"environments=[{', '.join(environments)}]", *more])


def test_what_hangs_is_killed_and_the_rest_is_looked_at() -> None:
    before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    asks = '{ name = "asks", options = { verifier = "digts" } }'
    found = list(probe(config('{ name = "hangs" }', asks), stage_seconds=5))
    assert {f.message.split(":")[0]: f.is_fault for f in found} == {"environments.0": False, "environments.1": True}
    assert "took longer than 5 s" in found[0].message and "'digits'" in found[1].message
    after = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    assert after <= before


def test_what_crashes_is_named_and_the_rest_is_looked_at() -> None:
    found = list(probe(config('{ name = "dies_at_start" }', '{ name = "asks", split = "tain" }')))
    assert [f.is_fault for f in found] == [True, True]
    assert "environments.0: its process ended (exit code 9)" in found[0].message
    assert "environments.1.split" in found[1].message


def test_more_than_the_machine_has() -> None:
    asked = config('{ name = "asks" }', more=("rollout.tensor_parallel=4", "learner.ranks=4"))
    without = list(check_gpus(asked, ()))
    assert without == [] or not without[0].is_fault
    (few,) = check_gpus(asked, ("0", "1", "2", "3"))
    assert few.is_fault and "need 8 GPUs, this machine shows 4, and 0 are left for rollout" in few.message
    assert not list(check_gpus(asked, tuple("01234567")))
    (idle,) = check_gpus(asked, tuple("0123456789"))
    assert not idle.is_fault and "2 of 10 GPUs are not used" in idle.message


def test_an_engine_beside_the_learner_leaves_it_memory() -> None:
    (greedy,) = check_gpus(config('{ name = "asks" }'), ("0",))
    assert greedy.is_fault and "rollout.gpu_memory_fraction: is 0.85" in greedy.message and "learner" in greedy.message
    assert not list(check_gpus(config('{ name = "asks" }', more=("rollout.gpu_memory_fraction=0.4",)), ("0",)))


def test_weights_are_broadcast_at_an_address_of_this_host_alone() -> None:
    for address, faults in (("", 0), ("127.0.0.1", 0), ("192.0.2.1", 1), ("no such host", 1)):
        found = list(check_broadcast(config('{ name = "asks" }', more=(f"sync.broadcast_address={address!r}",))))
        assert len(found) == faults and all(
            "sync.broadcast_address: the learner cannot listen" in f.message for f in found
        )


def test_an_engine_that_is_misspelt_is_named_before_anything_starts() -> None:
    teachers = 'teachers=[{ name = "t", model = "start", engine = "transformrs" }]'
    asked = config('{ name = "asks" }', more=('rollout.engine="vlm"', teachers))
    found = [finding.message for finding in check_engines(asked)]
    assert found == [
        "rollout.engine: 'vlm' is unknown; did you mean 'vllm'? (known: vllm)",
        "teachers.0.engine: 'transformrs' is unknown; did you mean 'transformers'? (known: transformers, vllm)",
    ]
    assert not list(check_engines(config('{ name = "asks" }')))


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("gpu_memory_utilization = 0.5", "is set by rollout.gpu_memory_fraction; set that key instead"),
        ('logprobs_mode = "raw_logits"', "is fixed (log-probabilities are those of the distribution"),
        ("enable_chunked_prefill = true", "is fixed (vLLM on a CPU needs its value)"),
        ('schedulin_policy = "priority"', "vLLM has no such argument; did you mean 'scheduling_policy'?"),
    ],
)
def test_an_option_of_the_engine_that_is_owned_here_or_unknown_is_named(option: str, told: str) -> None:
    (found,) = check_engines(config('{ name = "asks" }', more=(f"rollout.options={{ {option} }}",)))
    assert found.is_fault and f"rollout.options.{option.split()[0]}: {told}" in found.message


def test_options_that_the_engine_takes_pass() -> None:
    options = "{ scheduling_policy = 'priority', max_logprobs = 5 }"
    assert not list(check_engines(config('{ name = "asks" }', more=(f"rollout.options={options}",))))
