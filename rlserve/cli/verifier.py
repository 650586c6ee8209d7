"""``rlserve verifier``: lists installed verifiers, writes a new one to start from."""

import argparse
from pathlib import Path

from rlserve import plugins
from rlserve.cli.env.scaffold import write_package
from rlserve.errors import PluginFailed

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="list the installed verifiers")
    new = actions.add_parser("new", help="write a package with a working verifier and its test")
    new.add_argument("name", help="registered name, e.g. politeness")
    new.add_argument("--directory", type=Path, help="where to write it (rlserve-NAME)")


def run(arguments: argparse.Namespace) -> int:
    return list_verifiers() if arguments.action == "list" else new_verifier(arguments.name, arguments.directory)


def list_verifiers() -> int:
    """One line per verifier with its range of rewards; for a broken one, its error."""
    for name in plugins.names(plugins.VERIFIER_GROUP):
        try:
            kind = plugins.load(plugins.VERIFIER_GROUP, name)
        # One broken plug-in must not hide the others.
        except PluginFailed as error:
            print(f"{name:16} BROKEN: {str(error).removeprefix(f'{plugins.VERIFIER_GROUP}: ')}")
            continue
        # Asked of the class: making a verifier may need options. A rubric's range is a property there, and follows its
        # parts.
        ends = getattr(kind, "reward_range", (0.0, 1.0))
        span = f"{ends[0]:g} to {ends[1]:g}" if isinstance(ends, tuple) else "as its parts"
        summary = getattr(kind, "description", "") or (kind.__doc__ or "").strip().partition("\n")[0]
        print(f"{name:16} {getattr(kind, 'version', '')!s:6} {span:12} {summary}")
    return 0


def new_verifier(name: str, directory: Path | None) -> int:
    """Write the package and print the next steps."""
    files = {"{module}.py": MODULE, "test_{module}.py": TEST, "README.md": README}
    made = write_package(
        name,
        directory or Path(f"rlserve-{name.replace('_', '-')}"),
        group=plugins.VERIFIER_GROUP,
        kind="Verifier",
        description="A verifier for rlserve",
        files=files,
    )
    print(f"wrote {made}: next, pip install -e {made} and python -m pytest {made}")
    return 0
