"""Weights in shared memory that others clean up, or that is gone."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.weight_sync.publisher import Publisher
from tests.support.reported import cases
from tests.support.weight_stream import Learner, following, weights

KINDS = ("leftover-files-of-the-living", "shared-file-fallback")
CLEANER = """
import sys
from pathlib import Path
from rlserve.weight_sync.own_directory import remove_leftovers
remove_leftovers(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("case", cases("leftover-files-of-the-living"))
def test_the_living_keep_their_files(case: Mapping[str, Any], tmp_path: Path) -> None:
    assert case["expected"] == "the live learner's file stays"
    publisher = Publisher(tmp_path, run_id="r")
    publisher.publish([("a", torch.zeros(10))], 0)
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", CLEANER, str(tmp_path)]
    if subprocess.run([*command[:4], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no pid namespace can be made here")
    subprocess.run(command, check=True)
    assert publisher.get(0).path.exists()
    publisher.close()


@pytest.mark.parametrize("case", cases("shared-file-fallback"))
async def test_what_is_not_in_shared_memory_comes_over_the_stream(case: Mapping[str, Any], tmp_path: Path) -> None:
    """The same in a whole run: ``tests/e2e/test_shared_weights.py``."""
    assert case["expected"] == "the worker asks for a full copy over the stream"
    learner = Learner(tmp_path)
    async with learner.life():
        learner.publisher.subscribe(lambda policy: learner.publisher.get(policy.version).path.unlink())
        async with following(learner, tmp_path) as (engine, subscriber):
            for version in range(2):
                learner.publisher.publish(weights(version + 1), version)
                await learner.serves(version)
                assert torch.equal(engine.tensors["b"], weights(version + 1)[1][1])
            assert subscriber.counts.taken == {"full_stream": 2}
