"""A verifier: the completion contains a word."""

MODULE = '''"""{class_name}: what it verifies, in one line."""

import json

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict


class {class_name}:
    """1 if the completion contains the payload's ``word``, else 0.

    A payload is ``{"word": "..."}``. ``ignore_case`` is an option of the constructor:
    ``[verifier.options.{name}]`` in a run's configuration.
    """

    name = "{name}"
    version = "1"
    description = "the completion contains a word"
    reward_range = (0.0, 1.0)

    def __init__(self, *, ignore_case: bool = True) -> None:
        self._ignore_case = ignore_case

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Verify one completion. Raises InvalidRequest for a malformed payload, which is never a reward."""
        word = _word(payload)
        text = completion.lower() if self._ignore_case else completion
        found = (word.lower() if self._ignore_case else word) in text
        return Verdict(
            outcome=Outcome.PASS if found else Outcome.FAIL,
            reward=float(found),
            parts={"found": float(found)},
            reason=f"{word!r} is {'found' if found else 'missing'}",
            verifier=self.name,
        )


def _word(payload: bytes) -> str:
    try:
        word = json.loads(payload)["word"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest('payload: send {"word": "..."}') from error
    if not isinstance(word, str) or not word:
        raise InvalidRequest("payload.word: is not text; send the word that must occur")
    return word
'''
TEST = """import pytest
from {module} import {class_name}

from rlserve.errors import InvalidRequest


@pytest.mark.parametrize(("text", "reward"), [("say Hello", 1.0), ("say nothing", 0.0), ("", 0.0)])
def test_the_word_decides(text: str, reward: float) -> None:
    assert {class_name}().verify(text, b'{"word": "hello"}', "").reward == reward


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"word": 3}'])
def test_a_bad_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRequest):
        {class_name}().verify("x", payload, "")
"""
README = """# {name}

A verifier for [rlserve](https://github.com/rlserve/rlserve).

```
pip install -e .
python -m pytest
rlserve verifier list
echo '{"id": "1", "completion": "Hello!", "payload": {"word": "hello"}}' > cases.jsonl
rlserve verify {name} cases.jsonl --out verdicts.jsonl
```

An environment names it as `verifier = "{name}"`. The verifier server runs it in a judge process that may be killed at
any moment: a slow, stuck or crashing verifier affects no other.
"""
