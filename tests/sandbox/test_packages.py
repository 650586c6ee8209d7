"""A Python that is named brings its packages, wherever it lies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlserve.records import Outcome
from rlserve.sandbox.interpreter import interpreter_of
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.sandbox import Sandbox
from rlserve.sandbox.stdio import StdioTest
from rlserve.sandbox.walls.tiers import real_python

LIMITS = Limits(cpu_seconds=4, wall_seconds=10)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment below ``/tmp``, where boxes have their scratch directory, with packages of three kinds."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (packages,) = home.glob("lib/python3*/site-packages")
    (packages / "plain.py").write_text("VALUE = 1")
    (packages / "deep").mkdir()
    (packages / "deep" / "__init__.py").write_text("")
    (packages / "deep" / "inner.py").write_text("import json.tool, plain\nVALUE = plain.VALUE + 1")
    linked = tmp_path_factory.mktemp("linked")
    (linked / "linked.py").write_text("VALUE = 3")
    (packages / "linked.pth").write_text(f"import os\n# a comment\n{linked}\n")
    for folder in (home, *home.parents[:-2]):
        folder.chmod(0o755)
    linked.chmod(0o755)
    return home


def test_the_packages_of_a_virtual_environment_are_there(environment: Path) -> None:
    program = "import plain, deep.inner, linked, xml.dom.minidom\nprint(plain.VALUE, deep.inner.VALUE, linked.VALUE)"
    with Sandbox(python=str(environment / "bin" / "python")) as sandbox:
        found = sandbox.stdio(program, [StdioTest("", "1 2 3")], LIMITS)
        assert found.outcome is Outcome.PASS, found
        function = sandbox.function("import plain\ndef f(): return plain.VALUE", "assert f() == 1", LIMITS)
        assert function.outcome is Outcome.PASS, function
        write = "import plain\nopen(plain.__file__, 'w')"
        assert sandbox.stdio(write, [StdioTest("", "")], LIMITS).outcome is Outcome.CRASH
    assert (environment / "lib").exists()


def test_without_a_name_there_are_no_packages() -> None:
    assert interpreter_of() == interpreter_of("")
    assert interpreter_of().packages == ()
    with Sandbox() as sandbox:
        assert sandbox.stdio("import numpy", [StdioTest("", "")], LIMITS).outcome is Outcome.CRASH


def test_compiled_packages_work() -> None:
    program = "import numpy as np\nprint(np.linalg.norm(np.array([3.0, 4.0])), np.arange(3).sum())"
    calls = "import numpy as np\ndef f(x): return np.int64(x) + np.arange(2)"
    with Sandbox(python=sys.executable) as sandbox:
        found = sandbox.stdio(program, [StdioTest("", "5.0 3")], LIMITS)
        assert found.outcome is Outcome.PASS, found
        assert sandbox.function(calls, "assert f(1) == [1, 2]", LIMITS).outcome is Outcome.PASS


def test_a_virtual_environment_is_told_from_an_interpreter(environment: Path) -> None:
    named = interpreter_of(str(environment / "bin" / "python"))
    assert named.path == real_python()
    assert [Path(path).name[:6] for path in named.packages] == ["site-p", "linked"]
    assert all(path.startswith(os.path.realpath("/tmp")) for path in named.packages)
