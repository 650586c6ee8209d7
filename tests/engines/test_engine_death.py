"""An engine on another kind of model, and how it is given up when it hangs."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from rlserve.engines.base import SamplingChoice
from rlserve.engines.vllm.engine import VllmEngine
from rlserve.errors import EngineDied
from tests.support.models.serving_engine import Serving
from tests.support.models.tiny_policies import perturbed, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    model, directory = tiny_model("llama", tied=False), tmp_path_factory.mktemp("policy")
    serving = await Serving.start(VllmEngine, model, directory, stall_seconds=3.0)
    yield serving
    await serving.engine.close()


async def test_an_untied_llama_is_exact_after_a_swap(serving: Serving) -> None:
    assert serving.engine.method == "exchange"
    policy = await serving.update(perturbed(serving.versions[0], seed=5))
    [sample] = await serving.sample([1, 2, 3], tokens=100)
    assert {span.version for span in sample.policy_spans} == {policy.version}
    assert serving.error([1, 2, 3], sample, version=policy.version) < 1e-4


async def test_a_frozen_engine_is_given_up_at_the_limit_and_a_busy_machine_is_no_freeze(serving: Serving) -> None:
    """Stopped by a signal it neither answers nor computes, like an engine that hangs in a driver. The last test."""
    engine = serving.engine
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(10)]
    try:
        load = SamplingChoice(max_new_tokens=200)
        under_load = await asyncio.wait_for(
            engine.generate([1, 2, 3], n=8, sampling=load, seed=0, request_id="busy"), 240
        )
        assert len(under_load) == 8 and engine.alive
        for burner in burners:
            burner.kill()
        running = asyncio.create_task(
            engine.generate([1, 2, 3], n=4, sampling=SamplingChoice(max_new_tokens=500), seed=0, request_id="frozen")
        )
        while not engine.tokens_of("frozen"):
            await asyncio.sleep(0.01)
        for pid in engine.process_ids:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EngineDied, match=r"neither answered nor computed for \d+ s \(rollout.stall_seconds\)"):
            await asyncio.wait_for(running, 60)
        assert not engine.alive and "EngineCore hangs" in engine.death
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
