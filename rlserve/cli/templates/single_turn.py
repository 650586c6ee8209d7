"""An environment whose tasks have one turn: dice to count."""

MODULE = '''"""{class_name}: what its tasks ask, in one line."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from random import Random

from rlserve.errors import UnknownName
from rlserve.records import Task

SPLITS = ("train", "validation", "test")


class {class_name}:
    """How many eyes do these dice show? Endless; no question occurs in two splits."""

    name = "{name}"
    version = "1"
    verifier = "exact"

    def __init__(self, *, dice: int = 5) -> None:
        self._dice = dice

    @property
    def splits(self) -> Mapping[str, int]:
        """Size of each split; 0 means endless."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The task at ``index``: the same arguments always return the same task."""
        eyes = self._roll(split, index, seed)
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=" ".join(map(str, eyes)) + " = ",
            verifier=self.verifier,
            payload=json.dumps({"answer": str(sum(eyes))}).encode(),
            seed=seed,
        )

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """A prompt and a right completion: for fine-tuning, and for `rlserve env check`."""
        eyes = self._roll(split, index, seed)
        return " ".join(map(str, eyes)) + " = ", str(sum(eyes))

    def _roll(self, split: str, index: int, seed: int) -> list[int]:
        if split not in SPLITS:
            raise UnknownName(f"split: {split!r} is not one of {self.name} ({', '.join(SPLITS)})")
        random = Random(f"{seed}/{split}/{index}")
        while True:
            eyes = [random.randint(1, 6) for _ in range(self._dice)]
            if split_of(eyes) == split:
                return eyes


def split_of(eyes: list[int]) -> str:
    """The split of a question, independent of the seed: 90% train."""
    digest = blake2b(repr(eyes).encode(), digest_size=8).digest()
    return {0: "validation", 1: "test"}.get(int.from_bytes(digest, "big") % 20, "train")
'''
TEST = """import json

import pytest
from {module} import SPLITS, {class_name}, split_of

from rlserve.errors import UnknownName


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_is_a_pure_function_of_split_index_and_seed(split: str) -> None:
    tasks = [{class_name}().task(split, index, 7) for index in range(20)]
    assert tasks == [{class_name}().task(split, index, 7) for index in range(20)]
    assert len({task.prompt for task in tasks}) > 15
    assert all(split_of([int(eye) for eye in task.prompt.split()[:-1]]) == split for task in tasks)


def test_the_demonstration_answers_the_task() -> None:
    environment = {class_name}(dice=3)
    task, (prompt, answer) = environment.task("train", 1, 0), environment.demonstration("train", 1, 0)
    assert (prompt, {"answer": answer}) == (task.prompt, json.loads(task.payload))


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UnknownName):
        {class_name}().task("dev", 0, 0)
"""
README = """# {name}

An environment for [rlserve](https://github.com/rlserve/rlserve).

```
pip install -e .
python -m pytest
rlserve env sample {name}
rlserve env check {name}
```

In a run: `[[environments]]` with `name = "{name}"`, optionally `options = { dice = 3 }`.
"""
