"""The swap of accelerators, on real vLLM models: parameters keep their addresses and get what vLLM's loader gives.

Copies from host to host here; the same code copies from host to device and within it on a GPU.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
        assert found["shared"] == {"kept": True, "digest": True, "same": True, "freed": True}
        assert found["flipped"]["outcome"] == "mismatch" and "differs from what was" in found["flipped"]["error"]
        assert found["missing"]["outcome"] == "mismatch" and "no checkpoint tensor" in found["missing"]["error"]
