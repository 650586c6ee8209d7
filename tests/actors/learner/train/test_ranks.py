"""Two real ranks over gloo against one: same weights, exact resume, and who is blamed when one dies.

Two processes do all jobs but those in which a rank is harmed: to start them takes longer than to do the work.
"""

import asyncio
import json
import signal
import socket
from contextlib import AsyncExitStack

import pytest
import torch
from safetensors.torch import load_file

from rlserve.actors.checkpoints import open_checkpoint
from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.ranks import Command, Header
from rlserve.actors.learner.train.saving.checkpoint import restore
from rlserve.actors.learner.train.saving.saved_parts import SavedParts
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import StateCorrupt
from tests.support.models.families import FAMILIES
from tests.support.models.learner_work import save_policy
from tests.support.processes.children import child
from tests.support.processes.learner_rank import create_rank, train, trainer_of

LEARNER = {"dtype": "float32", "weight_decay": 0.01, "rank_timeout_seconds": 200}
OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}}
PATIENCE = 400
"""Seconds: two ranks import DeepSpeed, which takes minutes on a machine that is busy with other tests."""
REFERENCE = {"kl": {"coefficient": 0.1}}


def test_a_header_comes_back_and_anything_else_is_refused():
    header = Header(command=Command.STEP, number=7, micro_batches=3, lr=1e-7)
    assert Header.decode(header.encode()) == header
    for place, value in ((0, 1.0), (1, 9.0), (1, float("nan"))):
        encoded = header.encode()
        encoded[place] = value
        with pytest.raises(StateCorrupt):
            Header.decode(encoded)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("start"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def start_ranks(stack, directory, ranks, *jobs):
    """The ranks that do these jobs, as child processes."""
    (directory / "jobs.json").write_text(json.dumps(jobs))
    for job in jobs:
        (directory / job["name"]).mkdir(exist_ok=True)
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(ranks):
        environment = {**common, "RANK": str(rank), "OMP_NUM_THREADS": "1"}
        script = child("learner_rank.py", str(directory), environment=environment, patience_seconds=PATIENCE)
        started.append(await stack.enter_async_context(script))
    return started


async def run_two(directory, *jobs):
    async with AsyncExitStack() as stack:
        started = await start_ranks(stack, directory, 2, *jobs)
        return [await process.exit_code() for process in started]


def run_alone(directory, job):
    """(weights and log-probabilities, reports) of a job on one rank, in this process."""
    directory.mkdir(exist_ok=True)
    return train(directory, job, trainer_of(create_rank(directory, job, RankInfo()), directory), 1)


WHOLE = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""No parameter is small enough to be kept whole."""
BFLOAT16 = LEARNER | {"dtype": "bfloat16"}
SHARED_ROWS = {"ranks": 2, "sequence_parallel": 2}
FORMS = {
    "stage 0": {"learner": LEARNER | {"zero_stage": 0}},
    "stage 3": {"learner": LEARNER | {"zero_stage": 3}},
    "offload": {"learner": LEARNER | {"zero_stage": 3, "deepspeed": OFFLOAD}},
    "shared rows": {"learner": LEARNER | {"zero_stage": 0} | SHARED_ROWS},
    "shared rows in stage 3": {"learner": LEARNER | {"zero_stage": 3, "deepspeed": WHOLE} | SHARED_ROWS},
}
"""Jobs of two ranks that must do what one rank does in stage 0."""


@pytest.fixture(scope="module")
def site(start, tmp_path_factory):
    """Where two ranks did all jobs of this file that need no harm done to them, one after the other."""
    place = tmp_path_factory.mktemp("ranks")
    plain = {"model": str(start), "first": 0, "last": 3}
    jobs = [plain | form | {"name": name} for name, form in FORMS.items()]
    jobs.append(plain | {"name": "families", "learner": LEARNER, "algorithm": "several", "last": len(FAMILIES)})
    resumed = {"model": str(start), "learner": LEARNER | {"zero_stage": 2}, "algorithm": REFERENCE, "last": 4}
    jobs.append(resumed | {"name": "never stopped", "first": 0, "save_at": 2})
    jobs.append(resumed | {"name": "resumed", "first": 2})
    sharded = {"model": str(start), "learner": LEARNER | {"zero_stage": 3, "deepspeed": WHOLE}, "algorithm": REFERENCE}
    jobs.append(sharded | {"name": "sharded", "first": 0, "last": 4, "refresh_at": 1, "save_at": 2})
    jobs.append(sharded | {"name": "sharded resumed", "first": 2, "last": 4})
    jobs.append(plain | {"name": "two to one", "learner": BFLOAT16 | {"zero_stage": 3}, "last": 2, "save_at": 2})
    one_to_two = plain | {"name": "one to two", "learner": BFLOAT16 | {"zero_stage": 1}, "last": 2, "save_at": 2}
    run_alone(place / "one to two", one_to_two)
    back = one_to_two | {"learner": BFLOAT16 | {"zero_stage": 2}, "first": 2, "save_at": 0, "save_again": True}
    jobs.append(back)
    jobs.append({"name": "load", "learner": LEARNER | {"zero_stage": 3}, "measure": str(large_model(place))})
    shared = {"learner": LEARNER | {"zero_stage": 3, "gradient_checkpointing": True} | SHARED_ROWS}
    jobs.append(sharded | shared | {"name": "shared rows and reference", "first": 0, "last": 4, "refresh_at": 1})
    for name, source in (("resumed", "never stopped"), ("sharded resumed", "sharded")):
        (place / name).mkdir()
        (place / source).mkdir()
        (place / source / "checkpoints").mkdir()
        (place / name / "checkpoints").symlink_to(place / source / "checkpoints")
    # What fails in one job shows in the tests of that job and of those after it.
    jobs.sort(key=lambda job: job["learner"].get("sequence_parallel", 1))
    print(asyncio.run(run_two(place, *jobs)))
    return place


def large_model(place):
    """140 MB of weights: large beside all else that a process allocates while it loads them."""
    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 5, "head_dim": 128}
    return save_policy(place / "large", **shape, num_attention_heads=6, num_key_value_heads=6)


def done(site, name):
    """(weights and log-probabilities, reports) of a job of two ranks."""
    return load_file(site / name / "result.safetensors"), json.loads((site / name / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """The plain job on one rank."""
    job = {"model": str(start), "first": 0, "last": 3} | FORMS["stage 0"]
    return run_alone(tmp_path_factory.mktemp("alone"), job)


def assert_alike(both, alone):
    assert both[0].keys() == alone[0].keys()
    for name, expected in alone[0].items():
        torch.testing.assert_close(both[0][name], expected, atol=3e-6, rtol=2e-6)
    torch.testing.assert_close(torch.tensor(both[1]), torch.tensor(alone[1]), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_two_ranks_train_and_score_as_one_does(site, alone, form):
    assert_alike(done(site, form), alone)


@pytest.mark.slow
def test_every_family_trains_on_two_ranks_as_on_one(site, start, tmp_path):
    """Loss, gradient norm and, through the weights, the gradient of each: one step a family."""
    job = {"model": str(start), "learner": LEARNER, "algorithm": "several", "first": 0, "last": len(FAMILIES)}
    alone = run_alone(tmp_path, job)
    assert_alike(done(site, "families"), alone)
    assert all(norm > 1e-4 for _, norm, _ in alone[1])


def assert_same_bits(whole, resumed):
    assert all(resumed[0][name].equal(tensor) for name, tensor in whole[0].items())
    assert resumed[1] == whole[1][2:]


@pytest.mark.slow
def test_two_ranks_resume_bit_for_bit_with_a_reference_model(site, start, tmp_path):
    whole = done(site, "never stopped")
    assert_same_bits(whole, done(site, "resumed"))
    job = {"model": str(start), "learner": LEARNER, "algorithm": REFERENCE, "first": 0, "last": 4}
    assert_alike(whole, run_alone(tmp_path, job))


@pytest.mark.slow
def test_a_sharded_reference_says_what_a_whole_one_does_also_refreshed_and_resumed(site, start, tmp_path):
    both = done(site, "sharded")
    assert_same_bits(both, done(site, "sharded resumed"))
    assert_alike(done(site, "shared rows and reference"), both)
    job = {"model": str(start), "learner": LEARNER, "algorithm": REFERENCE, "first": 0, "last": 4, "refresh_at": 1}
    assert_alike(both, run_alone(tmp_path, job))


@pytest.mark.slow
def test_no_rank_holds_a_partitioned_model_whole_not_even_while_it_is_loaded(site):
    for rank in range(2):
        found = json.loads((site / "load" / f"rank-{rank}.json").read_text())
        assert found["whole"] > 140e6
        assert found["held"] < 0.52 * found["whole"]  # norms are too small to be shared out
        assert found["peak"] < 0.9 * found["whole"], found  # its half, what is gathered, and what loading itself takes


def state_of(checkpoint, model):
    """The optimizer's tensors of a checkpoint, put together."""
    saved = SavedParts(sorted(checkpoint.training_path.glob("optimizer*.safetensors")))
    shapes = load_file(model / "model.safetensors")
    kinds = ("master", "exp_avg", "exp_avg_sq")
    return {f"{k}/{n}": saved.read(f"{k}/{n}", 0, t.numel()) for n, t in shapes.items() for k in kinds}


@pytest.mark.slow
def test_each_rank_writes_its_part_and_another_number_of_ranks_goes_on_from_it(site, start, tmp_path):
    """Bit for bit: 2 ranks in stage 3 to 1 in stage 1, and 1 in stage 1 to 2 in stage 2."""
    before = open_checkpoint(site / "two to one" / "checkpoints" / "step-2")
    parts = sorted(before.training_path.glob("optimizer*.safetensors"))
    sizes = [path.stat().st_size for path in parts]
    assert len(parts) == 2 and max(sizes) < 1.2 * min(sizes)
    engine = LearnerEngine(str(before.model_path), LearnerConfig(**BFLOAT16, zero_stage=1), seed=0)
    restore(before, engine)
    held = {name.removesuffix("@0"): tensor for name, tensor in engine.optimizer_state()}
    expected = state_of(before, start)
    assert held.keys() == expected.keys() and engine.optimizer_steps == 2
    assert all(held[name].equal(tensor) and tensor.any() for name, tensor in expected.items())

    one, two = (open_checkpoint(site / "one to two" / "checkpoints" / f"step-{step}") for step in (2, 3))
    assert len(list(two.training_path.glob("optimizer*.safetensors"))) == 2 and two.optimizer_steps == 2
    expected, found = state_of(one, start), state_of(two, start)
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    weights = load_file(one.path / "model.safetensors")
    assert all(tensor.equal(weights[n]) for n, tensor in load_file(two.path / "model.safetensors").items())


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "witness"), [pytest.param(1, 0, marks=pytest.mark.whole), (0, 1)])
async def test_a_killed_rank_is_named_by_the_other(start, tmp_path, victim, witness):
    async with AsyncExitStack() as stack:
        job = {"name": ".", "model": str(start), "learner": LEARNER | {"zero_stage": 2}, "first": 0, "last": 10**6}
        ranks = await start_ranks(stack, tmp_path, 2, job)
        await ranks[0].until("stepped 2")
        ranks[victim].signal(signal.SIGKILL)
        assert f"rank {victim} is " in await failure(ranks[witness])


@pytest.mark.slow
async def test_a_frozen_rank_is_named_when_its_time_is_over(start, tmp_path):
    async with AsyncExitStack() as stack:
        learner = LEARNER | {"zero_stage": 0, "rank_timeout_seconds": 8}
        job = {"name": ".", "model": str(start), "learner": learner, "first": 0, "last": 10**6}
        ranks = await start_ranks(stack, tmp_path, 2, job)
        await ranks[0].until("stepped 2")
        ranks[1].signal(signal.SIGSTOP)
        assert "rank 1 is dead or frozen" in await failure(ranks[0])


async def failure(process):
    """What a rank says when it gives up; it must end then, without help."""
    while not (line := await process.line()).startswith("failed"):
        assert line, "the rank ended without a word"
    assert line.startswith("failed Unavailable: learner rank")
    assert await process.exit_code() == 3
    return line
