"""Tokenizers as the actors use them: load, fingerprint, prompt in, text out."""

import hashlib
import json
from typing import Any, Protocol

from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the actors rely on."""

    eos_token_id: int | None
    all_special_ids: list[int]

    def get_vocab(self) -> dict[str, int]: ...
    def __len__(self) -> int: ...
    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(self, ids: list[int], *, skip_special_tokens: bool = ...) -> str: ...
    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a checkpoint directory or hub name; no remote code is run."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    loaded: Tokenizer = tokenizer
    return loaded


def fingerprint(tokenizer: Tokenizer) -> str:
    """Digest of vocabulary and special tokens: equal exactly when token ids mean the same."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    text = json.dumps([vocabulary, sorted(tokenizer.all_special_ids), tokenizer.eos_token_id])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def encode_prompt(tokenizer: Tokenizer, task: Task, *, max_tokens: int) -> tuple[list[int], bool]:
    """Token ids of a task's prompt, and whether it was cut (from the left) to ``max_tokens``.

    Chat messages need a tokenizer with a chat template; without one they are a plain transcript.
    """
    ids = _prompt_ids(tokenizer, task)
    if not ids:
        raise InvalidRequest(f"task.prompt: of {task.task_id!r} is empty; give at least one token")
    return ids[-max_tokens:], len(ids) > max_tokens


def _prompt_ids(tokenizer: Tokenizer, task: Task) -> list[int]:
    prompt = task.prompt
    if isinstance(prompt, str):
        return list(tokenizer.encode(prompt))
    if prompt and isinstance(prompt[0], int):
        return [int(str(i)) for i in prompt]
    messages = [{"role": m.role, "content": m.content} for m in prompt if isinstance(m, Message)]
    if getattr(tokenizer, "chat_template", None):
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return list(ids)
    text = "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant:"
    return list(tokenizer.encode(text))
