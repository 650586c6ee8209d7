"""``rlserve env sample``: print some tasks, of a plug-in here or of any server."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlserve import plugins
from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.environment.client import EnvironmentClient
from rlserve.cli.runs import hub_address
from rlserve.errors import InvalidRequest, PluginFailed, RlserveError
from rlserve.nearest import known_names
from rlserve.observability.printable import LINES, printable
from rlserve.records import Message, Task

MAX_SHOWN = 1_000_000  # more is a slip of the finger
UNLIMITED = 2**40  # tokens: prompts are shown here, however long
SHOWN_PAYLOAD_BYTES = 400  # a few lines of a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="environment: a plug-in here, or with --address, --hub or --run a server's")
    parser.add_argument("--address", metavar="HOST:PORT", help="server to ask, without a hub")
    hub_address.add_arguments(parser)
    parser.add_argument("-n", type=int, default=3, help="how many tasks")
    parser.add_argument("--split", default="train")
    parser.add_argument("--first", type=int, default=0, help="index of the first task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", default=[], metavar="KEY=JSON", help="option of a plug-in here")
    parser.add_argument("--model", metavar="PATH", help="checkpoint, run or hub name: prompts as it gets them")
    parser.add_argument("--json", action="store_true", help="one JSON object a task")


def run(arguments: argparse.Namespace) -> int:
    if arguments.address or arguments.hub or arguments.run_directory:
        tasks = asyncio.run(_from_server(arguments))
    else:
        options = dict(map(option, arguments.option))
        environment = plugins.make(plugins.ENVIRONMENT_GROUP, arguments.name, options, where="--option")
        tasks = _taken(environment, arguments)
    if arguments.model:
        tasks = _rendered(arguments.model, tasks)
    for task in tasks:
        # json.dumps escapes control characters; the plain form comes from a stranger's server and needs printable().
        print(json.dumps(_plain(task)) if arguments.json else printable(_shown(task), max_length=MAX_SHOWN, keep=LINES))
    return 0


def _taken(environment: plugins.Environment, arguments: argparse.Namespace) -> list[Task]:
    """Tasks of a plug-in here. Raises InvalidRequest for an unknown split, PluginFailed when it breaks."""
    splits = dict(environment.splits)
    if arguments.split not in splits:
        raise InvalidRequest(
            f"--split: {arguments.name!r} has no split {arguments.split!r}{known_names(arguments.split, splits)}"
        )
    last = arguments.first + arguments.n
    try:
        return [environment.task(arguments.split, index, arguments.seed) for index in range(arguments.first, last)]
    # Its message is for the user already; only exceptions of the plug-in are wrapped.
    except RlserveError:
        raise
    except Exception as error:
        raise PluginFailed(f"name: {arguments.name!r} gives no task: {plugins.describe_exception(error)}") from error


def _rendered(model: str, tasks: Sequence[Task]) -> list[Task]:
    """The tasks with their prompts as text of a model. Raises TaskRefused for one that it cannot write."""
    # Here: transformers takes seconds to import.
    from rlserve.actors.start_model import model_at
    from rlserve.tokens.prompts import encode_prompt
    from rlserve.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model_at(model))
    return [replace(task, prompt=encode_prompt(tokenizer, task, max_tokens=UNLIMITED).text) for task in tasks]


def option(text: str) -> tuple[str, Any]:
    """``KEY=JSON`` as a pair; what is no JSON is text, a bare key is true."""
    key, equals, value = text.partition("=")
    try:
        return key, json.loads(value) if equals else True
    except ValueError:
        return key, value


async def _from_server(arguments: argparse.Namespace) -> list[Task]:
    address = arguments.address or await _address(arguments)
    async with EnvironmentClient(address) as server:
        return await server.get_tasks(
            arguments.name, split=arguments.split, first_index=arguments.first, count=arguments.n, seed=arguments.seed
        )


async def _address(arguments: argparse.Namespace) -> str:
    async with HubClient(hub_address.hub_address(arguments.hub, arguments.run_directory)) as client:
        specs = {spec.name: spec for spec in await client.list_environments()}
    if arguments.name not in specs:
        known = ", ".join(sorted(specs)) or "none"
        raise InvalidRequest(f"name: {arguments.name!r} is not registered (known: {known})")
    return specs[arguments.name].address


def _plain(task: Task) -> dict[str, Any]:
    prompt: Any = task.prompt
    if not isinstance(prompt, str):
        prompt = [_message(part) if isinstance(part, Message) else part for part in prompt]
    return {
        "task_id": task.task_id,
        "prompt": prompt,
        "verifier": task.verifier,
        # A payload is bytes of the environment's own, and need not be UTF-8.
        "payload": task.payload.decode("utf-8", "backslashreplace"),
        "tools": [tool.name for tool in task.tools],
        "labels": dict(task.labels),
        "given": [{"text": g.text, "chosen": g.chosen, "weight": g.supervised_weight} for g in task.given],
    }


def _message(message: Message) -> dict[str, Any]:
    calls = [json.loads(call) for call in message.tool_calls]
    return {"role": message.role, "content": message.content, **({"tool_calls": calls} if calls else {})}


def _line(message: dict[str, Any]) -> str:
    calls = "".join(f" {json.dumps(call, ensure_ascii=False)}" for call in message.get("tool_calls", ()))
    return f"[{message['role']}] {message['content']}{calls}"


def _shown(task: Task) -> str:
    plain = _plain(task)
    prompt = plain["prompt"]
    if not isinstance(prompt, str):
        prompt = "\n".join(_line(part) if isinstance(part, dict) else str(part) for part in prompt)
    payload = plain["payload"][:SHOWN_PAYLOAD_BYTES]
    tools = f"  tools: {', '.join(plain['tools'])}" if plain["tools"] else ""
    labels = "".join(f"  {name}={value}" for name, value in plain["labels"].items())
    marks = {True: "chosen", False: "rejected", None: "example"}
    given = "".join(f"\n    {marks[g['chosen']]}: {g['text']}" for g in plain["given"])
    by_itself = "\n    judged by its environment" if task.multi_turn else ""
    judged = f"\n    {task.verifier}: {payload}" if task.verifier else by_itself
    return f"--- {task.task_id}{labels}{tools}\n{prompt}{given}{judged}"
