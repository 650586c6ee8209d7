"""Keys that few runs set do what their docs say."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.actors.learner.measure.evaluation import evaluation_leases
from rlserve.actors.learner.train.deepspeed_setup import create_optimizer
from rlserve.actors.start_model import wait_for_start_model
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.engines.base import EngineOptions
from rlserve.engines.vllm.options import _argument_names, engine_arguments
from rlserve.errors import DeadlineExceeded
from rlserve.launch.preflight.tasks import look_at_environment


def config(*overrides: str) -> RunConfig:
    return load_run(["quickstart"], overrides)


@pytest.mark.parametrize("epsilon", [1e-8, 0.5, 10.0])
def test_adam_epsilon_bounds_the_update_where_gradients_are_small(epsilon: float) -> None:
    """The first update of Adam is lr * g / (|g| + epsilon), whatever the betas are (arXiv:1412.6980)."""
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = create_optimizer([weight], LearnerConfig(lr=0.1, adam_epsilon=epsilon))
    gradient = torch.tensor([0.5, -2.0, 1e-3], dtype=torch.float64)
    weight.grad = gradient.clone()
    optimizer.step()
    expected = -0.1 * gradient / (gradient.abs() + epsilon)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-12)


def test_settings_of_the_engine_reach_vllm_by_its_own_names() -> None:
    set_here = config("rollout.enforce_eager=true", "rollout.gpu_memory_fraction=0.4", "rollout.max_num_seqs=17")
    options = EngineOptions.from_config(set_here, "model")
    arguments = engine_arguments(options, on_cpu=False)
    assert {name: arguments[name] for name in ("enforce_eager", "gpu_memory_utilization", "max_num_seqs")} == {
        "enforce_eager": True,
        "gpu_memory_utilization": 0.4,
        "max_num_seqs": 17,
    }
    compiled = EngineOptions.from_config(config(), "model")
    assert engine_arguments(compiled, on_cpu=False)["enforce_eager"] is False
    assert engine_arguments(compiled, on_cpu=True)["enforce_eager"] is True
    # From vLLM's source: its import takes half a minute on a busy machine.
    assert set(arguments) <= _argument_names()


def test_samples_for_files_are_drawn_from_the_training_split() -> None:
    """Also from environments that hold nothing out, which preflight then does not miss."""
    for value, split in (("false", "test"), ("true", "train")):
        leases = evaluation_leases(config(f"evaluate.from_training={value}", "evaluate.problems=3"), "before")
        assert [lease.split for lease in leases] == [split] * 3


def test_a_set_without_held_out_rows_is_enough_to_sample_from(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1=", "answer": 2}')
    rows = f'environments=[{{ name = "dataset", options = {{ path = "{tmp_path / "rows.jsonl"}" }} }}]'
    taken: list[Any] = []
    (missing,) = look_at_environment(config(rows), 0, taken)
    assert "environments.0.eval_split: " in missing.message and "test_fraction" in missing.message
    assert list(look_at_environment(config(rows, "evaluate.from_training=true"), 0, taken)) == []


def test_a_start_checkpoint_that_never_comes_is_waited_for_as_long_as_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceeded, match=r"does not exist after 0\.2 s \(launch\.prepare_seconds\)"):
        wait_for_start_model(config("launch.prepare_seconds=0.2"), RunPaths(tmp_path))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ranks": 3}, "sequence_parallel: is 2, which does not divide ranks = 3"),
        ({"compile": True}, "compile: is true with sequence_parallel = 2"),
        ({"attention": "sdpa"}, "attention: is 'sdpa' with sequence_parallel = 2"),
    ],
)
def test_ranks_that_share_rows_are_refused_what_they_cannot_do(changes: dict[str, Any], told: str) -> None:
    assert LearnerConfig(ranks=4, sequence_parallel=2, attention="varlen").sequence_parallel == 2
    with pytest.raises(ValueError, match=told):
        LearnerConfig.model_validate({"ranks": 2, "sequence_parallel": 2} | changes)
