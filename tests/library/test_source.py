"""The source of functions that lie in a script or a notebook: a module that works alone, or a sentence why not."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import functools
import json as j
import math
import re
import os.path
from collections import Counter

from rlserve.library.source import source_of

WORDS = {"yes": 1.0, "no": -1.0}
PATTERN = re.compile("[0-9]+", re.I)
CLIENT = open(os.devnull)
MAX = 7


class Scale:
    by = 2.0

    def times(self, number):
        return self.by * number


def helper(text):
    return WORDS.get(text, 0.0) + len(PATTERN.findall(text))


def reward(completions, factor: "Unknown" = WORDS["yes"], **columns):
    total = Counter(completions)
    joined = os.path.join("a", "b")
    return [Scale().times(helper(c)) * factor + 0 * total[c] + 0 * len(j.dumps(joined)) for c in completions]


def outer():
    bonus = 10.0

    def inner(completions, **columns):
        return [bonus + math.sqrt(len(c)) for c in completions]

    return inner


def uses_client(completions, **columns):
    return [CLIENT.name for c in completions]


@functools.lru_cache(maxsize=MAX)
def cached(number):
    return number * 2


class Loss(Scale):

    start: "Unknown" = MAX

    def loss(self, number):
        return self.times(cached(number)) + len(list(WORDS))


inner = outer()
short = lambda completions, **columns: [0.0 for c in completions]
"""


def ran(tmp_path: Path, wanted: str) -> str:
    """What the script prints: the source of ``wanted``, as a script alone makes it."""
    (tmp_path / "script.py").write_text(SCRIPT + f"\nprint(source_of({wanted}, what='reward'))\n")
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]


def test_a_function_takes_along_what_it_uses(tmp_path: Path) -> None:
    source = ran(tmp_path, "reward")
    there: dict[str, object] = {"__name__": "there"}
    exec(source, there)
    assert there["reward"](["yes", "12", "x"]) == [2.0, 2.0, 0.0]  # type: ignore[operator]
    assert "CLIENT" not in source and "uses_client" not in source
    assert f"sys.path.append('{tmp_path}')" in source


def test_a_function_in_a_function_takes_along_its_values(tmp_path: Path) -> None:
    there: dict[str, object] = {"__name__": "there"}
    exec(ran(tmp_path, "inner"), there)
    assert there["inner"](["abcd"]) == [12.0]  # type: ignore[operator]


def test_a_class_takes_along_its_bases_and_decorated_helpers(tmp_path: Path) -> None:
    there: dict[str, object] = {"__name__": "there"}
    exec(ran(tmp_path, "Loss"), there)
    made = there["Loss"]()  # type: ignore[operator]
    assert made.loss(3) == 14.0 and made.start == 7


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("uses_client", "reward: uses 'CLIENT' of this script, a TextIOWrapper, which cannot be sent to the process"),
        ("short", "reward: '<lambda>' is no function of `def`; give it a name with `def`"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(tmp_path: Path, wanted: str, said: str) -> None:
    assert said in ran(tmp_path, wanted)


def test_without_a_source_a_file_is_asked_for() -> None:
    program = "def f(c): return [0]\nfrom rlserve.library.source import source_of\nsource_of(f, what='reward')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "reward: the source of 'f' cannot be read (OSError); put it into a file" in done.stderr
