"""A real tokenizer of single characters, as the quick start makes one, and its words for tests of episodes."""

from functools import lru_cache
from typing import Any

from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.engines.base import SamplingChoice
from rlserve.pretrain.tokenizer import train_tokenizer

ALPHABET = "0123456789+-*=;#?!<>cg"


@lru_cache
def tokenizer() -> Any:
    return train_tokenizer(TokenizerConfig(type="characters", alphabet=ALPHABET), [], max_length=512)


def ids(text: str) -> list[int]:
    """Without the start token; ``<eos>`` is one token."""
    return list(tokenizer().encode(text, add_special_tokens=False))


def sampling(tokens: int) -> SamplingChoice:
    return SamplingChoice(max_new_tokens=tokens, stop_token_ids=(tokenizer().eos_token_id,))
