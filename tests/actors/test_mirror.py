"""A run's copy at a URL: whole or absent, tried again, checked by digest on its way back; at a real S3 server, too."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rlserve.actors.checkpoints import FORMAT, TRAINING, latest, open_checkpoint
from rlserve.actors.learner.store_copy import restore_store
from rlserve.actors.mirror import uploads as uploads_module
from rlserve.actors.mirror.fetch import fetch_run
from rlserve.actors.mirror.place import Place
from rlserve.actors.mirror.uploads import Uploads, claim, mirrored
from rlserve.config.load import to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError, InvalidRequest, StateCorrupt
from rlserve.launch.preflight.machine import check_mirror
from rlserve.observability.events import read_json_lines
from rlserve.observability.warner import Warner
from rlserve.store.registry import backend_of


def configured(directory: Path, mirror: str) -> RunConfig:
    values = {
        "name": "mine",
        "directory": str(directory),
        "pretrain": {"stage": {"corpus": {"environment": "arithmetic"}}},
        "environments": [{"name": "arithmetic"}],
        "checkpoint": {"mirror": mirror},
    }
    return validate(RunConfig, values)


def made(directory: Path, mirror: str) -> tuple[RunConfig, RunPaths]:
    """A run directory as the launcher and the learner write it, without a checkpoint."""
    config = configured(directory, mirror)
    paths = RunPaths(directory / "mine")
    for place in (paths.start_model, paths.checkpoints, paths.logs):
        place.mkdir(parents=True)
    paths.config.write_text(to_toml(config))
    (paths.start_model / "model.safetensors").write_bytes(os.urandom(5000))
    (paths.logs / "learner.log").write_text("it trains")
    paths.metrics.write_text(json.dumps({"step": 1}) + "\n")
    backend_of(config.store).open(paths).close()
    return config, paths


def save(config: RunConfig, paths: RunPaths, step: int) -> Path:
    """A checkpoint by the project's own means; sealed last, as the learner does it."""
    from rlserve.actors.checkpoints import seal

    place = paths.checkpoints / f"step-{step}"
    (place / TRAINING).mkdir(parents=True)
    (place / "model.safetensors").write_bytes(os.urandom(70_000))
    (place / TRAINING / "optimizer-00001.safetensors").write_bytes(os.urandom(3000))
    store = backend_of(config.store).open(paths)
    store.copy_to(place / TRAINING / "groups.sqlite", step=step)
    store.close()
    content = {"step": step, "state": {}, "optimizer_steps": step}
    seal(place, content, {})
    return place


def memory() -> str:
    """A mirror of a test's own: the memory of fsspec is one for the process."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "file"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return memory() if request.param == "memory" else f"file://{tmp_path}/mirror"


def uploads(config: RunConfig, paths: RunPaths) -> Uploads:
    place = uploads_module.mirror_of(config)
    assert place is not None
    return Uploads(place, paths, Warner(paths.events))


def same(one: Path, other: Path) -> bool:
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    return bool(files) and all((one / f).read_bytes() == (other / f).read_bytes() for f in files)


def test_a_run_comes_back_on_a_machine_that_has_nothing_of_it(mirror: str, tmp_path: Path) -> None:
    config, paths = made(tmp_path / "here", mirror)
    save(config, paths, 2), save(config, paths, 4)
    with mirrored(config, paths, Warner(paths.events)):
        newest = save(config, paths, 6)
    back = fetch_run(f"{mirror}/mine", tmp_path / "there")
    assert back.root == tmp_path / "there" / "mine"
    assert same(newest, back.checkpoints / "step-6") and same(paths.start_model, back.start_model)
    assert (back.logs / "learner.log").exists() is False  # of that machine; at the mirror for people
    assert Place(f"{mirror}/mine").read("logs/learner.log") == b"it trains"
    assert back.metrics.read_text() == paths.metrics.read_text()
    assert f'directory = "{tmp_path}/there"' in back.config.read_text()
    found = latest(back.checkpoints)
    assert found is not None and found.step == 6
    assert restore_store(backend_of(config.store), back)[0] == 6 and back.store.exists()
    noted = [e for e in read_json_lines(paths.events) if e["event"] == "mirrored"]
    assert noted[-1]["checkpoint"] == "step-6" and noted[-1]["bytes"] > 73_000
    with pytest.raises(InvalidRequest, match=r"is here already; continue it with rlserve run --resume"):
        fetch_run(f"{mirror}/mine", tmp_path / "there")
    with pytest.raises(InvalidRequest, match="there is no run at"):
        fetch_run(f"{mirror}/other", tmp_path / "there")


def test_the_mirror_holds_the_newest_and_the_best_and_what_was_given_up_goes(mirror: str, tmp_path: Path) -> None:
    config, paths = made(tmp_path / "here", mirror)
    copies = uploads(config, paths)
    place = Place(f"{mirror}/mine")
    save(config, paths, 2)
    (paths.checkpoints / "best").symlink_to("step-2")
    copies.look(records=True)
    save(config, paths, 4)
    (paths.checkpoints / ".step-5.77.partial").mkdir()  # in the making: it has no manifest, nor a name to be found by
    (paths.checkpoints / "step-6").mkdir()
    copies.look(records=True)
    assert place.names("checkpoints") == ["best", "step-2", "step-4"]
    back = fetch_run(f"{mirror}/mine", tmp_path / "there")
    assert sorted(p.name for p in back.checkpoints.iterdir()) == ["step-2", "step-4"]
    # A resume went back to step 2 and made step 3: step 4 belongs to a future that was given up.
    (paths.checkpoints / "step-4").rename(tmp_path / "gone")
    save(config, paths, 3)
    copies.look(records=True)
    assert place.names("checkpoints") == ["best", "step-2", "step-3"]


def test_the_same_step_saved_again_replaces_the_first(mirror: str, tmp_path: Path) -> None:
    config, paths = made(tmp_path / "here", mirror)
    copies = uploads(config, paths)
    save(config, paths, 2)
    copies.look(records=True)
    (paths.checkpoints / "step-2").rename(tmp_path / "first")
    second = save(config, paths, 2)
    copies.look(records=True)
    assert same(second, fetch_run(f"{mirror}/mine", tmp_path / "there").checkpoints / "step-2")


def test_what_is_torn_or_damaged_there_is_named_and_an_older_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = f"file://{tmp_path}/mirror"
    config, paths = made(tmp_path / "here", mirror)
    copies = uploads(config, paths)
    there = tmp_path / "mirror" / "mine" / "checkpoints"
    for step in (2, 4, 6):
        save(config, paths, step)
        copies.look(records=True)
    (there / "step-6" / "manifest.json").unlink()  # killed before its last file
    damaged = bytearray((there / "step-4" / "model.safetensors").read_bytes())
    damaged[1000] ^= 1
    (there / "step-4" / "model.safetensors").write_bytes(damaged)
    back = fetch_run(f"{mirror}/mine", tmp_path / "there")
    assert [p.name for p in back.checkpoints.iterdir()] == ["step-2"]
    open_checkpoint(back.checkpoints / "step-2")
    assert "step-6 of the mirror is passed over" in caplog.text and "step-4 of the mirror is passed over" in caplog.text
    (there / "step-2" / "model.safetensors").unlink()
    with pytest.raises(StateCorrupt, match=r"none at .* is whole: step-6 .*step-4 .*step-2"):
        fetch_run(f"{mirror}/mine", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "mine").exists()


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil"])
def test_a_manifest_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    place = Place(memory())
    listed = {"format": FORMAT, "files": {name: {"bytes": 0, "sha256": ""}}}
    place.write("tree/manifest.json", json.dumps(listed).encode())
    with pytest.raises(StateCorrupt, match="which is not inside its folder"):
        place.get_tree("tree", tmp_path / "tree")


class Flaky(MemoryFileSystem):  # type: ignore[misc]
    """A storage that refuses every third call, as a throttled one does."""

    protocol = "flaky"
    calls = 0

    def put_file(self, *arguments: Any, **options: Any) -> None:
        Flaky.calls += 1
        if Flaky.calls % 3 == 1:
            raise TimeoutError("SlowDown: please reduce your request rate")
        super().put_file(*arguments, **options)


def test_what_fails_is_tried_again_while_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(uploads_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(uploads_module, "MAX_PAUSE_SECONDS", 0.02)
    mirror = f"flaky://{uuid.uuid4().hex}"
    config, paths = made(tmp_path / "here", mirror)
    with mirrored(config, paths, Warner(paths.events)):
        newest = save(config, paths, 2)
    assert Flaky.calls > 6
    (warning,) = [e for e in read_json_lines(paths.events) if e["event"] == "warning"][:1]
    assert "SlowDown: please reduce your request rate; it is tried again" in warning["message"]
    assert same(newest, fetch_run(f"{mirror}/mine", tmp_path / "there").checkpoints / "step-2")


def test_a_mirror_that_takes_nothing_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(uploads_module, "PATIENCE_SECONDS", 0.2)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    config, paths = made(tmp_path / "here", f"file://{blocked}/mirror")
    with mirrored(config, paths, Warner(paths.events)):
        save(config, paths, 2)
    said = [e["message"] for e in read_json_lines(paths.events) if e["event"] == "warning"]
    assert any("has it, and a resume from there copies the rest" in message for message in said)
    (fault,) = check_mirror(config)
    assert "checkpoint.mirror: " in fault.message and "cannot write" in fault.message


def test_a_mirror_of_another_run_is_not_written_over(mirror: str, tmp_path: Path) -> None:
    config, paths = made(tmp_path / "here", mirror)
    claim(config, overwrite=False)
    uploads(config, paths).look(records=True)
    with pytest.raises(InvalidRequest, match=r"there is a run at .*/mine already; continue it with"):
        claim(config, overwrite=False)
    claim(config, overwrite=True)
    assert Place(f"{mirror}/mine").read("config.toml") is None
    assert not list(check_mirror(config)) and not list(check_mirror(configured(tmp_path, "")))


def test_a_url_that_nothing_here_serves_is_named() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.mirror: 'nosuch://a' cannot be used"):
        Place("nosuch://a")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server on this machine; yields the URL of a bucket."""
    pytest.importorskip("s3fs", reason="pip install 'rlserve[s3]'")
    pytest.importorskip("moto", reason="pip install 'moto[s3,server]'")
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stdout=file, stderr=file)
    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        try:
            deadline = time.monotonic() + 60
            while "Running on http" not in log.read_text():
                assert time.monotonic() < deadline and server.poll() is None, log.read_text()
                time.sleep(0.1)
            address = next(word for word in log.read_text().split() if word.startswith("http://"))
            for name, value in {**names, "AWS_ENDPOINT_URL": address}.items():
                patch.setenv(name, value)
            fsspec.filesystem("s3").mkdir("rlserve-test")
            yield "s3://rlserve-test/runs"
        finally:
            server.terminate()
            server.wait(30)


def test_the_same_at_a_real_s3_server(s3: str, tmp_path: Path) -> None:
    config, paths = made(tmp_path / "here", s3)
    assert not list(check_mirror(config))
    claim(config, overwrite=False)
    save(config, paths, 2)
    with mirrored(config, paths, Warner(paths.events)):
        newest = save(config, paths, 4)
    back = fetch_run(f"{s3}/mine", tmp_path / "there")
    assert same(newest, back.checkpoints / "step-4") and same(paths.start_model, back.start_model)
    fsspec.filesystem("s3").pipe_file("rlserve-test/runs/mine/checkpoints/step-4/model.safetensors", b"damaged")
    with pytest.raises(StateCorrupt, match="step-4"):
        fetch_run(f"{s3}/mine", tmp_path / "again")
    (paths.checkpoints / "step-4").rename(tmp_path / "gone")
    uploads(config, paths).look(records=True)  # as after a resume from step 2
    assert latest(fetch_run(f"{s3}/mine", tmp_path / "older").checkpoints) is not None
