"""A host without any file of the run joins it: what comes over the network, what is refused, and real processes."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rlserve.actors import join as joining
from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.hub.main import hub_server
from rlserve.actors.learner.joining import service as service_module
from rlserve.actors.learner.joining.parcel import parcel_for
from rlserve.actors.learner.joining.service import JoinService
from rlserve.actors.verifier.client import VerifierClient
from rlserve.config.load import to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, NotReady, Unavailable, UnknownName
from rlserve.records import Actor, ActorKind
from rlserve.rpc.server import serving
from rlserve.v1 import join_service_pb2 as pb
from rlserve.v1 import join_service_pb2_grpc as pb_grpc
from tests.support.bare_host import BareHost, bare_host
from tests.support.user_files import REWARDS

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-24-characters"
SECRET = "key-of-a-tracker"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory: what a worker needs, and what must stay."""
    place = tmp_path / "run" / "start"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (place / "tokenizer.json").write_text(json.dumps({"vocabulary": "x" * 3_000_000}))
    (place / "chat_template.jinja").write_text("{{ messages }}")
    (place / "model.safetensors").write_bytes(bytes(range(256)) * 9_000)
    (place / "modeling_mine.py").write_text("raise SystemExit")
    return place


def configured(tmp_path: Path, **changes: Any) -> RunConfig:
    (tmp_path / "run").mkdir(exist_ok=True)
    reward = tmp_path / "run" / "my_reward.py"
    reward.write_text(REWARDS)
    values: dict[str, Any] = {
        "name": "joined",
        "directory": str(tmp_path),
        "model": {"path": str(tmp_path / "run" / "start")},
        "environments": [
            {"name": "arithmetic", "reward": f"{reward}:digits", "options": {"api_key": SECRET}},
            {"name": "mine", "plugin": f"{tmp_path}/my_env.py:Env"},
        ],
        "teachers": [{"name": "big", "model": str(tmp_path / "run" / "start")}],
        "launch": {"ray": {"runtime_env": {"env_vars": {"KEY": SECRET}}}},
        "trackers": [{"type": "wandb", "options": {"key": SECRET}}],
        **changes,
    }
    return validate(RunConfig, values)


def parcel(role: ActorKind, tmp_path: Path, teacher: str = "", **changes: Any) -> Any:
    config = configured(tmp_path, **changes)
    return parcel_for(role, teacher, config, RunPaths(tmp_path / "run"), str(tmp_path / "run" / "start"))


def test_a_role_gets_what_it_reads_and_no_secret_of_another(tmp_path: Path, model: Path) -> None:
    rollout = parcel(ActorKind.ROLLOUT, tmp_path)
    assert {f.path for f in rollout.files} == {
        "model/config.json", "model/tokenizer.json", "model/chat_template.jinja", "model/model.safetensors"
    }  # fmt: skip
    teacher = parcel(ActorKind.TEACHER, tmp_path)
    assert teacher.files == rollout.files  # its model is the start model here
    verifier = parcel(ActorKind.VERIFIER, tmp_path, verifier={"share_functions": True})
    assert [f.path for f in verifier.files] == ["code/my_reward.py"]
    assert "code/my_reward.py:digits" in verifier.config
    for got in (rollout, teacher, verifier):
        assert SECRET not in got.config and str(tmp_path) not in got.config
        validate(RunConfig, tomllib.loads(got.config))


def test_what_a_role_cannot_have_is_refused_with_the_way_out(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"verifier\.share_functions: is false, .* need my_reward\.py"):
        parcel(ActorKind.VERIFIER, tmp_path)
    with pytest.raises(UnknownName, match=r"'small' is not in \[\[teachers\]\] \(known: big\)"):
        parcel(ActorKind.TEACHER, tmp_path, "small")
    with pytest.raises(InvalidRequest, match="joins as rollout, verifier, teacher"):
        parcel(ActorKind.HUB, tmp_path)
    made = {"name": "big", "sft": {"stage": {"corpus": {"environment": "arithmetic"}}}, "model": "start"}
    with pytest.raises(NotReady, match="in the making"):
        parcel(ActorKind.TEACHER, tmp_path, teachers=[made])


@pytest.mark.parametrize(
    ("path", "num_bytes", "why"),
    [
        ("../evil.json", 1, "only FOLDER/NAME"),
        ("/etc/cron.json", 1, "only FOLDER/NAME"),
        ("model/../../evil.json", 1, "only FOLDER/NAME"),
        ("model/a/b.json", 1, "only FOLDER/NAME"),
        ("model/.hidden.json", 1, "only FOLDER/NAME"),
        ("model\\evil.json", 1, "only FOLDER/NAME"),
        ("model/evil\n.json", 1, "only FOLDER/NAME"),
        ("config.toml", 1, "only FOLDER/NAME"),
        ("model//a.json", 1, "only FOLDER/NAME"),
        ("model/weights.bin", 1, "takes no such file"),
        ("model/modeling.py", 1, "takes no such file"),
        ("code/reward.py", 1, "takes no such file"),
        ("other/a.json", 1, "takes no such file"),
        ("model/tokenizer.json", 2**40, "at most"),
    ],
)
def test_a_file_that_must_not_be_written_is_refused(path: str, num_bytes: int, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        joining.check_files([pb.JoinFile(path=path, num_bytes=num_bytes, sha256="0" * 64)], ActorKind.ROLLOUT)


def test_a_digest_and_a_name_come_once_and_whole() -> None:
    good = pb.JoinFile(path="model/a.json", num_bytes=1, sha256="0" * 64)
    joining.check_files([good], ActorKind.ROLLOUT)
    joining.check_files([pb.JoinFile(path="code/a.py", num_bytes=1, sha256="0" * 64)], ActorKind.VERIFIER)
    twice = pb.JoinFile(path="model/A.json", num_bytes=1, sha256="0" * 64)
    for files in ([good, twice], [pb.JoinFile(path="model/a.json", sha256="xyz")]):
        with pytest.raises(InvalidRequest, match="listed twice, or its digest"):
            joining.check_files(files, ActorKind.ROLLOUT)


@asynccontextmanager
async def run_at(config: RunConfig, paths: RunPaths) -> AsyncIterator[str]:
    """A hub with a learner that only lets hosts join; yields its address."""
    service = JoinService(config, paths, str(paths.start_model))
    add = partial(pb_grpc.add_JoinServiceServicer_to_server, service)
    async with (
        hub_server("127.0.0.1:0", 3.0) as hub,
        HubClient(hub.address) as client,
        serving(add, service_names=[service_module.SERVICE_NAME]) as server,
        client.registered(Actor(actor_id="learner", kind=ActorKind.LEARNER, address=server.address, incarnation="1")),
    ):
        yield hub.address


async def test_files_arrive_whole_once_and_go_on_where_they_broke_off(tmp_path: Path, model: Path) -> None:
    cache = tmp_path / "cache"
    async with run_at(configured(tmp_path), RunPaths(tmp_path / "run")) as hub:
        join = partial(joining.join, hub, ActorKind.TEACHER, "", cache, wait_seconds=5)
        member = await join()
        weights = member.paths.root / "model" / "model.safetensors"
        assert weights.read_bytes() == (model / "model.safetensors").read_bytes()
        assert member.config.teachers[0].model == member.config.model.path == str(member.paths.root / "model")
        written = weights.stat().st_mtime_ns
        # The half of a file that an earlier attempt left; then a half that is damaged.
        tokenizer = member.paths.root / "model" / "tokenizer.json"
        for half in (tokenizer.read_bytes()[:1_500_000], b"?" * 1_500_000):
            tokenizer.rename(tokenizer.with_name("tokenizer.json.part"))
            tokenizer.with_name("tokenizer.json.part").write_bytes(half)
            assert (await join()).paths == member.paths
            assert tokenizer.read_bytes() == (model / "tokenizer.json").read_bytes()
        assert weights.stat().st_mtime_ns == written, "what is there must not be fetched again"
        # Changed behind the learner's back: what was listed does not come.
        weights.unlink()
        times = (model / "model.safetensors").stat()
        (model / "model.safetensors").write_bytes(bytes(times.st_size))
        os.utime(model / "model.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(InvalidRequest, match="is not what the learner listed"):
            await join()
        assert sorted(p.name for p in weights.parent.iterdir() if "safetensors" in p.name) == []


async def test_another_version_is_refused_with_both(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_at(configured(tmp_path), RunPaths(tmp_path / "run")) as hub:
        join = partial(joining.join, hub, ActorKind.ROLLOUT, "", tmp_path / "cache", wait_seconds=5)
        ours = joining.version()
        assert re.fullmatch(r"[\d.]+ \(protocol [0-9a-f]{12}\)", ours)
        monkeypatch.setattr(joining, "version", lambda: "9.9.9 (protocol 0)")
        with pytest.raises(
            InvalidRequest, match=re.escape(f"this host has rlserve 9.9.9 (protocol 0), the run {ours}")
        ):
            await join()
    assert not (tmp_path / "cache").exists()


async def test_a_hub_that_is_not_there_is_named_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "REACH_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"nothing answers at 127\.0\.0\.1:1"):
        await joining.join("127.0.0.1:1", ActorKind.ROLLOUT, "", tmp_path, wait_seconds=60)
    assert time.monotonic() - started < 10


@dataclass(frozen=True)
class Site:
    """A hub and a join point on this machine, and a host on which the run's directory is empty."""

    hub: str
    host: BareHost
    folder: Path
    tls: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    run = folder / "run"
    run.mkdir()
    config = configured(folder, verifier={"share_functions": True})
    RunPaths(run).config.write_text(to_toml(config))
    with bare_host(folder / "home", hidden=run) as host:
        tls = certificate(folder, host)
        environment = {**os.environ, **tls, "RLSERVE_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
        program = [sys.executable, "-m", "rlserve.cli.main"]
        started = [
            subprocess.Popen(
                [*program, "serve", "hub", "--run", str(run), "--address", f"{host.near}:0"],
                env=environment,
                stdout=subprocess.PIPE,
            )
        ]
        try:
            assert started[0].stdout is not None
            hub = started[0].stdout.readline().decode().strip()
            point = ROOT / "tests" / "support" / "processes" / "join_point.py"
            started.append(
                subprocess.Popen(
                    [sys.executable, str(point), hub, f"{host.near}:0", str(run), str(run)], env=environment
                )
            )
            yield Site(hub, host, folder, tls)
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(30)


def certificate(folder: Path, host: BareHost) -> dict[str, str]:
    """Of an authority of our own, by the documentation's recipe; one for both ends."""
    (recipe,) = re.findall(r"```sh\n(openssl.*?)```", (ROOT / "docs" / "hosts.md").read_text(), re.DOTALL)
    recipe = recipe.replace("DNS:host-a,IP:10.0.0.7", f"IP:127.0.0.1,IP:{host.near},IP:{host.far}")
    subprocess.run(["sh", "-e", "-c", recipe], cwd=folder, check=True, capture_output=True, timeout=60)
    names = {"CERTIFICATE": "host.pem", "KEY": "host.key", "CA": "ca.pem"}
    return {f"RLSERVE_TLS_{name}": str(folder / file) for name, file in names.items()}


def said(process: "subprocess.Popen[bytes]", log: Path) -> str:
    assert process.wait(60) == 1, log.read_text()
    return log.read_text()


def test_a_wrong_token_or_none_ends_the_attempt_at_once(site: Site, tmp_path: Path) -> None:
    for token in ("another-of-24-characters", ""):
        environment = {**site.tls, **({"RLSERVE_TOKEN": token} if token else {})}
        log = tmp_path / f"log{token}"
        started = time.monotonic()
        process = site.host.start("join", site.hub, "--as", "verifier", environment=environment, log=log)
        text = said(process, log)
        assert "set RLSERVE_TOKEN or RLSERVE_TOKEN_FILE" in text and "Traceback" not in text and TOKEN not in text
        assert time.monotonic() - started < 40  # imports on a busy machine take most of it


async def test_a_bare_host_becomes_a_verifier_of_the_users_function(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**site.tls, "RLSERVE_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "verifier.log"
    words = ("join", site.hub, "--token", TOKEN, "--as", "verifier", "--id", "far")
    process = site.host.start(*words, environment=site.tls, log=log)
    try:
        async with HubClient(site.hub) as hub:
            actor = await hub.wait_for(ActorKind.VERIFIER, serves="function/arithmetic", deadline_seconds=90)
        assert actor.actor_id == "far" and actor.address.startswith(f"{site.host.far}:")
        # It is reached where it says, and judges by the file that only the run has.
        async with VerifierClient(actor.address) as verifier:
            verdicts = await verifier.verify("function/arithmetic", ["12", "a1"], b"{}", "", deadline_seconds=60)
        assert [verdict.reward for verdict in verdicts] == [1.0, 0.5], log.read_text()
        (got,) = (site.folder / "home").glob(".cache/rlserve/join/joined-*")
        assert (got / "code" / "my_reward.py").read_text() == REWARDS
        assert not any(TOKEN in command for command in command_lines()), "every user can list the processes"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)
    assert process.returncode == 0, log.read_text()


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
