"""The policy's tool calls by model family, as vLLM's own parsers read them."""

import json
from functools import lru_cache
from typing import Any

import pytest

from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.engines.tool_calls import FAMILIES, MAX_CALLS, MAX_CHARACTERS, ToolCallReader, check_parser, family_of
from rlserve.errors import ConfigError
from rlserve.pretrain.tokenizer import train_tokenizer
from rlserve.records import Tool

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOLS = (Tool(name="add", description="adds", parameters_json=json.dumps(SCHEMA)),)
DEEPSEEK = [f"<\uff5ctool\u2581{word}\uff5c>" for word in ("calls\u2581begin", "calls\u2581end", "call\u2581begin")]
DEEPSEEK += ["<\uff5ctool\u2581call\u2581end\uff5c>", "<\uff5ctool\u2581sep\uff5c>"]
BEGIN, END, ONE, ONE_END, SEP = DEEPSEEK
MARKS = ["<|python_tag|>", "[TOOL_CALLS]", "<tool_call>", "</tool_call>", *DEEPSEEK]
MARKS += ["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]
WRITTEN = {
    "hermes": 'I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "llama3_json": '<|python_tag|>{"name": "add", "parameters": {"a": 1}}',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]',
    "qwen3_coder": "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    "glm45": "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "deepseek_v3": f'{BEGIN}{ONE}function{SEP}add\n```json\n{{"a": 1}}\n```{ONE_END}{END}',
    "deepseek_v31": f'{BEGIN}{ONE}add{SEP}{{"a": 1}}{ONE_END}{END}',
    "phi4_mini_json": 'functools[{"name": "add", "arguments": {"a": 1}}]',
}
"""How each family writes add(a=1)."""
MALFORMED = {
    "cut": '<tool_call>\n{"name": "add", "argu',
    "no JSON": "<tool_call>add(1)</tool_call>",
    "deep": "<tool_call>" + "[" * 100_000 + "</tool_call>",
    "arguments of another type": '<tool_call>{"name": "add", "arguments": "1"}</tool_call>',
    "a name of another type": '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
    "an empty name": '<tool_call>{"name": "", "arguments": {}}</tool_call>',
    "a list": "<tool_call>[1]</tool_call>",
    "huge arguments": '<tool_call>{"name": "add", "arguments": {"a": "%s"}}</tool_call>' % ("7" * 2**16),
    "too many": '<tool_call>{"name": "add", "arguments": {}}</tool_call>' * (MAX_CALLS + 1),
    "too long": '<tool_call>{"name": "add", "arguments": {}}</tool_call>' + " " * MAX_CHARACTERS,
    "a lone surrogate": '<tool_call>{"name": "\ud800", "arguments": {}}</tool_call>',
    "none": "seven",
    "empty": "",
}


@lru_cache
def tokenizer(template: str) -> Any:
    made = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=300), ["some words"], max_length=64)
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.chat_template = template
    return made


def reader(parser: str, template: str = "") -> ToolCallReader:
    return ToolCallReader(parser, tokenizer(template))


@pytest.mark.parametrize(("family", "words"), FAMILIES, ids=[name for name, _ in FAMILIES])
async def test_each_family_is_found_by_its_template_and_its_calls_are_read(family: str, words: tuple[str, ...]) -> None:
    auto = reader("auto", f"{{% if tools %}}{{{{ 'Call as {' '.join(words)} does' }}}}{{% endif %}}")
    assert auto.parser == family
    [call] = await auto.read(WRITTEN[family], TOOLS, turn=3)
    assert (call.id, call.name, call.arguments) == ("call00300", "add", {"a": 1})


async def test_several_calls_come_in_their_order() -> None:
    text = "".join(f'<tool_call>{{"name": "add", "arguments": {{"a": {a}}}}}</tool_call>' for a in range(3))
    calls = await reader("hermes").read(text, TOOLS, turn=0)
    assert [(call.id, call.arguments["a"]) for call in calls] == [("call00000", 0), ("call00001", 1), ("call00002", 2)]


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_call_is_text(what: str) -> None:
    assert await reader("hermes").read(MALFORMED[what], TOOLS, turn=0) == ()


async def test_without_tools_or_a_known_template_there_are_no_calls() -> None:
    assert await reader("hermes").read(WRITTEN["hermes"], (), turn=0) == ()
    assert family_of(None) == family_of("{{ messages }}") == "none"
    assert family_of([{"name": "tool_use", "template": "<tool_call>"}]) == "hermes"
    assert await reader("auto").read(WRITTEN["hermes"], TOOLS, turn=0) == ()


async def test_an_unknown_parser_is_refused_with_the_nearest_and_auto_never_is() -> None:
    unknown = r"model\.tool_parser: 'herms' is unknown; did you mean 'hermes'"
    with pytest.raises(ConfigError, match=unknown):
        await reader("herms").check()
    with pytest.raises(ConfigError, match=unknown):  # in preflight, without an import of vLLM
        check_parser("herms")
    for name in ("auto", "none", *(name for name, _ in FAMILIES)):
        check_parser(name)
    await reader("mistral").check()
    lacking = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=300), ["some words"], max_length=64)
    with pytest.raises(ConfigError, match=r"model\.tool_parser: 'llama3_json' does not fit"):
        await ToolCallReader("llama3_json", lacking).check()
    lacking.chat_template = "<|python_tag|>"
    auto = ToolCallReader("auto", lacking)
    await auto.check()
    assert await auto.read(WRITTEN["llama3_json"], TOOLS, turn=0) == ()
