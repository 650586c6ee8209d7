"""Trains small tokenizers, by character or byte-level BPE, as ordinary Hugging Face fast tokenizers.

Special tokens come first, then the alphabet in the order of its code points, so that the same data always results in
the same ids. Encoding prepends ``<bos>``; decoding restores the text exactly.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.errors import ConfigError

PAD, BOS, EOS, UNKNOWN = SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
BYTES = 256
"""The alphabet of byte-level BPE, from which any text can be encoded."""


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str], *, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``config.vocab_size`` tokens. Raises ConfigError if that is too few."""
    build = _characters if config.type == "characters" else _byte_pairs
    backend = build(config, texts)
    # <bos> in front of every text: position 0 is never predicted, so that the first real token can be.
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    # clean_up_tokenization_spaces would delete blanks before punctuation when it decodes.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        # Clean-up would drop blanks before punctuation, and the text would not be restored.
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def _characters(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    # Sorted: the order of a set of strings changes from process to process, and with it the ids.
    alphabet = sorted(set(config.alphabet) or set().union(*texts))
    tokens = [*SPECIAL_TOKENS, *alphabet]
    if len(tokens) > config.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size: is {config.vocab_size}, but {len(alphabet)} characters and "
            f'{len(SPECIAL_TOKENS)} special tokens are {len(tokens)}; raise it, or use type = "bpe"'
        )
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()  # without a decoder, tokens are joined by blanks
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return backend


def _byte_pairs(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    if config.vocab_size < BYTES + len(SPECIAL_TOKENS):
        raise ConfigError(
            f"tokenizer.vocab_size: is {config.vocab_size}; byte-level BPE needs at least "
            f"{BYTES + len(SPECIAL_TOKENS)}, all bytes and the special tokens"
        )
    backend = Tokenizer(models.BPE())
    # No blank in front of the text: prompts are continued, and a blank of its own would change their first token.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        # All 256 bytes, so that no text is unknown, whatever the corpus lacks.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend
