"""The verifier ``format``: a completion has the required tags, each once, in order."""

import re
from collections.abc import Sequence

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.payloads import decode_object
from rlserve.verifiers.reasoning import END_TOKEN, turn_of

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")
TAIL_CHARACTERS = 2000
"""The end of a prompt that is searched for opened tags. Any value of this size will do: 20 tags of 41 letters fit."""
MAX_TAGS = 20
"""Any value of this size will do: each tag costs a few searches through the text."""


class FormatVerifier:
    """Reward 1 when each of ``tags`` stands once, in order, closed; with ``strict`` only blanks may stand outside.

    ``tags=["think", "answer"]`` requires ``<think>...</think><answer>...</answer>``. With ``partial`` the reward is the
    share of correct tags. A task may give other tags in its payload: ``{"tags": [...]}``.

    The verifier judges the model's whole turn: a tag that the prompt opened in the model's place (chat templates end in
    ``<think>``, or in ``<think>\\n\\n</think>``) counts and must not be opened again.
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
            # share < 1: with all tags right the fault is text outside of them, which must not earn the full reward.
            reward=1.0 if not why else share if self._partial and share < 1 else 0.0,
            parts={"tags": share},
            reason=why or "the form is right",
            verifier=self.name,
        )


def _tags(payload: bytes) -> list[str] | None:
    """Return the task's own tags, or None."""
    content = decode_object(payload or b"{}", fields=("tags",))
    return _checked(content["tags"], "payload.tags") if "tags" in content else None


def begun(prompt: str, completion: str, tags: Sequence[str]) -> str:
    """Return the part of the model's turn that the prompt contains, from its first tag on; ``""`` when there is none.

    The turn begins at the template's mark. In a prompt without such marks only tags at its very end count, either open
    or closed again with only line breaks in them. An instruction may end in a tag too: when the completion begins with
    the same tag, the prompt did not open it.
    """
    names = "|".join(map(re.escape, tags))
    turn = turn_of(prompt)
    first = re.search(rf"<(?:{names})>", turn)
    if first is not None:
        return turn[first.start() :]
    # At the very end of the prompt only: tags further up belong to its instructions.
    tail = re.search(
        rf"(?:<(?P<tag>{names})>\s*\n\s*</(?P=tag)>\s*)*(?:<(?:{names})>\s*)?\Z", prompt[-TAIL_CHARACTERS:]
    )
    begins = re.match(rf"\s*<(?:{names})>", completion)
    named = tail is not None and begins is not None and tail.group().rstrip().endswith(begins.group().strip())
    return "" if tail is None or named else tail.group()


def _right_tags(text: str, tags: Sequence[str]) -> tuple[list[str], str]:
    """Return the correct tags, and the first fault or ``""``."""
    right, why, end = [], "", 0
    for tag in tags:
        opened, closed = text.count(f"<{tag}>"), text.count(f"</{tag}>")
        start, stop = text.find(f"<{tag}>"), text.find(f"</{tag}>")
        # Exactly once: of repeated tags, no rule could say which one holds the answer.
        if (opened, closed) != (1, 1):
            why = why or f"<{tag}> appears {opened} times and </{tag}> {closed} times"
        elif stop < start or start < end:
            why = why or f"<{tag}> is out of order"
        else:
            right.append(tag)
            end = stop
    return right, why


def _outside(text: str, tags: Sequence[str]) -> str:
    """Return the text outside of the tags, all of which are correct."""
    for tag in tags:
        start, stop = text.find(f"<{tag}>"), text.find(f"</{tag}>")
        # 3: the characters < / > of the closing tag.
        text = text[:start] + text[stop + len(tag) + 3 :]
    return END_TOKEN.sub("", text).strip()


def _checked(tags: object, field: str) -> list[str]:
    if not isinstance(tags, list) or not tags or not all(isinstance(t, str) and NAME.fullmatch(t) for t in tags):
        raise InvalidRequest(f"{field}: is {str(tags)[:60]!a}; give a list of tag names")
    if len(set(tags)) < len(tags) or len(tags) > MAX_TAGS:
        raise InvalidRequest(f"{field}: give at most {MAX_TAGS} tags, each once")
    return tags
