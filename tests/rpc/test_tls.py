"""Mutual TLS with real certificates, and who may listen where."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rlserve.errors import ConfigError, RlserveError, Unavailable
from rlserve.rpc.channel import call, open_channel
from rlserve.rpc.server import serving
from rlserve.rpc.tls import TlsFiles, is_loopback

ROOT = Path(__file__).parents[2]


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> None:
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
        *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"),
        cwd=folder,
    )


def actor(folder: Path, name: str, ca: str) -> TlsFiles:
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        cwd=folder,
    )
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    openssl(
        *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-days", "1"),
        *("-CAcreateserial", "-extfile", "san", "-out", f"{name}.pem"),
        cwd=folder,
    )
    return TlsFiles(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", ca=folder / f"{ca}.pem")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificates")
    authority(path, "run-ca")
    authority(path, "other-ca")
    return path


async def is_answered(server: TlsFiles, client: TlsFiles | None) -> bool:
    async with (
        serving(lambda server: None, service_names=["test.Nothing"], tls=server) as running,
        open_channel(running.address, tls=client) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            await call(check, health_pb2.HealthCheckRequest(), deadline_seconds=5, what="server")
        except RlserveError:
            return False
        return True


async def test_only_a_client_of_the_same_authority_is_answered(folder: Path) -> None:
    server = actor(folder, "server", "run-ca")
    assert await is_answered(server, actor(folder, "client", "run-ca"))
    assert not await is_answered(server, None)
    stranger = actor(folder, "stranger", "other-ca")
    assert not await is_answered(server, stranger)
    trusting = TlsFiles(certificate=stranger.certificate, key=stranger.key, ca=server.ca)
    assert not await is_answered(server, trusting)


async def said(server: TlsFiles | None, client: TlsFiles | None) -> str:
    """What a call says that fails."""
    async with (
        serving(lambda server: None, service_names=["test.Nothing"], tls=server) as running,
        open_channel(running.address, tls=client) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        with pytest.raises(Unavailable) as error:
            await call(check, health_pb2.HealthCheckRequest(), deadline_seconds=20, what="server")
        return str(error.value)


async def test_a_failure_that_comes_of_tls_says_so(folder: Path) -> None:
    server, stranger = actor(folder, "server", "run-ca"), actor(folder, "stranger", "other-ca")
    assert "as a TLS server does when the client uses no TLS" in await said(server, None)
    assert "this side uses TLS and the peer does not" in await said(None, server)
    assert "not signed by the authority in RLSERVE_TLS_CA here" in await said(server, stranger)
    trusting = TlsFiles(certificate=stranger.certificate, key=stranger.key, ca=server.ca)
    assert "certificate of another authority" in await said(server, trusting)


@pytest.mark.parametrize("spoil", ["key", "certificate", "ca", "password"])
async def test_files_that_do_not_go_together_are_named(folder: Path, tmp_path: Path, spoil: str) -> None:
    files, other = actor(folder, "server", "run-ca"), actor(folder, "other", "run-ca")
    (tmp_path / "text.pem").write_text("no PEM")
    expected = (
        r"RLSERVE_TLS_KEY: .*other\.key' does not go with the TLS certificate '.*server\.pem' \(key values mismatch"
    )
    if spoil == "key":
        files = replace(files, key=other.key)
    if spoil == "certificate":
        files, expected = replace(files, certificate=tmp_path / "text.pem"), "does not go with the TLS certificate"
    if spoil == "ca":
        files, expected = replace(files, ca=tmp_path / "text.pem"), r"RLSERVE_TLS_CA: .*text\.pem' holds no certificate"
    if spoil == "password":
        openssl(*("ec", "-in", str(files.key), "-aes256", "-passout", "pass:x", "-out", "locked.key"), cwd=tmp_path)
        files, expected = replace(files, key=tmp_path / "locked.key"), r"locked\.key' is encrypted"
    with pytest.raises(ConfigError, match=expected):
        async with serving(lambda server: None, service_names=["test.Nothing"], tls=files):
            pass
    with pytest.raises(ConfigError, match=expected):
        open_channel("127.0.0.1:1", tls=files)


async def test_the_recipe_of_the_documentation_works(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```sh\n(openssl.*?)```", (ROOT / "docs" / "hosts.md").read_text(), re.DOTALL)
    assert len(recipe.splitlines()) == 5
    recipe = recipe.replace("host-a", "localhost").replace("10.0.0.7", "127.0.0.1")
    subprocess.run(["sh", "-e", "-c", recipe], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    files = TlsFiles(certificate=tmp_path / "host.pem", key=tmp_path / "host.key", ca=tmp_path / "ca.pem")
    assert await is_answered(files, files)
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


async def test_the_environment_names_the_files_for_both_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = actor(folder, "both", "run-ca")
    monkeypatch.setenv("RLSERVE_TLS_CERTIFICATE", str(files.certificate))
    monkeypatch.setenv("RLSERVE_TLS_KEY", str(files.key))
    with pytest.raises(ConfigError, match="RLSERVE_TLS_CA: is not set"):
        TlsFiles.from_environment()
    monkeypatch.setenv("RLSERVE_TLS_CA", str(files.ca))
    async with (
        serving(lambda server: None, service_names=["test.Nothing"], address="0.0.0.0:0") as running,
        open_channel(f"localhost:{running.port}") as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        await call(check, health_pb2.HealthCheckRequest(), deadline_seconds=5, what="server")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pem").touch()
    files = TlsFiles(certificate=tmp_path / "a.pem", key=tmp_path / "a.key", ca=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match=r"a\.key.* cannot be read"):
        files.server_credentials()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:0", True),
        ("127.8.9.1:5", True),
        ("localhost:80", True),
        ("[::1]:80", True),
        ("unix:socket", True),
        ("0.0.0.0:0", False),
        ("[::]:0", False),
        (":0", False),
        ("10.0.0.7:5", False),
        ("localhost.example.org:5", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        is_loopback("127.0.0.1")
