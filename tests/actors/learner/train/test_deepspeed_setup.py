"""Bringing DeepSpeed up: places, settings, and starts that must fail clearly or need nothing."""

import os
import re
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from rlserve.actors.learner.train.deepspeed_setup import RankInfo, deepspeed_config, torch_threads
from rlserve.config.deepspeed import OWNED
from rlserve.config.tables.learner import LearnerConfig
from rlserve.memory.formulas import effective_stage
from tests.support.models.learner_work import save_policy

CPU = torch.device("cpu")


def test_a_place_comes_from_the_environment_and_is_alone_without_one():
    assert RankInfo.from_environment({}) == RankInfo(rank=0, world_size=1, local_rank=0)
    given = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    expected = RankInfo(rank=3, world_size=4, local_rank=1, address="10.0.0.7", port=29500)
    assert RankInfo.from_environment(given) == expected


def test_deepspeed_clips_only_where_it_reports_the_norm():
    clips = {
        (stage, dtype): deepspeed_config(
            LearnerConfig(zero_stage=stage, dtype=dtype, max_grad_norm=0.5), num_parameters=10, device=CPU
        )["gradient_clipping"]
        for stage in (0, 2)
        for dtype in ("float32", "bfloat16")
    }
    assert clips == {(0, "float32"): 0, (0, "bfloat16"): 0.5, (2, "float32"): 0.5, (2, "bfloat16"): 0.5}


def test_only_bfloat16_at_stage_0_runs_as_another_stage():
    stages = {(s, d): effective_stage(LearnerConfig(zero_stage=s, dtype=d)) for s in range(4) for d in DTYPES}
    changed = {key: stage for key, stage in stages.items() if stage != key[0]}
    assert changed == {(0, "bfloat16"): 1}


DTYPES = ("float32", "bfloat16")


def test_buffers_are_no_larger_than_the_model():
    zero = deepspeed_config(LearnerConfig(), num_parameters=1000, device=CPU)["zero_optimization"]
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == 1000


def test_keys_of_deepspeed_join_ours_table_by_table():
    given = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 7}}
    zero = deepspeed_config(LearnerConfig(zero_stage=2, deepspeed=given), num_parameters=1000, device=CPU)
    assert zero["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert zero["zero_optimization"]["stage"] == 2
    assert zero["zero_optimization"]["reduce_bucket_size"] == 7


@pytest.mark.parametrize("key", OWNED)
def test_keys_that_other_tables_decide_are_refused_by_name(key):
    top, _, inner = key.partition(".")
    with pytest.raises(ValidationError, match=re.escape(f"deepspeed.{key}: follows from")):
        LearnerConfig(deepspeed={top: {inner: 1}} if inner else {top: 1})


def test_a_misspelt_key_of_deepspeed_is_refused():
    with pytest.raises(ValidationError, match=r"deepspeed\.zero_optimisation: .* did you mean 'zero_optimization'"):
        LearnerConfig(deepspeed={"zero_optimisation": {}})


@pytest.mark.parametrize(
    ("threads", "ranks", "environment", "processors", "expected"),
    [(0, 1, {}, 2, 1), (0, 2, {}, 16, 4), (0, 4, {}, 2, 1), (0, 1, {"OMP_NUM_THREADS": "3"}, 16, 3), (5, 1, {}, 2, 5)],
)
def test_half_of_the_processors_train_unless_told_otherwise(threads, ranks, environment, processors, expected):
    assert torch_threads(LearnerConfig(torch_threads=threads, ranks=ranks), environment, processors) == expected


START = """
import sys
from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import RlserveError
rank_info = RankInfo(world_size=int(sys.argv[2]), port=int(sys.argv[3]), meeting_seconds=2)
try:
    LearnerEngine(sys.argv[1], LearnerConfig(zero_stage=2), seed=0, rank_info=rank_info)
except RlserveError as error:
    print(f"{type(error).__name__}: {error}")
else:
    print("started")
"""


def start_engine(model, cache, *, world_size=1, port=0):
    """What a new process says that starts an engine, in which no compiler can be found."""
    environment = {**os.environ, "PATH": "", "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", START, str(model), str(world_size), str(port)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout.strip().splitlines()[-1]


def test_an_engine_starts_without_a_compiler_and_leaves_nothing_behind(tmp_path):
    cache = tmp_path / "cache"
    assert start_engine(save_policy(tmp_path / "model"), cache) == "started"
    assert not (cache / "rlserve").exists()


def test_several_ranks_without_a_port_are_refused(tmp_path):
    said = start_engine(save_policy(tmp_path / "model"), tmp_path, world_size=2)
    assert said.startswith("ConfigError: MASTER_PORT: is 0")


def test_a_rank_that_nobody_joins_says_so(tmp_path, unused_tcp_port):
    said = start_engine(save_policy(tmp_path / "model"), tmp_path, world_size=2, port=unused_tcp_port)
    assert said.startswith("DeadlineExceeded: rank 0: not all 2 learner ranks came to 127.0.0.1:")
