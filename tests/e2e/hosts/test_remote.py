"""A worker that joined from another host trains the quick start: over a good link, and over a bad one that is cut."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bare_host import BadLink, bare_host
from tests.support.counts import check_counts_add_up

pytestmark = [pytest.mark.whole, pytest.mark.timeout(1500)]

TOKEN = "a-token-of-24-characters"
BAD = BadLink(delay_seconds=0.025, loss=0.01, mbit=20)
"""50 ms there and back."""


@pytest.mark.parametrize("link", [None, BAD], ids=["good", "bad"])
def test_a_worker_that_joined_over_a_link_trains_the_quick_start(
    link: BadLink | None,
    new_run: Callable[[str], Any],
    small_run_arguments: Callable[[Any], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = new_run("remote")
    place = tmp_path_factory.mktemp("far")
    monkeypatch.setenv("RLSERVE_TOKEN", TOKEN)
    monkeypatch.setenv("RLSERVE_INSECURE", "1")  # the namespaces' own network
    with bare_host(place / "home", hidden=run.root, link=link) as host:
        if link and not host.prefix:
            pytest.skip("a link of its own needs the right to make network namespaces")
        run.start(
            *small_run_arguments(run),
            *("--set", f"launch.host={host.near}", "--set", "rollout.workers=0", "--set", "evaluate.problems=400"),
        )
        run.wait_until("hub", (run.root / "hub.address").exists, 120)
        hub = (run.root / "hub.address").read_text()
        token = place / "token"
        token.write_text(TOKEN)
        worker = host.start(
            *("join", hub, "--token-file", str(token), "--id", "far"),
            environment={"RLSERVE_INSECURE": "1"},
            log=place / "far.log",
        )
        try:
            run.wait_for_step(3, 900)
            if link:
                host.cut()
            assert run.wait(900) == 0, run.tail() + (place / "far.log").read_text()[-3000:]
            assert worker.wait(60) == 0, (place / "far.log").read_text()[-3000:]
        finally:
            worker.kill()
            worker.wait()
    carriers = set(re.findall(r"came by (\w+)", (place / "far.log").read_text()))
    assert carriers and carriers <= {"full_stream", "delta_stream"}, "nothing may come by a file that both can open"
    summary = run.summary()
    check_counts_add_up(summary["groups"])
    assert summary["accuracy_after"] >= 0.9
    assert summary["weight_mismatches"] == 0
    rows = run.metrics()
    print(json.dumps({"link": str(link), "first": rows[0], "last": rows[-1], "summary": summary}, default=str))
    run.wait_until_nothing_runs()


def test_a_run_goes_on_from_its_mirror_on_a_machine_that_has_nothing_of_it(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], list[str]], tmp_path: Path
) -> None:
    run, mirror = new_run("mirrored"), f"file://{tmp_path}/mirror"
    run.start(
        *small_run_arguments(run),
        *("--set", "steps=8", "--set", "learner.lr=1e-9", "--set", "checkpoint.every_steps=2"),
        *("--set", f"checkpoint.mirror={mirror}"),
    )
    run.wait_until("a mirrored checkpoint", lambda: len(run.events("mirrored")) >= 2, 300)
    run.kill()
    shutil.rmtree(run.root)
    run.start("--resume", f"{mirror}/mirrored", "--set", f"directory={run.root.parent}")
    assert run.wait(400) == 0, run.tail()
    check_counts_add_up(run.summary()["groups"])
    assert [row["step"] for row in run.metrics()][-1] == 8
    assert run.metrics()[-1]["groups/consumed"] == 8 * run.metrics()[0]["batch/groups"]
    assert (tmp_path / "mirror" / "mirrored" / "checkpoints" / "step-8" / "manifest.json").exists()
    assert (tmp_path / "mirror" / "mirrored" / "summary.json").read_bytes() == (run.root / "summary.json").read_bytes()
