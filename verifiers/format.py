"""Whether a completion has the tags that it should, in order."""

import re
from collections.abc import Sequence

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.payloads import decode_object
from rlserve.verifiers.reasoning import END_TOKEN, turn_of

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")
TAIL_CHARACTERS = 2000


class FormatVerifier:
    """1 when each of ``tags`` stands once, in order, closed, and (``strict``) nothing but blanks outside of them.

    ``tags=["think", "answer"]`` wants ``<think>...</think><answer>...</answer>``. With ``partial`` a completion gets
    the share of tags that are right. A task may name other tags in its payload: ``{"tags": [...]}``.

    Judged is the model's whole turn: a tag that the prompt opened in its place (chat templates end in ``<think>``, or
    in ``<think>\\n\\n</think>``) counts, and is not to be opened again.
    """

    name = "format"
    version = "1"
    description = "required tags, each once, in order"

    def __init__(
        self, *, tags: Sequence[str] = ("think", "answer"), strict: bool = True, partial: bool = False
    ) -> None:
        self._tags = _checked(list(tags), "options.tags")
        self._strict = strict
        self._partial = partial

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse."""
        _tags(payload)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge one form. Raises InvalidRequest for an invalid payload."""
        tags = _tags(payload) or self._tags
        turn = begun(prompt, completion, tags) + completion
        right, why = _right_tags(turn, tags)
        if not why and self._strict and (outside := _outside(turn, tags)):
            why = f"{outside[:40]!a} stands outside of the tags"
        share = len(right) / len(tags)
        return Verdict(
            outcome=Outcome.FAIL if why else Outcome.PASS,
            reward=1.0 if not why else share if self._partial and share < 1 else 0.0,
            parts={"tags": share},
            reason=why or "the form is right",
            verifier=self.name,
        )


def _tags(payload: bytes) -> list[str] | None:
    """The task's own tags, or None."""
    content = decode_object(payload or b"{}", fields=("tags",))
    return _checked(content["tags"], "payload.tags") if "tags" in content else None


def begun(prompt: str, completion: str, tags: Sequence[str]) -> str:
    """What the prompt wrote of the model's turn, from its first tag on; empty when it wrote none.

    The turn is what follows the template's mark of one. In a prompt without such marks it is a tag at the very end,
    open, or closed again with nothing but line breaks in it, with which the completion does not begin again: an
    instruction that names tags is none.
    """
    names = "|".join(map(re.escape, tags))
    turn = turn_of(prompt)
    first = re.search(rf"<(?:{names})>", turn)
    if first is not None:
        return turn[first.start() :]
    tail = re.search(
        rf"(?:<(?P<tag>{names})>\s*\n\s*</(?P=tag)>\s*)*(?:<(?:{names})>\s*)?\Z", prompt[-TAIL_CHARACTERS:]
    )
    begins = re.match(rf"\s*<(?:{names})>", completion)
    named = tail is not None and begins is not None and tail.group().rstrip().endswith(begins.group().strip())
    return "" if tail is None or named else tail.group()


def _right_tags(text: str, tags: Sequence[str]) -> tuple[list[str], str]:
    """The tags that are right, and what is wrong first."""
    right, why, end = [], "", 0
    for tag in tags:
        opened, closed = text.count(f"<{tag}>"), text.count(f"</{tag}>")
        start, stop = text.find(f"<{tag}>"), text.find(f"</{tag}>")
        if (opened, closed) != (1, 1):
            why = why or f"<{tag}> is there {opened} times and </{tag}> {closed} times"
        elif stop < start or start < end:
            why = why or f"<{tag}> is not in its place"
        else:
            right.append(tag)
            end = stop
    return right, why


def _outside(text: str, tags: Sequence[str]) -> str:
    """What stands outside of tags that are all right."""
    for tag in tags:
        start, stop = text.find(f"<{tag}>"), text.find(f"</{tag}>")
        text = text[:start] + text[stop + len(tag) + 3 :]
    return END_TOKEN.sub("", text).strip()


def _checked(tags: object, field: str) -> list[str]:
    if not isinstance(tags, list) or not tags or not all(isinstance(t, str) and NAME.fullmatch(t) for t in tags):
        raise InvalidRequest(f"{field}: is {str(tags)[:60]!a}; give a list of tag names")
    if len(set(tags)) < len(tags) or len(tags) > 20:
        raise InvalidRequest(f"{field}: give at most 20 tags, each once")
    return tags
