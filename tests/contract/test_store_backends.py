"""What every ``[store] type`` promises. A new one is one more entry of ``registry.BACKENDS``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlserve.config.paths import RunPaths
from rlserve.config.tables.store import StoreConfig
from rlserve.errors import ConfigError, StateCorrupt, UnknownName
from rlserve.store.base import GroupInfo, StoreBackend
from rlserve.store.registry import BACKENDS, backend_of
from tests.support.processes.redis_server import shared_server

OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {"redis": lambda: {"url": shared_server().url}}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> StoreBackend:
    options = OPTIONS.get(request.param, dict)()
    return backend_of(StoreConfig(type=request.param, options=options))


def test_a_store_is_there_once_it_was_opened_and_has_kept_its_groups(backend: StoreBackend, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert not backend.exists(paths)
    with_group(backend, paths, "a")
    assert backend.exists(paths) and backend.place(paths)
    again = backend.open(paths)
    assert [group.group_id for group in again.queued()] == ["a"]
    again.close()


def test_facts_can_be_read_while_the_store_is_in_use(backend: StoreBackend, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert backend.peek(paths, "key") is None and not backend.exists(paths), "a look makes nothing"
    store = backend.open(paths)
    assert backend.peek(paths, "key") is None
    store.remember("key", "value")
    assert backend.peek(paths, "key") == "value"
    store.close()


@pytest.mark.parametrize("in_use", [False, True])
def test_a_copy_takes_the_place_of_the_store(backend: StoreBackend, tmp_path: Path, in_use: bool) -> None:
    paths = RunPaths(tmp_path)
    store = backend.open(paths)
    store.receive(GroupInfo(group_id="a"), b"payload")
    store.copy_to(tmp_path / "copy", step=0)
    store.receive(GroupInfo(group_id="b"), b"payload")
    if not in_use:
        store.close()
    assert backend.put_back(tmp_path / "copy", paths)
    again = backend.open(paths)
    assert [group.group_id for group in again.queued()] == ["a"]
    again.close()
    if in_use:
        store.close()


def test_a_store_that_is_removed_is_gone_with_all_its_groups(backend: StoreBackend, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    backend.remove(paths)
    with_group(backend, paths, "a")
    assert list(backend.problems(paths)) == []
    backend.remove(paths)
    assert not backend.exists(paths)
    again = backend.open(paths)
    assert again.counts().received == 0
    again.close()


def test_a_copy_takes_the_place_of_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    paths, backend = RunPaths(tmp_path), backend_of(StoreConfig())
    with_group(backend, RunPaths(tmp_path / "other"), "a")
    other = backend.open(RunPaths(tmp_path / "other"))
    other.copy_to(tmp_path / "copy", step=0)
    other.close()
    paths.store.write_bytes(b"nothing of the kind" * 500)
    with pytest.raises(StateCorrupt):
        backend.open(paths)
    backend.put_back(tmp_path / "copy", paths)
    again = backend.open(paths)
    assert again.knows("a")
    again.close()


def test_an_unknown_store_or_option_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'sqlit' is not registered; did you mean 'sqlite'\?"):
        backend_of(StoreConfig(type="sqlit"))
    with pytest.raises(ConfigError, match=r"store\.options\.power_save: .*did you mean 'power_safe'"):
        backend_of(StoreConfig(options={"power_save": True}))


def with_group(backend: StoreBackend, paths: RunPaths, group_id: str) -> None:
    paths.root.mkdir(exist_ok=True)
    store = backend.open(paths)
    store.receive(GroupInfo(group_id=group_id), b"payload")
    store.close()
