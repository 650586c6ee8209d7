"""Two real ranks over gloo against one: same weights, exact resume, and who is blamed when one dies."""

import json
import signal
import socket
from contextlib import AsyncExitStack

import pytest
import torch
from safetensors.torch import load_file

from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.actors.learner.train.ranks import Command, Header
from rlserve.errors import StateCorrupt
from tests.support.models.families import FAMILIES
from tests.support.models.learner_work import save_policy
from tests.support.processes.children import child
from tests.support.processes.learner_rank import create_rank, train, trainer_of

LEARNER = {"dtype": "float32", "weight_decay": 0.01, "rank_timeout_seconds": 60}
OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}}
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


async def start_ranks(stack, directory, ranks, **job):
    """The ranks of a job as child processes."""
    (directory / "job.json").write_text(json.dumps(job))
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(ranks):
        environment = {**common, "RANK": str(rank), "OMP_NUM_THREADS": "1"}
        script = child("learner_rank.py", str(directory), environment=environment, patience_seconds=120)
        started.append(await stack.enter_async_context(script))
    return started


async def run_two(directory, **job):
    """(weights and log-probabilities, reports) of a whole job on two ranks."""
    async with AsyncExitStack() as stack:
        started = await start_ranks(stack, directory, 2, **job)
        assert [await process.exit_code() for process in started] == [0, 0]
    return load_file(directory / "result.safetensors"), json.loads((directory / "result.json").read_text())


def run_alone(directory, **job):
    """The same on one rank, in this process."""
    return train(directory, job, trainer_of(create_rank(directory, job, RankInfo()), directory), 1)


def assert_alike(both, alone):
    assert both[0].keys() == alone[0].keys()
    for name, expected in alone[0].items():
        torch.testing.assert_close(both[0][name], expected, atol=3e-6, rtol=2e-6)
    torch.testing.assert_close(torch.tensor(both[1]), torch.tensor(alone[1]), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    [
        pytest.param({"zero_stage": 0}, marks=pytest.mark.whole),  # the next test has stage 0, too
        {"zero_stage": 3},
        {"zero_stage": 3, "deepspeed": OFFLOAD},
    ],
)
async def test_two_ranks_train_and_score_as_one_does(start, tmp_path, learner):
    job = {"model": str(start), "learner": LEARNER | learner, "first": 0, "last": 3}
    assert_alike(await run_two(tmp_path, **job), run_alone(tmp_path, **job))


@pytest.mark.slow
async def test_every_family_trains_on_two_ranks_as_on_one(start, tmp_path):
    """Loss, gradient norm and, through the weights, the gradient of each: one step a family."""
    job = {"model": str(start), "learner": LEARNER, "algorithm": "several", "first": 0, "last": len(FAMILIES)}
    both, alone = await run_two(tmp_path, **job), run_alone(tmp_path, **job)
    assert_alike(both, alone)
    assert all(norm > 1e-4 for _, norm, _ in alone[1])


@pytest.mark.slow
async def test_two_ranks_resume_bit_for_bit_with_a_reference_model(start, tmp_path):
    job = {"model": str(start), "learner": LEARNER | {"zero_stage": 2}, "algorithm": REFERENCE, "last": 4}
    whole = await run_two(tmp_path, first=0, save_at=2, **job)
    resumed = await run_two(tmp_path, first=2, **job)
    assert all(resumed[0][name].equal(tensor) for name, tensor in whole[0].items())
    assert resumed[1] == whole[1][2:]
    assert_alike(whole, run_alone(tmp_path, first=0, **job))


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "witness"), [pytest.param(1, 0, marks=pytest.mark.whole), (0, 1)])
async def test_a_killed_rank_is_named_by_the_other(start, tmp_path, victim, witness):
    async with AsyncExitStack() as stack:
        job = {"model": str(start), "learner": LEARNER | {"zero_stage": 2}, "first": 0, "last": 10**6}
        ranks = await start_ranks(stack, tmp_path, 2, **job)
        await ranks[0].until("stepped 2")
        ranks[victim].signal(signal.SIGKILL)
        assert f"rank {victim} is " in await failure(ranks[witness])


@pytest.mark.slow
async def test_a_frozen_rank_is_named_when_its_time_is_over(start, tmp_path):
    async with AsyncExitStack() as stack:
        learner = LEARNER | {"zero_stage": 0, "rank_timeout_seconds": 8}
        job = {"model": str(start), "learner": learner, "first": 0, "last": 10**6}
        ranks = await start_ranks(stack, tmp_path, 2, **job)
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
