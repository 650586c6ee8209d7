"""An environment with a tool: prices to look up and to add."""

MODULE = '''"""{class_name}: what its episodes are about, in one line."""

import json
import re
from collections.abc import Mapping
from hashlib import blake2b

from rlserve.errors import UnknownName
from rlserve.records import Message, Outcome, Task, Tool, ToolCall, Turn, Verdict

SPLITS = ("train", "validation", "test")
ITEMS = ("apple", "bread", "cheese", "milk", "pear", "rice", "salt", "tea")
PRICE = Tool(
    name="price",
    description="The price of one piece of an item, in cents.",
    parameters_json=json.dumps(
        {"type": "object", "properties": {"item": {"type": "string", "enum": ITEMS}}, "required": ["item"]}
    ),
)


class {class_name}:
    """What does a purchase cost? Prices are known to a tool alone."""

    name = "{name}"
    version = "1"
    verifier = ""  # the episode gives the verdict
    multi_turn = True

    def __init__(self, *, items: int = 2, turns: int = 6) -> None:
        self._items = items
        self._turns = turns

    @property
    def splits(self) -> Mapping[str, int]:
        """Size of each split; 0 means endless."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The task at ``index``: the same arguments always return the same task."""
        if split not in SPLITS:
            raise UnknownName(f"split: {split!r} is not one of {self.name} ({', '.join(SPLITS)})")
        task_id = f"{split}/{seed}/{index}"
        wanted = ", ".join(f"{count} x {item}" for item, count in basket(task_id, self._items).items())
        asked = f"What do these cost together, in cents: {wanted}? Look up prices; answer with a number alone."
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=task_id,
            prompt=(Message(role="user", content=asked),),
            verifier=self.verifier,
            payload=b"",
            seed=seed,
            multi_turn=True,
            tools=(PRICE,),
        )

    def open(self, task: Task) -> "Episode":
        """Start an episode. All that is random in it follows from the task: it may be opened again on another host."""
        return Episode(task.task_id, total(task.task_id, self._items), self._turns)


class Episode:
    """One attempt. Its answers follow from the task and the policy's texts alone."""

    def __init__(self, task_id: str, right: int, turns: int) -> None:
        self._task_id = task_id
        self._right = right
        self._turns = turns
        self._taken = 0

    def call(self, text: str, calls: tuple[ToolCall, ...]) -> Turn:
        """Answer a turn that calls tools, each call by a message with its id."""
        self._taken += 1
        answers = [Message(role="tool", tool_call_id=call.id, content=self._look_up(call)) for call in calls]
        return Turn(messages=tuple(answers), done=self._taken >= self._turns, verdict=self._verdict(None))

    def step(self, text: str) -> Turn:
        """Judge a turn without a call, or with a malformed one: it is the answer."""
        self._taken += 1
        numbers = re.findall(r"[0-9]{1,9}", text)
        return Turn(done=True, verdict=self._verdict(int(numbers[-1]) if numbers else None))

    def _look_up(self, call: ToolCall) -> str:
        # Untrusted: any name, any JSON object. A clear answer lets the policy try again.
        item = call.arguments.get("item")
        if call.name != PRICE.name:
            return f"Error: there is no tool of that name; there is: {PRICE.name}"
        if item not in ITEMS:
            return f"Error: item: give one of {', '.join(ITEMS)}"
        return str(price(self._task_id, item))

    def _verdict(self, answer: int | None) -> Verdict:
        right = answer == self._right
        return Verdict(
            outcome=Outcome.PASS if right else Outcome.FAIL,
            reward=float(right),
            parts={"turns": float(self._taken)},
            reason=f"{answer} (expected {self._right})",
        )


def basket(task_id: str, items: int) -> dict[str, int]:
    """The items of a task, and how many of each."""
    ranked = sorted(ITEMS, key=lambda item: _drawn(f"{task_id}/{item}/rank"))
    return {item: 1 + _drawn(f"{task_id}/{item}/count") % 5 for item in ranked[:items]}


def price(task_id: str, item: str) -> int:
    """What a piece costs in this task."""
    return 10 + _drawn(f"{task_id}/{item}/price") % 90


def total(task_id: str, items: int) -> int:
    """The right answer."""
    return sum(count * price(task_id, item) for item, count in basket(task_id, items).items())


def _drawn(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
'''
TEST = """import json

import pytest
from {module} import {class_name}, basket, total

from rlserve.errors import UnknownName
from rlserve.records import Outcome, ToolCall


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(id="call00000", name=name, arguments_json=json.dumps(arguments))


def test_looking_up_each_price_gives_the_answer() -> None:
    environment = {class_name}()
    task = environment.task("train", 3, 7)
    episode, sum_ = environment.open(task), 0
    for item, count in basket(task.task_id, 2).items():
        assert f"{count} x {item}" in task.prompt[0].content
        answer = episode.call("...", (call("price", item=item),)).messages[0]
        assert (answer.role, answer.tool_call_id) == ("tool", "call00000")
        sum_ += count * int(answer.content)
    turn = episode.step(f"They cost {sum_}")
    assert sum_ == total(task.task_id, 2) and turn.done
    assert turn.verdict is not None and turn.verdict.outcome is Outcome.PASS


WRONG = (call("steal"), call("price"), call("price", item=["apple"]), call("price", item="gold"))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_call_is_answered_with_the_error(wrong: ToolCall) -> None:
    environment = {class_name}()
    turn = environment.open(environment.task("train", 0, 0)).call("...", (wrong,))
    assert turn.messages[0].content.startswith("Error: ") and not turn.done


def test_a_wrong_answer_fails_and_turns_are_limited() -> None:
    environment = {class_name}(turns=2)
    task = environment.task("test", 0, 0)
    verdict = environment.open(task).step("no idea").verdict
    assert verdict is not None and verdict.reward == 0
    episode = environment.open(task)
    assert [episode.call("...", (call("price", item="tea"),)).done for _ in range(2)] == [False, True]
    with pytest.raises(UnknownName):
        environment.task("dev", 0, 0)
"""
README = """# {name}

An environment with a tool for [rlserve](https://github.com/rlserve/rlserve).

```
pip install -e .
python -m pytest
rlserve env sample {name}
rlserve env check {name}
```

In a run: `[[environments]]` with `name = "{name}"`, optionally `options = { items = 3 }`. The model needs a chat
template that knows tools; `model.tool_parser` says how it writes calls, by default as the template shows.
"""
