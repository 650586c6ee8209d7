"""Turns text into tensors. Letters in shapes: B rows, T columns.

Pretraining packs texts end to end into full rows and trains on every token; fine-tuning pads pairs on the right and
trains on completions only. Neither needs an attention mask, because attention is causal and padding comes last.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rlserve.pretrain.corpus import Corpus

IGNORE = -100
"""Target of a position without a loss: the default ``ignore_index`` of torch's cross-entropy."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows to train on."""

    input_ids: Tensor
    """``[B, T] int64``."""
    targets: Tensor
    """``[B, T] int64``: the next token, or IGNORE."""


def pretraining_batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, *, batch_size: int, max_length: int
) -> Iterator[Batch]:
    """Yield batches of full rows of ``max_length`` tokens, without end: ``<bos> text <eos> <bos> text ...``.

    A row may begin and end anywhere in a text.
    """
    tokens = _token_stream(corpus, tokenizer)
    # One token more than a row, as the last input's target; the next row does not repeat it.
    width = max_length + 1
    while True:
        # [B, T + 1]
        rows = torch.tensor(list(islice(tokens, batch_size * width))).view(batch_size, width)
        # contiguous: slices of one tensor would keep strides of T + 1, which view() in models refuses.
        yield Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def pair_batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, *, batch_size: int, max_length: int
) -> Iterator[Batch]:
    """Endless batches of prompt and completion pairs, with loss only on completions and the end token."""
    for start in count(step=batch_size):
        pairs = [corpus.pair(index) for index in range(start, start + batch_size)]
        yield pad([encode_pair(tokenizer, *pair, max_length=max_length) for pair in pairs], tokenizer.pad_token_id)


def encode_pair(
    tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str, *, max_length: int
) -> tuple[list[int], list[int]]:
    """Prompt ids and completion ids with the end token, as a rollout worker would make them.

    If they exceed ``max_length``, the prompt is cut from the left, down to one token, then the completion from the
    right.
    """
    prompt_ids = tokenizer.encode(prompt)
    # No <bos> in the middle: the prompt has one.
    completion_ids = [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id]
    # Leaves room for one token of the prompt, from which the first token of the completion is predicted.
    completion_ids = completion_ids[: max_length - 1]
    return prompt_ids[-(max_length - len(completion_ids)) :], completion_ids


def pad(pairs: Sequence[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """Return pairs of ids as one batch, padded on the right to the longest."""
    # - 1: the last token is a target only.
    width = max(len(prompt) + len(completion) for prompt, completion in pairs) - 1
    input_ids = torch.full((len(pairs), width), pad_id)
    targets = torch.full((len(pairs), width), IGNORE)
    for row, (prompt, completion) in enumerate(pairs):
        ids = torch.tensor(prompt + completion)
        input_ids[row, : len(ids) - 1] = ids[:-1]
        # The last prompt token predicts the first token of the completion.
        targets[row, len(prompt) - 1 : len(ids) - 1] = ids[len(prompt) :]
    return Batch(input_ids, targets)


def _token_stream(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[int]:
    for index in count():
        yield from tokenizer.encode(corpus.text(index))
        yield tokenizer.eos_token_id
