"""A tiny chat model as a user has one: random weights, byte pairs, a chat template."""

import json
from pathlib import Path

from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.pretrain.tokenizer import train_tokenizer
from tests.support.models.teachers import save_teacher

QUESTIONS = [f"What are {a} apples and {b} apples?" for a in range(12) for b in range(10)]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_chat_model(path: Path) -> Path:
    """Half a million parameters, a context of at least 128 tokens."""
    texts = [f"<user>{question}\n<assistant>The answer is {index}." for index, question in enumerate(QUESTIONS)]
    tokenizer = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=320), texts, max_length=512)
    tokenizer.chat_template = TEMPLATE
    save_teacher(path, tokenizer=tokenizer)
    return path


def save_questions(path: Path) -> Path:
    """Rows of ``question`` and ``answer``, an integer."""
    rows = [{"question": question, "answer": index // 10 + index % 10} for index, question in enumerate(QUESTIONS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
