"""A run whose hub cannot listen ends at once and says why."""

import socket
from pathlib import Path

import pytest

from rlserve.config.load import load_run, to_toml
from rlserve.config.paths import RunPaths
from rlserve.launch.local import LocalLauncher, RunFailed


def launcher_at(address: str, root: Path) -> LocalLauncher:
    config = load_run(["configs/quickstart.toml"], [f"hub.address={address}"])
    paths = RunPaths(root / "run")
    paths.root.mkdir()
    paths.config.write_text(to_toml(config), encoding="utf-8")
    return LocalLauncher(config, paths)


@pytest.mark.parametrize("listens", [True, False])
async def test_an_address_that_is_taken_is_named(tmp_path: Path, listens: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunFailed, match=rf"hub.address: '127.0.0.1:{port}' is taken"):
            await launcher_at(f"127.0.0.1:{port}", tmp_path).start_hub()


@pytest.mark.slow
async def test_a_hub_that_dies_at_its_start_ends_the_run_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLSERVE_INSECURE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launcher = launcher_at(f"0.0.0.0:{port}", tmp_path)  # open to other hosts, and without TLS
    try:
        await launcher.start_hub()
        with pytest.raises(RunFailed, match=r"(?s)^hub: .*there is no TLS"):
            await launcher.run()
    finally:
        await launcher.close()
