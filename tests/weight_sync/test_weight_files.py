"""Weight files in real directories: who may remove them, and what happens where there is no room."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rlserve.errors import LimitExceeded
from rlserve.weight_sync.mapped_file import reading
from rlserve.weight_sync.own_directory import PREFIX, OwnDirectory, remove_leftovers
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.weight_files import WeightFiles, free_bytes

OWNER = """
import sys, signal
from pathlib import Path
from rlserve.weight_sync.mapped_file import reading
from rlserve.weight_sync.own_directory import OwnDirectory
own = OwnDirectory.below(Path(sys.argv[1]))
own.create("v0")
print(own.path, flush=True)
signal.pause()
"""
CLEANER = """
import sys
from pathlib import Path
from rlserve.weight_sync.mapped_file import reading
from rlserve.weight_sync.own_directory import remove_leftovers
remove_leftovers(Path(sys.argv[1]))
"""
MEGABYTE = np.zeros(2**20, dtype=np.uint8)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A living process with a directory below ``tmp_path``."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB in memory."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_what_a_living_process_owns_stays_until_it_dies(
    tmp_path: Path, owner: tuple["subprocess.Popen[str]", Path]
) -> None:
    process, path = owner
    remove_leftovers(tmp_path)
    assert (path / "v0").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_another_pid_namespace_leaves_the_living_alone(
    tmp_path: Path, owner: tuple["subprocess.Popen[str]", Path]
) -> None:
    process, path = owner
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", CLEANER, str(tmp_path)]
    if subprocess.run([*command[:4], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no pid namespace can be made here")
    subprocess.run(command, check=True)
    assert (path / "v0").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True)
    assert not path.exists()


def test_only_directories_of_this_kind_and_user_are_removed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / f"{PREFIX}-link").symlink_to(elsewhere)
    (shared / f"{PREFIX}-file").write_text("a file")
    (shared / "other").mkdir()
    remove_leftovers(shared)
    assert (elsewhere / "precious").exists()
    assert sorted(p.name for p in shared.iterdir()) == ["other", f"{PREFIX}-file", f"{PREFIX}-link"]
    if os.geteuid() == 0:
        foreign = shared / f"{PREFIX}-foreign"
        foreign.mkdir()
        os.chown(foreign, 12345, 12345)
        remove_leftovers(shared)
        assert foreign.exists()


def test_no_link_is_followed_and_nobody_else_may_enter(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    own = OwnDirectory.below(tmp_path)
    assert stat.S_IMODE(own.path.stat().st_mode) == 0o700
    (own.path / "v1-1").symlink_to(victim)
    with pytest.raises(FileExistsError):
        own.create("v1-1")
    own.close()
    assert victim.read_text() == "kept" and not own.path.exists()


def test_a_name_that_is_taken_is_left_alone_and_the_next_one_used(tmp_path: Path) -> None:
    files = WeightFiles(tmp_path)
    first = files.write(7, MEGABYTE).path
    (first.parent / "v8-2").write_text("not ours")
    second = files.write(8, MEGABYTE).path
    assert second.stat().st_size == 2**20 and (first.parent / "v8-2").read_text() == "not ours"
    files.close()


def test_a_directory_that_a_cleaner_removed_is_made_anew_and_that_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    files = WeightFiles(tmp_path, warn=told.append)
    kept = files.write(7, MEGABYTE)
    first = kept.path
    shutil.rmtree(first.parent)
    second = files.write(8, MEGABYTE).path
    assert second.stat().st_size == 2**20 and second.parent != first.parent
    assert len(kept.read(0, 2**21)) == 2**20  # who has it open keeps it
    assert told == [f"weights: {first.parent} was removed by another process; weights go through a new one"]
    kept.discard()
    files.close()
    assert not second.parent.exists()


def test_a_place_without_room_for_three_versions_is_not_taken(tmp_path: Path, small: Path) -> None:
    told: list[str] = []
    roomy = WeightFiles(small, fallback=tmp_path, warn=told.append)
    path = roomy.write(0, MEGABYTE).path
    assert path.is_relative_to(small) and not told
    roomy.close()
    tight = WeightFiles(small, fallback=tmp_path, warn=told.append)
    path = tight.write(0, np.zeros(2**21, dtype=np.uint8)).path
    assert not path.is_relative_to(small)
    assert f"{3 * 2**21} bytes for 3 versions" in told[0] and str(tmp_path) in told[0]
    tight.close()


def test_a_version_that_outgrows_its_place_goes_to_the_next_whole(tmp_path: Path, small: Path) -> None:
    told: list[str] = []
    files = WeightFiles(small, fallback=tmp_path, warn=told.append)
    first = files.write(2, MEGABYTE)
    content = np.random.default_rng(0).integers(0, 256, 6 * 2**20, dtype=np.uint8)
    path = files.write(3, content).path
    assert path.read_bytes() == content.tobytes()
    assert path.is_relative_to(tmp_path) and not path.is_relative_to(small)
    assert list(small.glob("*/v*")) == [first.path] and "version 3 needs 6291456 bytes" in told[0]
    files.close()
    assert not list(tmp_path.glob(f"{PREFIX}-*")) and not list(small.iterdir())


def test_pages_serve_a_later_version_unless_somebody_reads_them(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, run_id="r")

    def publish(version: int) -> int:
        publisher.publish([("a", torch.full((1000,), float(version)))], version)
        return publisher.get(version).path.stat().st_ino

    def content(version: int) -> bytes:
        return torch.full((1000,), float(version)).numpy().tobytes()

    first, second, third = publish(0), publish(1), publish(2)
    old = publisher.get(1)
    assert publish(3) == first and len({first, second, third}) == 3
    assert publish(4) not in (first, second, third), "this process still holds version 1"
    assert old.flat.tobytes() == content(1)
    with reading(publisher.get(3).path) as flat:
        publish(5)
        publish(6)
        assert publisher.get(6).path.stat().st_ino != first, "another process still reads version 3"
        assert flat.tobytes() == content(3)
    reader = publisher.get(6).path
    publisher.get(5).path.write_bytes(b"cut")
    for version in (7, 8, 9):
        publish(version)
        assert publisher.get(version).path.read_bytes() == content(version)
    assert len(list(tmp_path.glob("*/*"))) <= 4 and reader.exists() is False  # two kept, one retired, the lock
    publisher.close()


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    files = WeightFiles(tmp_path)
    file = files.write(0, MEGABYTE)
    assert file.take_over("v1-9")
    with pytest.raises(BlockingIOError), reading(file.path):
        pass
    file.release()
    with reading(file.path) as flat:
        assert flat.size == 2**20
        assert not file.take_over("v2-9")
    files.close()


def test_no_room_anywhere_says_what_is_needed_and_leaves_nothing_torn(small: Path) -> None:
    publisher = Publisher(small, run_id="r")
    publisher.publish([("a", torch.zeros(2**18))], 0)
    with pytest.raises(LimitExceeded, match=r"version 1: need 8388608 bytes, and \d+ are free .*--resume"):
        publisher.publish([("a", torch.zeros(2**20)), ("b", torch.zeros(2**20))], 1)
    assert len(list(small.glob("*/v*"))) == 1
    assert free_bytes(small) >= 3 * 2**20 - 2**16
    publisher.publish([("a", torch.ones(2**18))], 1)
    publisher.close()
    assert not list(small.iterdir())


def test_a_place_that_cannot_be_written_is_not_taken(tmp_path: Path) -> None:
    files = WeightFiles(tmp_path / "absent", fallback=tmp_path)
    path = files.write(0, MEGABYTE).path
    assert path.is_relative_to(tmp_path)
    files.close()
