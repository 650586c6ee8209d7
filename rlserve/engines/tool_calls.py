"""Reads the policy's tool calls from its text, in the notation of its model's family.

vLLM's parsers do the reading; they need its package, and no engine. ``model.tool_parser`` names one, or ``"auto"``
finds it by words of the chat template.
"""

import ast
import asyncio
import functools
import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlserve.errors import ConfigError
from rlserve.nearest import known_names
from rlserve.records import Tool, ToolCall

logger = logging.getLogger(__name__)

FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("glm45", ("<tool_call>", "<arg_key>")),
    ("qwen3_coder", ("<tool_call>", "<function=")),
    ("hermes", ("<tool_call>",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("llama3_json", ("<|python_tag|>",)),
    ("deepseek_v3", ("<\uff5ctool\u2581calls\u2581begin\uff5c>", "```json")),
    ("deepseek_v31", ("<\uff5ctool\u2581calls\u2581begin\uff5c>",)),
    ("phi4_mini_json", ("functools[",)),
)
"""vLLM's name of a parser, and the words of a chat template that need it. The first whose words all occur is taken."""
MAX_CHARACTERS = 2**17
"""Of a text that is parsed; a longer one has no calls. Some 30,000 tokens, which parsers read in milliseconds."""
MAX_CALLS = 64
"""In one turn; with more it has none. Any value of this size will do: far above what models call at once."""
MAX_ARGUMENTS = 2**16
"""Characters of one call's arguments, as the wire bounds them."""
MAX_NAME = 256
"""Characters of a tool's name, as the wire bounds it."""


class ToolCallReader:
    """Finds the tool calls of one model's texts. Malformed calls are text: ``read`` never raises for what it reads.

    Example::

        reader = ToolCallReader("auto", tokenizer)
        await reader.read('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', task.tools, turn=0)
        # (ToolCall(id="call00000", name="add", arguments_json='{"a": 1}'),)
    """

    def __init__(self, parser: str, tokenizer: Any) -> None:
        """``parser`` is ``"auto"``, ``"none"`` or a name of vLLM's; ``tokenizer`` a Hugging Face tokenizer."""
        self._tokenizer = tokenizer
        self.parser = family_of(getattr(tokenizer, "chat_template", None)) if parser == "auto" else parser
        self._chosen = parser != "auto"
        self._loading: asyncio.Task[Any] | None = None

    async def check(self) -> None:
        """Load a parser that the configuration names. Raises ConfigError when there is none of its name."""
        if self._chosen and self.parser != "none":
            await self._make()

    async def read(self, text: str, tools: Sequence[Tool], *, turn: int) -> tuple[ToolCall, ...]:
        """The calls in the policy's text of one turn, in order; none for a task without tools."""
        if not tools or self.parser == "none" or len(text) > MAX_CHARACTERS:
            return ()
        try:
            make = await self._make()
        except ConfigError as error:  # found by the template, but the tokenizer lacks what the parser needs
            logger.warning("%s; tool calls stay text", error)
            self.parser = "none"
            return ()
        try:
            # The parsers are written for one request each, and some keep state between calls.
            parser, request = make(_functions(tools))
            found = parser.extract_tool_calls(text, request)
            calls = [_call(call.function, turn, index) for index, call in enumerate(found.tool_calls)]
        except Exception:  # a parser is made for what its model should write, and this was sampled
            return ()
        return tuple(calls) if found.tools_called and len(calls) <= MAX_CALLS else ()

    async def _make(self) -> Any:
        if self._loading is None:
            # In a thread: the first import takes a second or two, and other sequences are being sampled.
            self._loading = asyncio.create_task(asyncio.to_thread(_loaded, self.parser, self._tokenizer))
        return await asyncio.shield(self._loading)


def family_of(template: Any) -> str:
    """The parser that a chat template needs; ``"none"`` for one of no known family."""
    # A tokenizer may have several templates by name, one of them for tools.
    text = json.dumps(template, ensure_ascii=False) if isinstance(template, dict | list) else str(template or "")
    return next((name for name, words in FAMILIES if all(word in text for word in words)), "none")


def check_parser(name: str) -> None:
    """Raise ConfigError for a parser that vLLM lacks. Imports nothing; accepts any where vLLM is missing."""
    found = importlib.util.find_spec("vllm")
    if name in ("auto", "none") or found is None or not found.submodule_search_locations:
        return
    # Its package takes seconds to import; the names are keys of a literal at the top of this file.
    source = Path(found.submodule_search_locations[0], "tool_parsers", "__init__.py")
    tree = ast.parse(source.read_text(encoding="utf-8")) if source.is_file() else ast.Module([], [])
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    names = [key.value for table in tables for key in table.keys if isinstance(key, ast.Constant)]
    if names and name not in names:
        raise ConfigError(_unknown(name, names))


def _unknown(name: str, names: Sequence[Any]) -> str:
    return f"model.tool_parser: {name!r} is unknown{known_names(name, ['auto', 'none', *names])}"


def _loaded(name: str, tokenizer: Any) -> Any:
    """A function from tools to a parser and a request that offers them. Raises ConfigError."""
    try:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.tokenizers.hf import get_cached_tokenizer
        from vllm.tool_parsers import ToolParserManager
    except ImportError as error:
        raise ConfigError(f"model.tool_parser: {name!r} is one of vLLM's, which is not installed ({error})") from error
    # They log a traceback for each malformed call, and an untrained policy writes thousands.
    logging.getLogger("vllm.tool_parsers").setLevel(logging.CRITICAL)
    logging.getLogger("vllm.parser").setLevel(logging.CRITICAL)
    names = ToolParserManager.list_registered()
    if name not in names:
        raise ConfigError(_unknown(name, names))
    kind: Any = ToolParserManager.get_tool_parser(name)
    # A copy whose vocabulary is made once, not by each parser.
    cached = get_cached_tokenizer(tokenizer)

    def make(functions: Sequence[Any]) -> tuple[Any, Any]:
        request = ChatCompletionRequest(model="", messages=[], tools=list(functions))
        return kind(cached, request.tools), request

    try:
        make(_functions([Tool(name="probe")]))
    except Exception as error:  # it needs tokens that this tokenizer lacks
        raise ConfigError(f"model.tool_parser: {name!r} does not fit the model's tokenizer: {error}") from error
    return make


def _functions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    return [_function(tool) for tool in tools]


@functools.lru_cache(maxsize=256)  # the tasks of an environment share their tools
def _function(tool: Tool) -> dict[str, Any]:
    described = {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters_json)}
    return {"type": "function", "function": described}


def _call(function: Any, turn: int, index: int) -> ToolCall:
    """One call. Raises ValueError for one that an environment could not read."""
    name, written = function.name, function.arguments
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"name: is {name!r}")
    # An object: some parsers pass on any JSON.
    if len(written) > MAX_ARGUMENTS or not isinstance(json.loads(written), dict):
        raise ValueError("arguments: are no JSON object")
    # Nine letters and digits: the templates of Mistral's models refuse ids of another form.
    return ToolCall(id=f"call{turn % 1000:03}{index % 100:02}", name=name, arguments_json=written)
