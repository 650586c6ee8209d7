"""The bench of ingest runs on a store in Redis too, and leaves nothing in it."""

import json

import pytest

from rlserve.bench import ingest
from rlserve.cli.main import main
from tests.support.processes.redis_server import RedisServer


def test_it_counts_groups_on_redis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Few groups at a time: they come back soon, also on a busy machine.
    for name, value in (("WARM_SECONDS", 0.5), ("IN_FLIGHT", 32), ("BATCH", 8)):
        monkeypatch.setattr(ingest, name, value)
    short = {**(ingest.measure.__kwdefaults__ or {}), "workers": (2,), "seconds": 2.0}
    monkeypatch.setattr(ingest.measure, "__kwdefaults__", short)
    with RedisServer() as server:
        assert main(["bench", "ingest", "--store", "redis", "--url", server.url, "--json"]) == 0
        assert server.client().keys() == []
    printed = capsys.readouterr().out
    assert main(["bench", "ingest", "--store", "redis", "--url", "redis://:sesame@h:1/0"]) != 0
    told = capsys.readouterr()
    assert "RLSERVE_REDIS_PASSWORD" in told.err and "sesame" not in told.err + told.out
    numbers = json.loads(printed)["ingest"]
    assert numbers["2_workers"]["groups_a_core_second"] > 0 and numbers["bare_groups_a_core_second"] > 0
