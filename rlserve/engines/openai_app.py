"""vLLM's own OpenAI-compatible server around an engine of this process.

``serve``  waits for: a signal, or the engine's death.
"""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from rlserve.engines.vllm.engine import VllmEngine
from rlserve.errors import EngineDied

ARGUMENTS: dict[str, Any] = {"skip_tokenizer_init": False, "enable_prefix_caching": False}
"""Of an engine behind this server. It reads texts itself; and its requests carry no salt, so that after a swap a cached
prefix would come from other weights."""
STOP_SECONDS = 5.0
"""For requests in progress when the server is asked to stop."""


async def serve(
    engine: VllmEngine,
    listening: socket.socket,
    *,
    model: str,
    name: str,
    tool_parser: str = "",
    template_arguments: Mapping[str, Any] | None = None,
) -> None:
    """Serve ``/v1`` on a bound socket until SIGINT or SIGTERM. Raises EngineDied.

    ``name`` is what clients ask for as the model; ``tool_parser`` one of vLLM's, empty for none. A request may replace
    ``template_arguments`` of the chat template by its own.
    """
    import uvicorn

    options = ["--model", model, "--served-model-name", name]
    if tool_parser:
        options += ["--enable-auto-tool-choice", "--tool-call-parser", tool_parser]
    if template_arguments:
        options += ["--default-chat-template-kwargs", json.dumps(dict(template_arguments))]
    app = await _app(engine.llm, options)
    server = _server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=int(STOP_SECONDS)))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    dying = asyncio.create_task(engine.died.wait())
    try:
        await asyncio.wait({serving, dying}, return_when=asyncio.FIRST_COMPLETED)
        if engine.died.is_set():
            raise EngineDied(f"engine: it is lost ({engine.death}); start the server again")
        await serving
    finally:
        server.should_exit = True
        dying.cancel()
        await asyncio.gather(serving, dying, return_exceptions=True)


async def _app(llm: Any, options: list[str]) -> Any:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser  # untyped
    arguments = make_arg_parser(parser()).parse_args(options)
    tasks = await llm.get_supported_tasks()
    app = build_app(arguments, tasks, llm.model_config)
    await init_app_state(llm, app.state, arguments, tasks)
    return app


def _server(config: Any) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn's own would raise the signal once more at its end, and kill this process before the engine ends.
            yield

    return Server(config)
