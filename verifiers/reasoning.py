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
"""What models call the part in which they think."""
OPENING = (
    rf"<(?:{NAMES})\s?>|<\|(?:{NAMES})\|>|<\|begin_of_thought\|>|<\|start_thinking\|>|\[think\]"
    r"|\u25c1think\u25b7|<\|channel\|>(?:analysis|commentary)\b(?:<\|message\|>)?"
)
CLOSING = (
    rf"</(?:{NAMES})\s?>|<\|/(?:{NAMES})\|>|</\|(?:{NAMES})\|>|<\|end_of_thought\|>|<\|end_thinking\|>|\[/think\]"
    r"|\u25c1/think\u25b7|<\|channel\|>final\b(?:<\|message\|>)?"
)
MARK = re.compile(rf"(?P<opening>{OPENING})|(?P<closing>{CLOSING})", re.IGNORECASE)
OPENED_AT_END = re.compile(rf"(?:{OPENING})\s*\Z", re.IGNORECASE)
TURN = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<\|start\|>|<\|?|<\uff5c|\[\|)"
    r"assistant(?:<\|end_header_id\|>|\|?>|\uff5c>|\|\]|(?=\n))"
    r"|<start_of_turn>model|\[/INST\]|^assistant:",
    re.IGNORECASE | re.MULTILINE,
)
"""Where chat templates begin the model's own turn."""
OTHER_TURN = re.compile(
    r"<\|im_(?:end|start)\|>|<\|eot_id\|>|<\|start_header_id\|>|<\|end_of_text\|>|</s>|<(?:end|start)_of_turn>|\[INST\]"
    r"|<\|?(?:user|system)\|?>|<\uff5cUser\uff5c>|^(?:user|human|system):",
    re.IGNORECASE | re.MULTILINE,
)
"""Where that turn is over: what stands behind an earlier turn of the model is not begun by the prompt."""
END_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]{1,40}\|>|<\uff5c[^<>\n]{1,40}\uff5c>|</?s>|<(?:bos|eos|pad)>|<(?:start_of_turn>(?:model|user)?|end_of_turn>)"
)
"""Tokens of a chat template, which a sampler may leave in the text."""
TAIL_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class Parts:
    """A completion without its marks."""

    reasoning: str
    answer: str
    """All that stands outside of thoughts; empty when the completion is nothing but thoughts."""
    closed: bool
    """False: it ends, or was cut off, while it thinks."""


def split_reasoning(completion: str, prompt: str = "") -> Parts:
    """The thoughts and the answer of a completion.

    Thoughts that the ``prompt`` opened (see :func:`turn_of`) are thoughts; so is all that stands before a closing mark
    that nothing opened, since a template or a tokenizer may have kept the opening one. Thoughts that never end leave
    no answer behind them.
    """
    inside = thinks_at_end(prompt)
    if not inside and MARK.search(completion) is None:
        return Parts("", completion, True)
    thoughts: list[str] = []
    answers: list[str] = []
    start = 0
    for mark in MARK.finditer(completion):
        opens = mark.lastgroup == "opening"
        if opens and inside:
            continue  # a mark that is quoted in a thought
        piece = completion[start : mark.start()]
        if opens:
            answers.append(piece)
        else:
            thoughts += [piece] if inside else [*answers, piece]
            answers = answers if inside else []
        inside, start = opens, mark.end()
    (thoughts if inside else answers).append(completion[start:])
    return Parts(_joined(thoughts), _joined(answers), not inside)


def answer_of(completion: str, prompt: str = "") -> str:
    """The answer part alone."""
    return split_reasoning(completion, prompt).answer


def tagged_answer(completion: str, prompt: str = "") -> str | None:
    """What the last ``<answer>`` tags with something in them hold, outside of thoughts; None without such tags.

    A tag that never closes counts to the end, since ``</answer>`` may be a stop sequence; one that the prompt opened
    counts from the beginning.
    """
    text = answer_of(completion, prompt)
    if prompt[-200:].rstrip().endswith("<answer>"):
        text = "<answer>" + text
    end = len(text)
    while (start := text.rfind("<answer>", 0, end)) >= 0:
        content = text[start + len("<answer>") : end].partition("</answer>")[0].strip()
        if content:
            return content
        end = start
    return None


def thinks_at_end(prompt: str) -> bool:
    """Whether the prompt ends in thoughts that it opened in the model's place."""
    if not prompt:
        return False
    if OPENED_AT_END.search(prompt[-200:]):
        return True
    marks = list(MARK.finditer(turn_of(prompt)))
    return bool(marks) and marks[-1].lastgroup == "opening"


def turn_of(prompt: str) -> str:
    """What a rendered prompt has written of the model's own turn already; empty when no turn can be made out."""
    tail = prompt[-TAIL_CHARACTERS:]
    turns = list(TURN.finditer(tail))
    turn = tail[turns[-1].end() :] if turns else ""
    return "" if OTHER_TURN.search(turn) else turn


def _joined(pieces: list[str]) -> str:
    """Never glued together: ``4<think>...</think>2`` is not 42."""
    return "\n".join(piece for piece in pieces if piece.strip())
