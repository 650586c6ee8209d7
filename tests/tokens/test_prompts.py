"""Prompts as tokens and as text, by real tokenizers and chat templates."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from rlserve.config.tables.model import ModelConfig
from rlserve.errors import TASK_FAULTS, TaskRefused
from rlserve.records import Message, Task, Tool
from rlserve.tokens.chat import render, turn_end
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.prompts import encode_prompt
from tests.support.models import characters

CHATML = (
    "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% set f = c.function %}"
    "<call>{{ f.name }} {{ f.arguments | tojson }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
SPELLS_ARGUMENTS = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name + '(' + c.function.arguments + ')' }}{% endfor %}{% endfor %}"
)
USER = Message(role="user", content="3+4=")


def task(prompt: Any, **fields: Any) -> Task:
    return Task(
        environment="e", split="train", index=0, task_id="t", prompt=prompt, verifier="v", payload=b"", **fields
    )


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    """A copy of the quick start's, to be changed."""
    characters.tokenizer().save_pretrained(tmp_path)
    return characters.tokenizer().__class__.from_pretrained(tmp_path)


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<think>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def refused(tokenizer: Any, asked: Task, max_tokens: int = 40) -> TaskRefused:
    with pytest.raises(TaskRefused) as caught:
        encode_prompt(tokenizer, asked, max_tokens=max_tokens)
    assert caught.value.reason in TASK_FAULTS
    return caught.value


def test_arguments_of_the_configuration_reach_the_chat_template(chat: Any, tmp_path: Path) -> None:
    chat.chat_template = CHATML.replace("<think>\n", "{% if not (no_thoughts or false) %}<think>\n{% endif %}")
    chat.save_pretrained(tmp_path / "thinks")
    plain, silent = (ModelTokens.load(str(tmp_path / "thinks"), given) for given in (None, {"no_thoughts": True}))
    heads = [encode_prompt(t.tokenizer, task((USER,)), max_tokens=100).text for t in (plain, silent)]
    assert [head.rpartition("assistant\n")[2] for head in heads] == ["<think>\n", ""]
    assert plain.turn_end == silent.turn_end == chat.convert_tokens_to_ids("<|im_end|>")


def test_what_a_task_sets_is_no_argument_of_a_configuration() -> None:
    assert ModelConfig(chat_template_kwargs={"enable_thinking": False}).chat_template_kwargs
    with pytest.raises(ValueError, match=r"chat_template_kwargs\.tools: is set for each task; leave it out"):
        ModelConfig(chat_template_kwargs={"tools": []})


@pytest.mark.parametrize("prompt", ["3+4=", "<bos>3+4=", (1, 7, 8), (USER,)])
def test_a_prompt_is_whole_or_refused(tokenizer: Any, prompt: Any) -> None:
    whole = encode_prompt(tokenizer, task(prompt), max_tokens=100).token_ids
    assert encode_prompt(tokenizer, task(prompt), max_tokens=len(whole)).token_ids == whole
    for room in (len(whole) - 1, 1, 0, -5):
        error = refused(tokenizer, task(prompt), room)
        assert error.reason == "prompt_too_long"
        assert f"has {len(whole)} tokens, but there is room for {max(room, 0)}" in str(error)


def test_a_tokenizer_that_ends_texts_ends_no_prompt(tokenizer: Any) -> None:
    plain = encode_prompt(tokenizer, task("3+4="), max_tokens=10).token_ids
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert tokenizer.encode("3")[-1] == 2
    assert encode_prompt(tokenizer, task("3+4="), max_tokens=10).token_ids == plain
    assert encode_prompt(tokenizer, task("<bos>3+4="), max_tokens=10).token_ids == plain
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 2)]
    )
    assert encode_prompt(tokenizer, task("3+4="), max_tokens=10).token_ids == plain[1:]


def test_an_empty_prompt_is_what_the_tokenizer_begins_with_or_refused(tokenizer: Any) -> None:
    assert encode_prompt(tokenizer, task(""), max_tokens=10).token_ids == [tokenizer.bos_token_id]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert refused(tokenizer, task("")).reason == "task_invalid"


def test_verifiers_read_the_prompt_as_it_was_rendered_with_its_last_tag(chat: Any) -> None:
    prompt = encode_prompt(chat, task((USER,)), max_tokens=99)
    assert prompt.text == "<|im_start|>user\n3+4=<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert prompt.token_ids == chat.apply_chat_template(
        [{"role": "user", "content": "3+4="}], add_generation_prompt=True, return_dict=False
    )
    assert encode_prompt(chat, task("<think>3"), max_tokens=99).text == "<think>3"
    ids = tuple(chat.encode("<think>3+4=", add_special_tokens=False))
    assert encode_prompt(chat, task(ids), max_tokens=99).text == "<think>3+4="


def test_tools_and_tool_calls_reach_the_template(chat: Any) -> None:
    call = json.dumps({"id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}})
    bare = json.dumps({"name": "sub", "arguments": {"b": 2}})
    called = Message(role="assistant", content="", tool_calls=(call, bare))
    answer = Message(role="tool", content="7", tool_call_id="c1")
    offered = (Tool(name="add"), Tool(name="sub", parameters_json='{"type": "object"}'))
    text = encode_prompt(chat, task((USER, called, answer), tools=offered), max_tokens=500).text
    assert text.startswith("[add][sub]<|im_start|>user")
    assert '<call>add {"a": 1}</call><call>sub {"b": 2}</call><|im_end|>' in text


def test_a_template_that_wants_arguments_as_text_gets_text(chat: Any) -> None:
    chat.chat_template = SPELLS_ARGUMENTS
    called = Message(role="assistant", content="", tool_calls=('{"name": "add", "arguments": {"a": 1}}',))
    assert render(chat, [USER, called]) == '3+4=add({"a": 1})'


@pytest.mark.parametrize("call", ["", "{", "[]", "7", '{"arguments": {}}', '{"name": "f", "arguments": "{"}', "null"])
def test_a_call_that_is_none_is_the_tasks_fault(chat: Any, call: str) -> None:
    error = refused(chat, task((USER, Message(role="assistant", content="", tool_calls=(call,)))))
    assert error.reason == "task_invalid"
    assert "tool_calls: " in str(error)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[3].content }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
    ],
)
def test_what_the_template_raises_is_told_in_its_words(chat: Any, template: str, words: str) -> None:
    chat.chat_template = template
    error = refused(chat, task((USER,)))
    assert error.reason == "template_failed"
    assert words in str(error)


def test_whatever_a_tokenizer_raises_costs_the_task_alone() -> None:
    class Broken:
        def encode(self, text: str, **_: Any) -> Any:
            raise OverflowError("too big")

    error = refused(Broken(), task("3"))
    assert (error.reason, "OverflowError: too big" in str(error)) == ("template_failed", True)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }} <eos>{% endfor %}", "<eos>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_the_template_tells_what_ends_a_turn(chat: Any, template: str, end: str | None) -> None:
    chat.chat_template = template
    assert turn_end(chat) == (None if end is None else chat.get_vocab()[end])
