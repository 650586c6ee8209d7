"""Tokenizers as the actors use them: load, fingerprint, prompt in, text out."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task, Tool


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
    if has_template(tokenizer):
        options = _template_options(task.tools)
        ids = tokenizer.apply_chat_template(_as_dicts(chat_messages(task)), return_dict=False, **options)
        return list(ids)
    return list(tokenizer.encode(plain_chat(chat_messages(task))))


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether it says how chat messages become text."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_messages(task: Task) -> list[Message]:
    """The messages of a task whose prompt is a conversation."""
    return [message for message in task.prompt if isinstance(message, Message)]


def plain_chat(messages: Sequence[Message]) -> str:
    """Messages as a plain transcript, up to the assistant's next turn."""
    return "".join(f"{m.role}: {m.content}\n" for m in messages) + "assistant:"


def render(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    """Messages as the chat template writes them, up to the assistant's next turn."""
    return str(tokenizer.apply_chat_template(_as_dicts(messages), tokenize=False, **_template_options(tools)))


def _template_options(tools: Sequence[Tool]) -> dict[str, Any]:
    described = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": p}}
        for t in tools
        for p in [json.loads(t.parameters_json)]
    ]
    return {"add_generation_prompt": True, **({"tools": described} if described else {})}


def _as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [
        {"role": m.role, "content": m.content, **({"tool_call_id": m.tool_call_id} if m.tool_call_id else {})}
        for m in messages
    ]
