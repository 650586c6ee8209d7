"""An engine on another kind of model, and its sudden end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_policies import logprobs_under, perturbed, publish, tiny_model, weights_of

from rlserve.actors.rollout.engine import EngineOptions, RolloutEngine, SamplingChoice
from rlserve.errors import EngineDied

pytestmark = pytest.mark.slow


async def test_an_untied_llama_is_exact_after_a_swap_and_a_killed_engine_is_noticed_at_once(tmp_path: Path) -> None:
    model = tiny_model("llama", tied=False)
    model.save_pretrained(tmp_path / "model")
    engine = await RolloutEngine.start(
        EngineOptions(model_path=str(tmp_path / "model"), dtype="float32", max_length=512)
    )
    try:
        weights = perturbed(weights_of(model), seed=5)
        policy = publish(weights, 1, tmp_path / "weights.bin")
        await engine.stage(policy, tmp_path / "weights.bin")
        assert (await engine.swap(policy)).digest == policy.digest
        [sample] = await engine.generate(
            [1, 2, 3], n=1, sampling=SamplingChoice(max_new_tokens=100), seed=0, request_id="after"
        )
        assert {span.version for span in sample.policy_spans} == {1}
        expected = logprobs_under(model, weights, [1, 2, 3], sample.token_ids)
        assert np.abs(expected - sample.logprobs).max() < 1e-4

        running = [
            asyncio.create_task(
                engine.generate(
                    [1, 2, i], n=1, sampling=SamplingChoice(max_new_tokens=500), seed=i, request_id=f"lost-{i}"
                )
            )
            for i in range(4)
        ]
        await asyncio.sleep(0.3)
        killed = time.monotonic()
        for pid in engine.process_ids:
            os.kill(pid, signal.SIGKILL)
        ended = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 10)
        assert all(isinstance(error, EngineDied) for error in ended)
        await asyncio.wait_for(engine.died.wait(), 5)
        assert time.monotonic() - killed < 5
        assert not engine.alive
        with pytest.raises(EngineDied):
            await engine.generate([1], n=1, sampling=SamplingChoice(max_new_tokens=1), seed=0, request_id="later")
    finally:
        await engine.shutdown()


async def test_a_frozen_engine_is_given_up_at_the_limit_and_a_busy_machine_is_no_freeze(tmp_path: Path) -> None:
    """Stopped by a signal it neither answers nor computes: so looks a hang in a driver."""
    tiny_model("llama", tied=False).save_pretrained(tmp_path / "model")
    engine = await RolloutEngine.start(
        EngineOptions(model_path=str(tmp_path / "model"), dtype="float32", max_length=512, stall_seconds=3.0)
    )
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
        await engine.shutdown()
