"""A function in a file."""

MODULE = '''"""{name}: what it rewards, in one line."""

from collections.abc import Sequence


def {name}(completions: Sequence[str], answer: Sequence[str], **columns: object) -> list[float | None]:
    """1 for a completion whose last word is the right answer, 0.1 for one that has it anywhere, else 0.

    Each argument is a list with an element for each completion of a task; ``columns`` are the task's other columns.
    None is no verdict.
    """
    return [reward(text, str(right)) for text, right in zip(completions, answer, strict=True)]


def reward(text: str, right: str) -> float:
    """The reward of one completion."""
    words = text.split()
    if words and words[-1].strip(".") == right:
        return 1.0
    return 0.1 if right in text else 0.0
'''
TEST = """import pytest
from {name} import {name}


@pytest.mark.parametrize(("text", "reward"), [("It is 7.", 1.0), ("7 or so", 0.1), ("eight", 0.0), ("", 0.0)])
def test_the_last_word_decides(text: str, reward: float) -> None:
    assert {name}([text], answer=["7"], level=[3]) == [reward]


def test_each_completion_has_its_reward() -> None:
    assert {name}(["7", "8"], answer=["7", "7"]) == [1.0, 0.0]
"""
README = """# {name}

A reward function for [rlserve](https://github.com/rlserve/rlserve), in one file.

```
python -m pytest
```

In a run's configuration beside it, at the top: `reward = "{name}.py:{name}"`; or `rlserve run CONFIG --set
reward={name}.py:{name}`. It holds for all environments; in a table of `[[environments]]` for that one.
"""
