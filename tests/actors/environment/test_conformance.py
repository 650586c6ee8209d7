"""The conformance suite: good environments keep every promise, and each broken one is caught at its own."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from broken_environments import BROKEN_EPISODES, BROKEN_PROMISES, AskEnvironment, SumEnvironment

from rlserve import plugins
from rlserve.actors.environment.conformance import checks
from rlserve.actors.environment.conformance.site import plugin_site, remote_site
from rlserve.actors.environment.conformance.suite import State, run_suite
from rlserve.config.tables.environment import EnvironmentConfig

STRANGER = Path(__file__).parents[2] / "support" / "processes" / "stranger_environment.py"


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> None:
    load = plugins.load

    def find(group: str, name: str, **options: Any) -> Any:
        return {"sums": SumEnvironment, "asks": AskEnvironment}.get(name) or load(group, name, **options)

    monkeypatch.setattr(plugins, "load", find)


async def failed(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Broken promises with what was found."""
    async with plugin_site(EnvironmentConfig(name=name, options=dict(options)), {}) as site:
        findings = await run_suite(site)
    return {finding.check: finding.detail for finding in findings if finding.state is State.FAILED}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("arithmetic", {}),
        ("countdown", {}),
        ("countdown", {"prompt_format": "text", "use_all": True}),
        ("guess", {}),
        ("calculator", {}),
        ("sums", {}),
        ("sums", {}),
        ("asks", {}),
    ],
)
async def test_good_environments_keep_every_promise(sums: None, name: str, options: Mapping[str, Any]) -> None:
    assert await failed(name, options) == {}


async def test_environments_that_bring_completions_keep_every_promise(tmp_path: Path) -> None:
    pairs, examples = tmp_path / "pairs.jsonl", tmp_path / "examples.jsonl"
    pairs.write_text("".join(f'{{"prompt": "{i}+0=", "chosen": "#{i}", "rejected": "#x"}}\n' for i in range(9)))
    examples.write_text("".join(f'{{"prompt": "{i}+0=", "completion": "#{i}"}}\n' for i in range(9)))
    assert await failed("pairs", {"path": str(pairs)}) == {}
    assert await failed("examples", {"path": str(examples)}) == {}


@pytest.mark.parametrize(("fault", "promise"), BROKEN_PROMISES.items())
async def test_a_broken_promise_is_found(sums: None, monkeypatch: pytest.MonkeyPatch, fault: str, promise: str) -> None:
    monkeypatch.setattr(checks, "TASK_SECONDS", 0.25)
    found = await failed("sums", {"fault": fault})
    assert promise in found, found
    assert found[promise]
    assert len(found) <= 2, found


@pytest.mark.parametrize(("fault", "promise"), BROKEN_EPISODES.items())
async def test_a_broken_promise_of_episodes_is_found(sums: None, fault: str, promise: str) -> None:
    found = await failed("asks", {"fault": fault})
    assert promise in found, found
    assert len(found) <= 2, found


async def test_episodes_are_checked_of_environments_with_several_turns_only() -> None:
    for name, expected in (("guess", True), ("arithmetic", False)):
        async with plugin_site(EnvironmentConfig(name=name), {}) as site:
            findings = {finding.check: finding.state for finding in await run_suite(site)}
        assert ("episodes_repeat" in findings) is expected
        assert not expected or findings["episodes_repeat"] is State.OK


async def test_a_strangers_server_is_checked_over_the_wire() -> None:
    stranger = subprocess.Popen([sys.executable, str(STRANGER)], stdout=subprocess.PIPE, text=True)
    try:
        assert stranger.stdout is not None
        async with remote_site(stranger.stdout.readline().strip(), "letters", {}) as site:
            findings = {finding.check: finding for finding in await run_suite(site)}
    finally:
        stranger.kill()
        stranger.wait()
    broken = {name: finding.detail for name, finding in findings.items() if finding.state is State.FAILED}
    assert set(broken) == {"bad_requests_are_refused"}  # it answers whatever it is asked for
    assert "an unknown split: is not refused" in broken["bad_requests_are_refused"]
    assert findings["gold_scores_full_marks"].state is State.OK
