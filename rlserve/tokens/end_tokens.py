"""Finds the tokens that end a completion in the files of a checkpoint."""

import json
from collections.abc import Mapping
from typing import Any

from rlserve.errors import ConfigError
from rlserve.tokens.tokenizer import Tokenizer


def end_token_ids(tokenizer: Tokenizer, model_path: str = "") -> tuple[int, ...]:
    """The tokenizer's end of sequence first, then the ``eos_token_id`` of generation_config.json.

    Without that file config.json is read, as transformers does. ``model_path`` is a directory or hub name; without
    one only the tokenizer is used. Raises ConfigError for malformed files.
    """
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    named = _named(model_path) if model_path else []
    # An id missing from the vocabulary is the default of a model class, which the checkpoint never set.
    known = set(tokenizer.get_vocab().values())
    return tuple(dict.fromkeys([*own, *(token for token in named if token in known)]))


def end_token_warning(tokenizer: Tokenizer, end_ids: tuple[int, ...]) -> str:
    """A warning about a model's end tokens, with the fix; empty when they are plausible."""
    if not end_ids:
        return (
            "model: neither its tokenizer nor generation_config.json nor config.json names an end token, so every "
            "completion goes on to max_new_tokens; set eos_token_id in generation_config.json"
        )
    marks = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    plain = [token for token in end_ids if token not in marks]
    if not plain:
        return ""
    written = tokenizer.decode(plain[:1], skip_special_tokens=False)
    return (
        f"model: token {plain[0]} ({written!r}) ends a completion, since generation_config.json or config.json names "
        "it as eos_token_id, but the tokenizer takes it for text; correct the file unless this is meant"
    )


def _named(model_path: str) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        settings = _read(model_path, name)
        if settings is not None:
            # Multimodal checkpoints keep the language model's settings in ``text_config``.
            text_settings = settings.get("text_config")
            nested = text_settings.get("eos_token_id") if isinstance(text_settings, Mapping) else None
            return _ids(settings.get("eos_token_id", nested), name)
    return []


def _ids(value: Any, file: str) -> list[int]:
    listed = value if isinstance(value, list) else [value]
    ids = [token for token in listed if token is not None]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise ConfigError(f"eos_token_id: of {file} is {value!r}; give a token id or a list of them")
    return ids


def _read(model_path: str, name: str) -> Mapping[str, Any] | None:
    """A JSON file of the checkpoint; None when the file is missing."""
    from transformers.utils.hub import cached_file

    # Without these flags it raises for a missing file, and generation_config.json is optional.
    path = cached_file(
        model_path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except ValueError as error:
        raise ConfigError(f"model: {path} is not JSON ({error}); take a whole checkpoint") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"model: {path} holds a {type(settings).__name__}; take a whole checkpoint")
    return settings
