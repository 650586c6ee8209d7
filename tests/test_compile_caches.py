"""Where compiled kernels are kept."""

import socket
import subprocess
import sys
from importlib import metadata

from rlserve.compile_caches import PLACES, directory, keep_compiled


def test_caches_are_of_the_host_and_the_versions() -> None:
    environment = {"XDG_CACHE_HOME": "/caches", "TRITON_CACHE_DIR": "/mine"}
    keep_compiled(environment)
    there = directory(environment)
    host = f"/caches/rlserve/compiled/{socket.gethostname()}/"
    assert str(there).startswith(f"{host}torch-{metadata.version('torch')}_vllm")
    assert environment["VLLM_CACHE_ROOT"] == f"{there}/vllm"
    assert environment["TRITON_CACHE_DIR"] == "/mine"
    before = dict(environment)
    keep_compiled(environment)
    assert environment == before and environment.keys() >= PLACES.keys()


def test_actors_keep_theirs_there() -> None:
    """An actor that cannot even start has set them by then: nothing is imported before."""
    code = (
        "import os, sys\nfrom rlserve.cli.main import main\nmain(['serve', 'rollout', '--config', 'nothing.toml'])\n"
        "print(os.environ['VLLM_CACHE_ROOT'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0].endswith("/vllm") and done.stdout.split()[1] == "False"
