"""What ends a completion, and the text of tokens, from the files of real checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlserve.errors import ConfigError
from rlserve.records import Message, Task
from rlserve.tokens.end_tokens import end_token_ids, end_token_warning
from rlserve.tokens.model_tokens import ModelTokens, given_tokens
from rlserve.tokens.token_text import TokenText
from tests.support.models import characters
from tests.support.models.tiny_policies import VOCABULARY

TURNS = "{% for m in messages %}{{ m.content }}<turn>{% endfor %}"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    """The quick start's with tags and a token that ends turns; ``<eos>`` is 2, ``<pad>`` 0."""
    characters.tokenizer().save_pretrained(tmp_path / "tokenizer")
    copy = characters.tokenizer().__class__.from_pretrained(tmp_path / "tokenizer")
    copy.add_special_tokens({"additional_special_tokens": ["<turn>", "<tool>", "</tool>"]})
    return copy


def task(prompt: Any) -> Task:
    return Task(environment="e", split="train", index=0, task_id="t", prompt=prompt, verifier="v", payload=b"")


CHAT = task((Message(role="user", content="3"),))


def test_config_json_counts_where_there_is_no_generation_config(tokenizer: Any, tmp_path: Path) -> None:
    assert end_token_ids(tokenizer, str(tmp_path)) == (2,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    assert end_token_ids(tokenizer, str(tmp_path)) == (2, 5)
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 7}}))
    assert end_token_ids(tokenizer, str(tmp_path)) == (2, 7)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    assert end_token_ids(tokenizer, str(tmp_path)) == (2, 3)
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.7}))
    assert end_token_ids(tokenizer, str(tmp_path)) == (2,)


def test_an_end_that_the_tokenizer_has_not_is_left_out(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [50256, -1, 2]}))
    assert end_token_ids(tokenizer, str(tmp_path)) == (2,)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"eos_token_id": "</s>"}', "eos_token_id: of generation_config.json is '</s>'"),
        ('{"eos_token_id": [true]}', "give a token id or a list"),
        ("{", "is not JSON"),
        ("[]", "holds a list"),
    ],
)
def test_files_that_are_not_as_they_should_be_are_named(
    tokenizer: Any, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        end_token_ids(tokenizer, str(tmp_path))
    assert words in str(caught.value)


def test_a_model_without_an_end_and_one_whose_end_is_text_are_warned_of(tokenizer: Any) -> None:
    assert end_token_warning(tokenizer, (2,)) == ""
    assert "names an end token" in end_token_warning(tokenizer, ())
    seven = tokenizer.get_vocab()["7"]
    assert f"token {seven} ('7') ends a completion" in end_token_warning(tokenizer, (2, seven))


def test_in_a_chat_the_templates_turn_end_ends_a_completion_too(tokenizer: Any) -> None:
    tokenizer.chat_template = TURNS
    tokens = ModelTokens.of(tokenizer)
    turn = tokenizer.get_vocab()["<turn>"]
    assert tokens.ends_of(CHAT) == (turn, 2)
    assert tokens.ends_of(task("3")) == (2,)
    assert tokens.given(CHAT, "7")[-1] == turn
    assert tokens.given(task("3"), "7")[-1] == 2
    assert tokens.given(CHAT, "7<eos>")[-1] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7;#7", "7;#7<eos>"),
        ("7;#7<eos>", "7;#7<eos>"),
        ("7;#7<eos><eos>", "7;#7<eos>"),
        ("7;#7<eos><pad><pad>", "7;#7<eos>"),
        ("<bos>7;#7", "7;#7<eos>"),
        ("<eos>", "<eos>"),
        ("7<eos>8", "7<eos>8<eos>"),
    ],
)
def test_a_given_completion_has_one_end(tokenizer: Any, text: str, expected: str) -> None:
    tokens = ModelTokens.of(tokenizer)
    ids = tokenizer.encode(expected, add_special_tokens=False)
    assert tokens.given(task("3"), text) == ids
    assert given_tokens(tokenizer, text.replace("<pad>", "")) == ids


def test_tags_are_text_and_ends_padding_and_unknown_ids_are_not(tokenizer: Any) -> None:
    tokens = ModelTokens.of(tokenizer)
    tool, tool_end = (tokenizer.get_vocab()[tag] for tag in ("<tool>", "</tool>"))
    ids = [tool, *characters.ids("3+4"), tool_end, VOCABULARY - 1, 0, 2]
    assert tokens.text(ids) == "<tool>3+4</tool>"
    read, ends = tokens.as_text().read(ids)
    assert read == "<tool>3+4</tool>"
    assert ends == [6, 7, 8, 9, 16, 16, 16, 16]


def test_text_with_tags_is_written_as_the_tags_and_read_back(tokenizer: Any) -> None:
    text = "<tool>3+4</tool>#7"
    ids, ends = TokenText(tokenizer).write(text)
    assert ids[0] == tokenizer.get_vocab()["<tool>"]
    assert ends[-1] == len(text)
    assert TokenText(tokenizer).text(ids) == text
