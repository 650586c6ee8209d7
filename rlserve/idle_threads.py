"""Threads that wait for others of their pool sleep instead of spinning.

OpenMP's threads spin at barriers. Alone on a machine that saves microseconds; where other processes want the cores
too, a spinning thread holds the core that the thread it waits for needs: 60 steps of pretraining with two threads on
two busy cores took 72 to 115 s spinning and 9 to 13 s sleeping.
"""

import os
from collections.abc import MutableMapping

SETTINGS = {
    "OMP_WAIT_POLICY": "passive",  # GNU's OpenMP, which torch brings
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's, which other builds bring
}


def sleep_when_idle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Choose so for this process and those that it starts; what the user set stays.

    OpenMP reads the environment when it is loaded: call it before anything imports torch.
    """
    for name, value in SETTINGS.items():
        environment.setdefault(name, value)
