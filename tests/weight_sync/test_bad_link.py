"""Weights for a worker on another host: over a good link, and over a bad one that is cut in the middle."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
import torch

from tests.support.bare_host import BadLink, bare_host
from tests.support.weight_stream import Learner

SCRIPT = Path(__file__).parents[1] / "support" / "processes" / "far_follower.py"
ROOT = Path(__file__).parents[2]
FLOATS = 300_000  # 1.2 MB, of which a fifth changes from one version to the next


def weights(version: int) -> list[tuple[str, torch.Tensor]]:
    tensor = torch.randn(FLOATS, generator=torch.Generator().manual_seed(0))
    tensor[: version * FLOATS // 5] += version
    return [("a", tensor)]


@pytest.mark.parametrize(
    "link",
    [
        pytest.param(None, id="good", marks=pytest.mark.whole),
        pytest.param(BadLink(delay_seconds=0.025, loss=0.01, mbit=20), id="bad"),
    ],
)
async def test_every_version_arrives_exact_at_a_host_that_shares_nothing(
    link: BadLink | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLSERVE_INSECURE", "1")  # the namespaces' own network
    learner = Learner(tmp_path / "learner")
    learner.directory.mkdir()
    with bare_host(tmp_path / "home", hidden=learner.directory, link=link) as host:
        if not host.prefix:
            pytest.skip("a host of its own needs the right to make network namespaces")
        learner.address = f"{host.near}:0"
        async with learner.life():
            learner.publisher.publish(weights(0), 0)
            process = await asyncio.create_subprocess_exec(
                *(*host.prefix, sys.executable, str(SCRIPT), learner.address, "2"),
                env={**host.environment(), "RLSERVE_INSECURE": "1"},
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                await learner_serves(learner, 0)
                learner.publisher.publish(weights(1), 1)
                if link:
                    host.cut()
                await learner_serves(learner, 1)
                learner.publisher.publish(weights(2), 2)
                await learner_serves(learner, 2)
                assert process.stdout is not None
                said = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
            finally:
                process.kill()
                await process.wait()
    # Confirmed by digest at the learner, which would have refused other bytes; none came by a file that both can open.
    assert learner.service.num_mismatches == 0
    assert set(said["taken"]) <= {"full_stream", "delta_stream"} and sum(said["taken"].values()) == 3
    print(said)


async def learner_serves(learner: Learner, version: int) -> None:
    async with asyncio.timeout(120):
        while learner.service.served().get("w0") != version:
            await asyncio.sleep(0.05)
