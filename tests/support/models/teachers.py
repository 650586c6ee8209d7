"""Real tiny teachers: a random model with a tokenizer of characters, byte pairs or word pieces, served over gRPC."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.pretrain.tokenizer import train_tokenizer
from tests.support.models.characters import tokenizer as character_tokenizer
from tests.support.models.tiny_policies import tiny_model

TEXTS = [f"{a}+{b}={a + b};#{(a + b) % 10}" for a in range(40) for b in range(40)]


def pairs_tokenizer() -> Any:
    """Byte pairs: several characters a token, so it never agrees with the characters' one."""
    return train_tokenizer(TokenizerConfig(type="bpe", vocab_size=320), TEXTS, max_length=512)


def pieces_tokenizer() -> Any:
    """Word pieces, as BERT has: joined, they are not the text."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", unk_token="[UNK]")


def save_teacher(path: Path, *, tokenizer: Any = None, seed: int = 0) -> str:
    """A checkpoint directory with its tokenizer."""
    tokenizer = tokenizer or character_tokenizer()
    model = tiny_model("qwen3", tied=True, seed=seed, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
