"""``rlserve env`` against a real hub and a stranger's server, each in a process of its own."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlserve.cli.main import main

SUPPORT = Path(__file__).parents[1] / "support" / "processes"


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and the first line that it prints."""
    running = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield running, running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with process(str(SUPPORT / "hub_process.py"), "127.0.0.1:0", "1.0") as (_, address):
        yield address


@pytest.fixture
def stranger() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with process(str(SUPPORT / "stranger_environment.py")) as found:
        yield found


def test_a_strangers_server_is_registered_listed_sampled_and_taken_out(
    hub: str, stranger: tuple[subprocess.Popen[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, address = stranger
    assert main(["env", "register", address, "--hub", hub, "--weight", "0.5"]) == 0
    assert main(["env", "list", "--hub", hub]) == 0
    listed = capsys.readouterr().out
    assert "letters" in listed
    assert address in listed
    assert "0.5" in listed
    assert main(["status", "--hub", hub]) == 0
    assert "environment letters 1 at" in capsys.readouterr().out
    assert main(["env", "sample", "letters", "--hub", hub, "-n", "2", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["prompt"] != second["prompt"]
    assert json.loads(first["payload"]) == {"answer": first["prompt"][0]}
    assert main(["env", "unregister", "letters", "--hub", hub]) == 0
    capsys.readouterr()
    assert main(["env", "list", "--hub", hub]) == 0
    assert "letters" not in capsys.readouterr().out
    assert main(["env", "unregister", "letters", "--hub", hub]) == 1
    assert "not registered" in capsys.readouterr().err


def test_a_kept_registration_ends_when_the_server_dies(
    hub: str, stranger: tuple[subprocess.Popen[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, address = stranger
    with process("-m", "rlserve.cli.main", "env", "register", address, "--hub", hub, "--keep") as (keeper, line):
        assert "letters" in line
        assert main(["env", "list", "--hub", hub]) == 0
        assert "letters" in capsys.readouterr().out
        server.kill()
        assert keeper.wait(timeout=15) == 1
    assert main(["env", "list", "--hub", hub]) == 0
    assert "letters" not in capsys.readouterr().out


def test_a_spec_file_is_checked_by_field(tmp_path: Path, hub: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('name = "x"\naddress = "127.0.0.1:1"\nsplits = { train = 10 }\nweight = 0.0\nheld_out = ["dev"]\n')
    assert main(["env", "register", str(spec), "--hub", hub]) == 0
    assert main(["env", "unregister", "x", "--hub", hub]) == 0
    for content, problem in [
        ('name = "x"', "address: is missing"),
        ("colour = 3", "colour: is unknown"),
        ("=", "not a TOML"),
    ]:
        spec.write_text(content)
        assert main(["env", "register", str(spec), "--hub", hub]) == 1
        assert problem in capsys.readouterr().err
    spec.write_text('name = "x"\naddress = "nowhere"\nsplits = { train = 10 }')
    assert main(["env", "register", str(spec), "--hub", hub]) == 1
    assert "spec.address" in capsys.readouterr().err


def test_an_installed_environment_is_sampled_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "sample", "arithmetic", "-n", "1", "--option", "max_digits=3"]) == 0
    assert "exact:" in capsys.readouterr().out
    assert main(["env", "sample", "guess", "-n", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "    judged by its environment"
    assert main(["env", "list"]) == 0
    assert "arithmetic" in capsys.readouterr().out
    assert main(["env", "sample", "nothing"]) == 1
    assert "not registered (known: " in capsys.readouterr().err


def test_a_spec_with_a_command_starts_its_server_and_ends_it(tmp_path: Path, hub: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = tmp_path / "spec.toml"
    spec.write_text(
        f'name = "letters"\nversion = "1"\naddress = "127.0.0.1:{port}"\nsplits = {{ train = 0 }}\nverifier = "exact"\n'
        f'command = ["{sys.executable}", "{SUPPORT / "stranger_environment.py"}", "127.0.0.1:{port}"]\n'
        "sampling = { max_new_tokens = 5, stop = ['#'] }\n"
    )
    command = ("-m", "rlserve.cli.main", "env", "register", str(spec), "--hub", hub, "--start")
    with process(*command) as (keeper, _):
        assert keeper.stdout is not None
        while "Ctrl-C unregisters" not in keeper.stdout.readline():
            pass
        assert main(["env", "sample", "letters", "--hub", hub, "-n", "1"]) == 0
        keeper.terminate()
        assert keeper.wait(timeout=15) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_spec_says_which_sampling_it_does_not_know(
    tmp_path: Path, hub: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.toml"
    for sampling, message in [("{ topp = 1 }", "sampling.topp: "), ("{ stop = [''] }", "sampling.stop.0: ")]:
        spec.write_text(f"name = 'x'\naddress = '127.0.0.1:1'\nsplits = {{ train = 0 }}\nsampling = {sampling}\n")
        assert main(["env", "register", str(spec), "--hub", hub]) == 1
        said = capsys.readouterr().err
        assert f"spec.toml: {message}" in said and "known: temperature, max_new_tokens, stop" in said
