"""Separates reasoning from the answer, in the same way for every verifier that looks for an answer.

A reasoning model thinks between two marks (``<think>...</think>``) and answers after them. What it writes between them
is no answer: a box there is an attempt. Verifiers of answers call :func:`split_reasoning` first; those of a form, a
length or a style take the whole completion.
"""

import re
from dataclasses import dataclass

NAMES = (
    r"(?:seed:)?think(?:ing)?|thoughts?|reasoning|analysis|reflection|cot|reason|scratch_?pad|inner_(?:thoughts|monologue)"
    r"|chain_of_thought"
)
"""Names of the tags in which models think."""
# Beside such tags: Cohere's and Sky-T1's tokens, Mistral's [THINK], Kimi's triangles, gpt-oss's channels.
OPENING = (
    rf"<(?:{NAMES})\s?>|<\|(?:{NAMES})\|>|<\|begin_of_thought\|>|<\|start_thinking\|>|\[think\]"
    r"|\u25c1think\u25b7|<\|channel\|>(?:analysis|commentary)\b(?:<\|message\|>)?"
)
CLOSING = (
    rf"</(?:{NAMES})\s?>|<\|/(?:{NAMES})\|>|</\|(?:{NAMES})\|>|<\|end_of_thought\|>|<\|end_thinking\|>|\[/think\]"
    r"|\u25c1/think\u25b7|<\|channel\|>final\b(?:<\|message\|>)?"
)
MARK = re.compile(rf"(?P<opening>{OPENING})|(?P<closing>{CLOSING})", re.IGNORECASE)
# Chat templates of reasoning models end the prompt with the opening mark.
OPENED_AT_END = re.compile(rf"(?:{OPENING})\s*\Z", re.IGNORECASE)
TURN = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<\|start\|>|<\|?|<\uff5c|\[\|)"
    r"assistant(?:<\|end_header_id\|>|\|?>|\uff5c>|\|\]|(?=\n))"
    r"|<start_of_turn>model|\[/INST\]|^assistant:",
    re.IGNORECASE | re.MULTILINE,
)
"""The marks with which chat templates begin the model's own turn."""
OTHER_TURN = re.compile(
    r"<\|im_(?:end|start)\|>|<\|eot_id\|>|<\|start_header_id\|>|<\|end_of_text\|>|</s>|<(?:end|start)_of_turn>|\[INST\]"
    r"|<\|?(?:user|system)\|?>|<\uff5cUser\uff5c>|^(?:user|human|system):",
    re.IGNORECASE | re.MULTILINE,
)
"""The marks that end the model's turn or begin another one: text behind them is not a turn that the prompt began."""
END_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]{1,40}\|>|<\uff5c[^<>\n]{1,40}\uff5c>|</?s>|<(?:bos|eos|pad)>|<(?:start_of_turn>(?:model|user)?|end_of_turn>)"
)
"""Tokens of a chat template, which a sampler may leave in the text."""
TAIL_CHARACTERS = 20_000
"""The end of a prompt that is searched for the model's turn. Any value of this size will do: a template opens the turn
at the very end, and longer text behind it would be a prefilled answer."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The two parts of a completion, without the marks between them."""

    reasoning: str
    answer: str
    """All text outside of thoughts; empty when the completion is thoughts alone."""
    closed: bool
    """False when the completion ends, or was cut off, inside of thoughts."""


def split_reasoning(completion: str, prompt: str = "") -> Parts:
    """Return the thoughts and the answer of a completion.

    The ``prompt`` may have opened the thoughts (see :func:`turn_of`). Text before a closing mark without an opening one
    is thoughts too, since a template or a tokenizer may have dropped the opening mark. Thoughts without a closing mark
    leave no answer behind them.

    Example::

        split_reasoning("<think>2+2 is 4</think>4")       # Parts(reasoning="2+2 is 4", answer="4", closed=True)
        split_reasoning("2+2 is 4</think>4", "<think>")   # the same
        split_reasoning("<think>2+2 is")                  # Parts(reasoning="2+2 is", answer="", closed=False)
    """
    inside = thinks_at_end(prompt)
    # The usual case, without copying a text of perhaps megabytes.
    if not inside and MARK.search(completion) is None:
        return Parts("", completion, True)
    thoughts: list[str] = []
    answers: list[str] = []
    start = 0
    for mark in MARK.finditer(completion):
        opens = mark.lastgroup == "opening"
        if opens and inside:
            continue  # thoughts may quote the mark: they do not nest
        piece = completion[start : mark.start()]
        if opens:
            answers.append(piece)
        else:
            # A closing mark that nothing opened: all text before it, earlier "answers" included, was thoughts.
            thoughts += [piece] if inside else [*answers, piece]
            answers = answers if inside else []
        inside, start = opens, mark.end()
    (thoughts if inside else answers).append(completion[start:])
    return Parts(_joined(thoughts), _joined(answers), not inside)


def answer_of(completion: str, prompt: str = "") -> str:
    """Return the answer part alone."""
    return split_reasoning(completion, prompt).answer


def tagged_answer(completion: str, prompt: str = "") -> str | None:
    """Return the content of the last non-empty ``<answer>`` tags outside of thoughts; None without such tags.

    A tag that is not closed counts to the end, since ``</answer>`` may be a stop sequence; one that the prompt opened
    counts from the beginning.
    """
    text = answer_of(completion, prompt)
    # 200 characters: room for the tag and any blanks behind it, without a copy of the whole prompt.
    if prompt[-200:].rstrip().endswith("<answer>"):
        text = "<answer>" + text
    end = len(text)
    while (start := text.rfind("<answer>", 0, end)) >= 0:
        content = text[start + len("<answer>") : end].partition("</answer>")[0].strip()
        if content:
            return content
        # Empty tags are passed over: models quote "<answer></answer>" when they restate the instruction.
        end = start
    return None


def thinks_at_end(prompt: str) -> bool:
    """True when the prompt ends in thoughts that it opened in the model's place."""
    if not prompt:
        return False
    # At the very end the mark counts in any prompt; further up only inside of the model's turn, since a question may
    # quote it.
    if OPENED_AT_END.search(prompt[-200:]):
        return True
    marks = list(MARK.finditer(turn_of(prompt)))
    return bool(marks) and marks[-1].lastgroup == "opening"


def turn_of(prompt: str) -> str:
    """Return the part of the model's own turn that a rendered prompt contains; ``""`` when no turn is recognised."""
    tail = prompt[-TAIL_CHARACTERS:]
    turns = list(TURN.finditer(tail))
    turn = tail[turns[-1].end() :] if turns else ""
    return "" if OTHER_TURN.search(turn) else turn


def _joined(pieces: list[str]) -> str:
    """Join with line breaks: the answer in ``4<think>...</think>2`` is not 42."""
    return "\n".join(piece for piece in pieces if piece.strip())
