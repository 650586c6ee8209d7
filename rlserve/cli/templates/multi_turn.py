"""An environment of several turns: a number to find by hints."""

MODULE = '''"""{class_name}: what its episodes are about, in one line."""

from collections.abc import Mapping
from hashlib import blake2b

from rlserve.errors import UnknownName
from rlserve.records import Message, Outcome, Task, Turn, Verdict

SPLITS = ("train", "validation", "test")


class {class_name}:
    """Find a number from 0 to 63 by the hints "higher" and "lower"."""

    name = "{name}"
    version = "1"
    verifier = ""  # the episode gives the verdict
    multi_turn = True

    def __init__(self, *, turns: int = 7) -> None:
        self._turns = turns

    @property
    def splits(self) -> Mapping[str, int]:
        """Size of each split; 0 means endless."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The task at ``index``: the same arguments always return the same task."""
        if split not in SPLITS:
            raise UnknownName(f"split: {split!r} is not one of {self.name} ({', '.join(SPLITS)})")
        asked = f"I think of a number from 0 to 63. Find it in {self._turns} turns; answer with a number alone."
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=(Message(role="user", content=asked),),
            verifier=self.verifier,
            payload=b"",
            seed=seed,
            multi_turn=True,
        )

    def open(self, task: Task) -> "Episode":
        """Start an episode. All that is random in it follows from the task: it may be opened again on another host."""
        return Episode(hidden_number(task.task_id), self._turns)


class Episode:
    """One attempt. Its answers follow from the task and the policy's texts alone."""

    def __init__(self, hidden: int, turns: int) -> None:
        self._hidden = hidden
        self._turns = turns
        self._taken = 0

    def step(self, text: str) -> Turn:
        """Answer the policy's text, which is untrusted and may be cut anywhere."""
        self._taken += 1
        guess = number_in(text)
        found = guess == self._hidden
        if guess is None:
            said = "That is no number from 0 to 63."
        else:
            said = "higher" if guess < self._hidden else "lower"
        return Turn(
            messages=() if found else (Message(role="user", content=said),),
            done=found or self._taken >= self._turns,
            # In every answer: the episode may end here at a limit of tokens, and then this one counts.
            verdict=Verdict(
                outcome=Outcome.PASS if found else Outcome.FAIL,
                reward=float(found),
                parts={"turns": float(self._taken)},
                reason=f"{'found' if found else 'not found'} after {self._taken} turns",
            ),
        )


def hidden_number(task_id: str) -> int:
    """The number of a task: a digest, which is the same on every host."""
    return blake2b(task_id.encode(), digest_size=8).digest()[0] % 64


def number_in(text: str) -> int | None:
    """The policy's number; None if the text is something else."""
    text = text.strip()
    # isascii and a length: int() reads the digits of every script, and refuses thousands of them.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 2 and int(text) < 64 else None
'''
TEST = """import pytest
from {module} import {class_name}, hidden_number

from rlserve.errors import UnknownName
from rlserve.records import Outcome


def test_the_hints_lead_to_the_number() -> None:
    environment = {class_name}()
    for index in range(20):
        episode, low, high = environment.open(environment.task("train", index, 7)), 0, 63
        for _ in range(7):
            turn = episode.step(str((low + high) // 2))
            if turn.done:
                break
            middle = (low + high) // 2
            low, high = (middle + 1, high) if turn.messages[0].content == "higher" else (low, middle - 1)
        assert turn.verdict is not None and turn.verdict.outcome is Outcome.PASS


def test_what_is_no_number_costs_a_turn_and_ends_nothing() -> None:
    environment = {class_name}(turns=3)
    episode = environment.open(environment.task("test", 0, 0))
    for text in ("", "seven", "9" * 5000):
        turn = episode.step(text)
        assert turn.messages[0].content.startswith("That is no number")
    assert turn.done and turn.verdict is not None and turn.verdict.reward == 0


def test_tasks_differ_and_an_unknown_split_is_refused() -> None:
    environment = {class_name}()
    assert len({hidden_number(environment.task("train", index, 7).task_id) for index in range(20)}) > 5
    with pytest.raises(UnknownName):
        environment.task("dev", 0, 0)
"""
README = """# {name}

An environment of several turns for [rlserve](https://github.com/rlserve/rlserve).

```
pip install -e .
python -m pytest
rlserve env sample {name}
rlserve env check {name}
```

In a run: `[[environments]]` with `name = "{name}"`, optionally `options = { turns = 5 }`.
"""
