"""Task, Sampling and Lease on the wire."""

import json

from rlserve.records import GivenCompletion, Lease, Message, Purpose, Sampling, Task, Tool
from rlserve.rpc.codec.check import EnumCodec, count, fault, finite, integer, join, text, token_ids, wire_text
from rlserve.v1 import rollout_stream_service_pb2 as stream_pb
from rlserve.v1 import task_pb2 as pb
from rlserve.v1 import trajectory_pb2 as trajectory_pb

ROLES = ("system", "user", "assistant", "tool")  # those of chat templates
# As in bounds.BOUNDS. Checked here too, because leases and groups in a store are decoded without a server before it.
MAX_SCHEMA_CHARACTERS = 65536
MAX_GIVEN = 64  # as above
MAX_STOPS = 64  # as above

_NOTHING_SET = Sampling()
PURPOSE = EnumCodec(trajectory_pb.Purpose, "PURPOSE", Purpose)


def task_to_proto(task: Task) -> pb.Task:
    """Encode a task."""
    message = pb.Task(
        environment=task.environment,
        environment_version=task.environment_version,
        split=task.split,
        index=task.index,
        task_id=task.task_id,
        verifier=task.verifier,
        payload=task.payload,
        seed=task.seed,
        sampling=sampling_to_proto(task.sampling),
        multi_turn=task.multi_turn,
        tools=[tool_to_proto(tool) for tool in task.tools],
        labels=task.labels,
        given=[_given_to_proto(given) for given in task.given],
    )
    _set_prompt(message, task.prompt)
    return message


def task_from_proto(message: pb.Task, at: str = "", *, vocab_size: int | None = None) -> Task:
    """Decode a task, checking every field. Raises InvalidRequest."""
    if not (message.verifier or message.multi_turn or message.given):
        fault(
            at,
            "verifier",
            "is empty; name a verifier (only tasks with episodes or given completions may lack one)",
        )
    count(message.given, at, "given", high=MAX_GIVEN)
    return Task(
        environment=text(message.environment, at, "environment"),
        environment_version=message.environment_version,
        split=text(message.split, at, "split"),
        index=integer(message.index, at, "index"),
        task_id=text(message.task_id, at, "task_id"),
        prompt=_prompt(message, at, vocab_size),
        verifier=message.verifier,
        payload=message.payload,
        seed=message.seed,
        sampling=sampling_from_proto(message.sampling, join(at, "sampling"), vocab_size=vocab_size),
        multi_turn=message.multi_turn,
        tools=tuple([tool_from_proto(tool, join(at, f"tools[{i}]")) for i, tool in enumerate(message.tools)]),
        labels=dict(message.labels) if message.labels else {},
        given=tuple([_given(given, join(at, f"given[{i}]")) for i, given in enumerate(message.given)]),
    )


def sampling_to_proto(sampling: Sampling) -> pb.Sampling:
    """Encode sampling parameters; None stays unset."""
    return pb.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
    )


def sampling_from_proto(message: pb.Sampling, at: str = "", *, vocab_size: int | None = None) -> Sampling:
    """Decode sampling parameters, checking every field; unset becomes None. Raises InvalidRequest."""
    # Most tasks leave every value to the run, and a learner decodes thousands of tasks a second.
    if not message.ByteSize():
        return _NOTHING_SET
    # 0 is refused, not taken for "off": an unset field already is, and a sampler with top_p 0 has nothing to choose
    # from.
    if message.HasField("top_p") and not 0 < message.top_p <= 1:
        fault(at, "top_p", f"is {message.top_p}; give a number in (0, 1]")
    count(message.stop, at, "stop", high=MAX_STOPS)
    return Sampling(
        temperature=temperature_from_proto(message, at),
        top_p=message.top_p if message.HasField("top_p") else None,
        max_new_tokens=max_new_tokens_from_proto(message, at),
        stop=tuple([text(stop, at, f"stop[{i}]") for i, stop in enumerate(message.stop)]),
        stop_token_ids=_stop_ids(message, at, vocab_size),
    )


def _stop_ids(message: pb.Sampling, at: str, vocab_size: int | None) -> tuple[int, ...]:
    ids = message.stop_token_ids
    return tuple(token_ids(ids, at, "stop_token_ids", vocab_size=vocab_size).tolist()) if ids else ()


def lease_to_proto(lease: Lease) -> stream_pb.Lease:
    """Encode a lease."""
    return stream_pb.Lease(
        group_id=lease.group_id,
        environment=lease.environment,
        split=lease.split,
        index=lease.index,
        seed=lease.seed,
        num_samples=lease.num_samples,
        purpose=PURPOSE.encode(lease.purpose),
        limit_seconds=lease.limit_seconds,
        temperature=lease.temperature,
        max_new_tokens=lease.max_new_tokens,
        usual_sampling=sampling_to_proto(lease.usual_sampling),
        nonce=lease.nonce,
    )


def lease_from_proto(message: stream_pb.Lease, at: str = "") -> Lease:
    """Decode a lease, checking every field. Raises InvalidRequest."""
    return Lease(
        group_id=text(message.group_id, at, "group_id"),
        environment=text(message.environment, at, "environment"),
        split=text(message.split, at, "split"),
        index=integer(message.index, at, "index"),
        seed=message.seed,
        num_samples=integer(message.num_samples, at, "num_samples", low=1),
        purpose=PURPOSE.decode(message.purpose, at, "purpose"),
        limit_seconds=finite(message.limit_seconds, at, "limit_seconds", low=0),
        temperature=temperature_from_proto(message, at),
        max_new_tokens=max_new_tokens_from_proto(message, at),
        usual_sampling=sampling_from_proto(message.usual_sampling, join(at, "usual_sampling")),
        nonce=message.nonce,
    )


def temperature_from_proto(message: pb.Sampling | stream_pb.Lease, at: str) -> float | None:
    """Decode the optional temperature; 0 is greedy."""
    return finite(message.temperature, at, "temperature", low=0) if message.HasField("temperature") else None


def max_new_tokens_from_proto(message: pb.Sampling | stream_pb.Lease, at: str) -> int | None:
    """Decode the optional length limit."""
    if not message.HasField("max_new_tokens"):
        return None
    return integer(message.max_new_tokens, at, "max_new_tokens", low=1)


def _set_prompt(message: pb.Task, prompt: str | tuple[Message, ...] | tuple[int, ...]) -> None:
    if isinstance(prompt, str):
        message.text = wire_text(prompt)
    elif prompt and isinstance(prompt[0], Message):
        message.conversation.messages.extend(message_to_proto(m) for m in prompt if isinstance(m, Message))
    else:
        message.token_ids.ids.extend(token for token in prompt if isinstance(token, int))


def _prompt(message: pb.Task, at: str, vocab_size: int | None) -> str | tuple[Message, ...] | tuple[int, ...]:
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "conversation":
            turns = message.conversation.messages
            if not turns:
                fault(at, "conversation", "is empty; give at least one message")
            base = join(at, "conversation")
            return tuple(message_from_proto(turn, join(base, f"messages[{i}]")) for i, turn in enumerate(turns))
        case "token_ids":
            ids = token_ids(message.token_ids.ids, join(at, "token_ids"), "ids", vocab_size=vocab_size)
            if not len(ids):
                fault(at, "token_ids", "is empty; give at least one token", "wrong_length")
            return tuple(ids.tolist())
    fault(at, "prompt", "is unset; give text, conversation or token_ids")


def message_to_proto(message: Message) -> pb.Message:
    """Encode a chat message."""
    return pb.Message(
        role=message.role,
        content=wire_text(message.content),
        tool_call_id=message.tool_call_id,
        tool_calls=[wire_text(call) for call in message.tool_calls],
    )


def message_from_proto(message: pb.Message, at: str = "") -> Message:
    """Decode a chat message. Raises InvalidRequest."""
    if message.role not in ROLES:
        fault(at, "role", f"is {message.role!r}; give one of {', '.join(ROLES)}")
    return Message(
        role=message.role,
        content=message.content,
        tool_call_id=message.tool_call_id,
        tool_calls=tuple(message.tool_calls),
    )


def _given_to_proto(given: GivenCompletion) -> pb.GivenCompletion:
    return pb.GivenCompletion(
        text=wire_text(given.text), chosen=given.chosen, pair=given.pair, supervised_weight=given.supervised_weight
    )


def _given(message: pb.GivenCompletion, at: str) -> GivenCompletion:
    if not message.text:
        fault(at, "text", "is empty; give a completion")
    return GivenCompletion(
        text=message.text,
        chosen=message.chosen if message.HasField("chosen") else None,
        pair=message.pair,
        supervised_weight=finite(message.supervised_weight, at, "supervised_weight", low=0),
    )


def tool_to_proto(tool: Tool) -> pb.Tool:
    """Encode a tool."""
    return pb.Tool(name=tool.name, description=tool.description, parameters_json=tool.parameters_json)


def tool_from_proto(message: pb.Tool, at: str = "") -> Tool:
    """Decode a tool. Raises InvalidRequest."""
    return Tool(
        name=text(message.name, at, "name"),
        description=message.description,
        parameters_json=json_text(message.parameters_json or "{}", at, "parameters_json"),
    )


def json_text(value: str, at: str, field: str) -> str:
    """Check that a text is a JSON object."""
    if len(value) > MAX_SCHEMA_CHARACTERS:
        fault(at, field, f"has {len(value)} characters; at most {MAX_SCHEMA_CHARACTERS}")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:  # thousands of nested brackets exhaust the parser's stack
        fault(at, field, f"is not JSON ({error}); give a JSON schema")
    if not isinstance(parsed, dict):
        fault(at, field, f"is a JSON {type(parsed).__name__}; give an object")
    return value
