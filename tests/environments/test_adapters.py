"""Environments of other libraries: README.md's configurations keep every promise, real episodes are played."""

import asyncio
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlserve.actors.environment.conformance.site import plugin_site
from rlserve.actors.environment.conformance.suite import State, run_suite
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.environments.adapters.gymnasium import GymnasiumEnvironment
from rlserve.environments.adapters.mcp import McpEnvironment
from rlserve.environments.adapters.textarena import TextArenaEnvironment
from rlserve.errors import InvalidRequest, PluginFailed, Unavailable
from rlserve.records import Outcome, Task, ToolCall, Turn

WHOLE = pytest.mark.whole  # each of these starts several servers
ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "support" / "processes" / "mcp_tools.py"
LAKE = {"id": "FrozenLake-v1", "make": {"is_slippery": False}, "actions": ["left", "down", "right", "up"]}


def documented() -> dict[str, EnvironmentConfig]:
    """The configurations of README.md, by plug-in."""
    text = (ROOT / "environments" / "README.md").read_text(encoding="utf-8")
    tables = re.findall(r"```toml\n(\[\[environments\]\]\n.*?)```", text, re.DOTALL)
    found = [EnvironmentConfig(**table) for part in tables for table in tomllib.loads(part)["environments"]]
    return {config.plugin: config for config in found if config.plugin}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with what the configurations name."""
    rows = [{"prompt": f"{a} + {a + 1}?", "answer": str(2 * a + 1)} for a in range(9)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    shutil.copy(SERVER, tmp_path / "mcp_tools.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    yield tmp_path


@pytest.mark.parametrize("plugin", ["gymnasium", "textarena", pytest.param("mcp", marks=WHOLE)])
async def test_each_documented_configuration_keeps_every_promise(here: Path, plugin: str) -> None:
    async with plugin_site(documented()[plugin], {}) as site:
        findings = await run_suite(site)
    assert [(f.check, f.detail) for f in findings if f.state is State.FAILED] == []
    assert {f.check for f in findings if f.state is State.OK} >= {"episodes_answer_and_end", "episodes_repeat"}


def played(environment: Any, task: Task, say: Callable[[str], str], most: int = 300) -> Turn:
    """The last answer of an episode; ``say`` gets what the policy read last."""
    episode = environment.open(task)
    read = task.prompt[-1].content
    try:
        for _ in range(most):
            turn: Turn = episode.step(say(read))
            if turn.done:
                return turn
            read = turn.messages[-1].content
    finally:
        if hasattr(episode, "close"):
            episode.close()
    raise AssertionError("it does not end")


def test_a_walk_over_the_lake_gets_gymnasiums_reward() -> None:
    lake = GymnasiumEnvironment(**LAKE)
    task = lake.task("train", 0, 0)
    assert "[S]FFF\nFHFH" in task.prompt[0].content and "left, down, right, up" in task.prompt[0].content
    way = iter(
        ["down", "Down!", "<action>right</action>", "<think>not left</think> right", "<action>down</action>", "2"]
    )
    last = played(lake, task, lambda _: next(way))
    assert last.verdict is not None and (last.verdict.outcome, last.verdict.reward) == (Outcome.PASS, 1.0)
    drowned = played(
        lake, task, lambda _: "right, then down"
    )  # the last action named counts: two steps down, then a hole
    assert drowned.verdict is not None and drowned.verdict.outcome is Outcome.FAIL


def test_a_text_without_an_action_costs_a_turn_and_moves_nothing() -> None:
    lake = GymnasiumEnvironment(**LAKE, turns=3)
    episode = lake.open(lake.task("train", 0, 0))
    for junk in ("", "fly"):
        turn = episode.step(junk)
        assert "names no action" in turn.messages[0].content and not turn.done
    assert episode.step("left").done, "the limit of turns"
    episode.close()


def test_other_spaces_are_spoken_in_json() -> None:
    pendulum = GymnasiumEnvironment(id="Pendulum-v1", turns=2)
    task = pendulum.task("test", 3, 1)
    assert len(json.loads(task.prompt[0].content.splitlines()[0])) == 3
    assert task != pendulum.task("test", 4, 1) and task == pendulum.task("test", 3, 1)
    episode = pendulum.open(task)
    assert "not allowed" in episode.step("[9.0]").messages[0].content
    assert episode.step("I push: <action>[0.5]</action>").verdict.reward < 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "FrozenLak-v1"}, "FrozenLake"),
        ({"id": "FrozenLake-v1", "make": {"nonsense": 1}}, "make"),
        ({"id": "FrozenLake-v1", "actions": ["left"]}, "has 4: name each one"),
        ({"id": "Pendulum-v1", "actions": ["left"]}, "not discrete"),
        ({"id": "FrozenLake-v1", "turns": -1}, "turns"),
        ({"id": "FrozenLake-v1", "prompt_format": "html"}, "prompt_format"),
    ],
)
def test_a_faulty_option_of_gymnasium_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        GymnasiumEnvironment(**options)


def test_a_game_of_numbers_is_won_by_bisection() -> None:
    game = TextArenaEnvironment(game="GuessTheNumber-v0")
    bounds = [1, 20]

    def say(read: str) -> str:
        middle = sum(bounds) // 2
        if "is higher" in read or "is lower" in read:
            bounds["is higher" not in read] = said[-1] + (1 if "is higher" in read else -1)
            middle = sum(bounds) // 2
        said.append(middle)
        return f"<think>[1]?</think> I say [{middle}]"

    said: list[int] = []
    last = played(game, game.task("train", 0, 0), say)
    assert last.verdict is not None and (last.verdict.outcome, last.verdict.reward) == (Outcome.PASS, 1.0), said
    lost = played(game, game.task("train", 0, 0), lambda _: "no number")
    assert lost.verdict is not None and lost.verdict.outcome is Outcome.FAIL


async def test_games_side_by_side_do_not_share_their_dice() -> None:
    game = TextArenaEnvironment(game="TicTacToe-v0", players=2, seat=1)
    task = game.task("train", 1, 0)

    def outline() -> list[Any]:
        episode = game.open(task)
        turns = [episode.step(f"[{square}]") for square in range(4)]
        return [(turn.messages, turn.done, turn.verdict and turn.verdict.reward) for turn in turns if turn]

    alone = outline()
    assert all(one == alone for one in await asyncio.gather(*(asyncio.to_thread(outline) for _ in range(4))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "GuessNumber-v0"}, "did you mean 'GuessTheNumber-v0'"),
        ({"game": "ConnectFour-v0", "players": 2}, "moves: 'ConnectFour-v0' lists none"),
        ({"game": "TicTacToe-v0"}, "cannot be played"),
        ({"game": "TicTacToe-v0", "players": 2, "seat": 2}, "seat"),
    ],
)
def test_a_faulty_option_of_textarena_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        TextArenaEnvironment(**options)


def call(name: str, at: int = 0, **arguments: Any) -> ToolCall:
    return ToolCall(id=f"call0000{at}", name=name, arguments_json=json.dumps(arguments))


def test_tools_of_a_server_are_called_within_limits_and_its_reward_counts(here: Path) -> None:
    options = documented()["mcp"].options | {"max_characters": 100, "max_calls": 2, "shared": False, "call_seconds": 60}
    sums = McpEnvironment(**options)
    task = sums.task("train", 3, 0)
    offered = {tool.name: json.loads(tool.parameters_json) for tool in task.tools}
    assert "score" not in offered and set(offered["add"]["properties"]) == {"a", "b"}
    one, other = sums.open(task), sums.open(task)
    try:
        turn = one.call("...", (call("add", 0, a=3, b=4), call("remember", 1, number=5), call("add", 2, a=1, b=1)))
        assert [(m.tool_call_id, m.content) for m in turn.messages] == [
            ("call00000", "7"), ("call00001", "5"), ("call00002", "Error: at most 2 calls in one turn")
        ]  # fmt: skip
        assert turn.verdict is not None and turn.verdict.reward == 0 and not turn.done
        refused = [call("score", 0, answer="7", columns={"answer": "7"}), call("fail")]
        contents = [m.content for m in one.call("...", tuple(refused)).messages]
        assert contents[0].startswith("Error: there is no tool 'score'") and contents[1].startswith("Error: ")
        contents = [m.content for m in one.call("...", (call("shout", length=5000), call("add", a="x"))).messages]
        assert contents[0] == "a" * 100 + " ... (4900 more characters)" and contents[1].startswith("Error: ")
        assert other.call("...", (call("remember", number=8),)).messages[0].content == "8", "a server of its own"
        last = one.step("It is 7.")
        assert (
            last.done
            and last.verdict is not None
            and (last.verdict.outcome, last.verdict.reward) == (Outcome.PASS, 1.0)
        )
        assert other.step("It is 8.").verdict.reward == 0.25
    finally:
        one.close()
        other.close()


@WHOLE
def test_a_server_that_gives_no_answer_is_no_verdict_and_a_shared_one_is_started_again(here: Path) -> None:
    options = {"call_seconds": 1, "reward_tool": "", "tools": ["add", "sleep"]}
    sums = McpEnvironment(**documented()["mcp"].options | options)
    task = sums.task("train", 0, 0)
    assert (task.verifier, json.loads(task.payload)) == ("math", {"answer": "1"})
    assert [tool.name for tool in task.tools] == ["add", "sleep"]
    stuck = sums.open(task)
    with pytest.raises(Unavailable, match="'sleep'"):
        stuck.call("...", (call("sleep", seconds=60),))
    again = sums.open(task)
    assert len(sums._users) == 2, "the old server runs for as long as an episode works with it"
    stuck.close()
    assert len(sums._users) == 1
    assert again.call("...", (call("add", a=1, b=1),)).messages[0].content == "2"
    assert again.step("2").verdict is None, "the task's verifier gives it"
    sums.close()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"command": []}, InvalidRequest, "exactly one"),
        ({"command": "python x"}, InvalidRequest, "give a list"),
        ({"command": ["false"]}, Unavailable, "'false': cannot be reached"),
        ({"tools": ["multiply"]}, InvalidRequest, "'multiply' is not offered by the server .offered: add, "),
        ({"turns": 0}, InvalidRequest, "above 0"),
        ({"data": {"path": "absent.jsonl"}}, InvalidRequest, "absent.jsonl"),
        ({"data": {"file": "x"}}, InvalidRequest, "data: .*file"),
    ],
)
def test_a_faulty_option_of_mcp_is_refused(here: Path, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        McpEnvironment(**documented()["mcp"].options | options)


@WHOLE
def test_a_reward_tool_that_gives_no_number_is_no_verdict(here: Path) -> None:
    sums = McpEnvironment(**documented()["mcp"].options | {"reward_tool": "shout"})
    episode = sums.open(sums.task("train", 0, 0))
    with pytest.raises(PluginFailed, match="gave no number"):
        episode.step("1")
    episode.close()
