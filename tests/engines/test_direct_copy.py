"""The swap of accelerators, on real vLLM models: parameters keep their addresses and get what vLLM's loader gives.

Copies from host to host here; the same code copies from host to device and within it on a GPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlserve.engines.vllm.readback import policy_from_wire
from rlserve.weight_sync.manifest import combined_digest

SCRIPT = """
import json, sys
from pathlib import Path
from rlserve.engines.vllm.options import prepare_environment
prepare_environment(on_cpu=True)
from tests.support.processes import swapped_model
print(json.dumps({path: swapped_model.swap_twice(path, Path(sys.argv[1])) for path in sys.argv[2:]}))
"""


@pytest.mark.whole  # vLLM is imported in a process of its own
def test_parameters_keep_their_place_and_hold_what_vllm_would_load_oracle(tmp_path: Path) -> None:
    """A tied and an untied model, in one process: importing vLLM takes longer than all the rest."""
    from tests.support.models.learner_work import save_policy

    models = [save_policy(tmp_path / "a", family="qwen3"), save_policy(tmp_path / "b", family="llama", tied=False)]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), *map(str, models)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert not done.returncode, done.stderr[-3000:]
    for found in json.loads(done.stdout.splitlines()[-1]).values():
        assert found["method"] == "copy" and found["fused"]
        assert found["same"] == [True, True] and found["digests"] == [True, True]
        assert found["addresses"] and found["rooms"] == 1 and found["damage"]
        assert found["shared"] == {"kept": True, "room": True, "digest": True, "same": True, "freed": True}
        assert found["flipped"]["outcome"] == "mismatch" and "differs from what was" in found["flipped"]["error"]
        assert found["missing"]["outcome"] == "mismatch" and "no checkpoint tensor" in found["missing"]["error"]


PART = """
import json, sys
from pathlib import Path
from rlserve.engines.vllm.options import prepare_environment
prepare_environment(on_cpu=True)
from tests.support.processes import swapped_model
print(json.dumps(swapped_model.swap_part(sys.argv[2], Path(sys.argv[1]), int(sys.argv[3]), 2)))
"""


@pytest.mark.whole  # as above, twice
@pytest.mark.parametrize("heads", [2, 1])
def test_each_of_two_ranks_copies_its_part_and_together_they_prove_the_whole_oracle(tmp_path: Path, heads: int) -> None:
    """With fewer heads of keys and values than ranks, both ranks hold the same one."""
    from tests.support.models.learner_work import save_policy

    model = save_policy(tmp_path / "a", family="qwen3", num_key_value_heads=heads)
    command = [sys.executable, "-c", PART, str(tmp_path), str(model)]
    environment = {**os.environ, "VLLM_DIST_IDENT": tmp_path.name}  # names the ranks' shared memory
    ranks = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True, env=environment) for rank in (0, 1)
    ]
    found = [json.loads(rank.communicate(timeout=400)[0].splitlines()[-1]) for rank in ranks]
    policy = policy_from_wire(found[0]["policy"])
    for rank in found:
        assert rank["method"] == "copy" and rank["same"] and rank["addresses"]
        assert rank["room"] < 1.2 * rank["held_bytes"] < 0.8 * policy.total_bytes
    assert combined_digest(policy, [rank["share"] for rank in found]) == policy.digest
    for name in found[0]["damage"]:
        assert combined_digest(policy, [found[0]["damage"][name], found[1]["share"]]) != policy.digest
        assert combined_digest(policy, [found[0]["share"], found[1]["damage"][name]]) != policy.digest
