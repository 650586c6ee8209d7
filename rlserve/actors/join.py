"""Takes from a run, over the network, what an actor on this host needs: its configuration and files.

What comes is checked at the border: versions, sizes, the form of each path, the digest of each file. It goes into a
directory of its own below the cache, named by its content, so that a host that joins again fetches nothing.
"""

import asyncio
import hashlib
import logging
import os
import re
import shutil
import time
import tomllib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.config.load import to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    LimitExceeded,
    NotReady,
    Unavailable,
)
from rlserve.records import ActorKind
from rlserve.rpc.channel import call, open_channel, rpc_errors
from rlserve.rpc.codec.bounds import check_bounds
from rlserve.rpc.version import version
from rlserve.v1 import join_service_pb2 as pb
from rlserve.v1 import join_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

SUFFIXES = {
    "model": (".json", ".jinja", ".model", ".safetensors", ".tiktoken", ".txt"),
    "code": (".py",),
}
"""By folder, what may come: data that no loader executes, and code into the one folder that verifiers read it from."""
MAX_FILE_BYTES = 256 * 2**20
"""Of a file other than weights: the largest tokenizer.json in use has 33 MB."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
RETRY_SECONDS = 0.5
"""Pause after a connection that failed; short against the start of an actor."""
QUIET_SECONDS = 30.0
"""A learner that sends no part of a file for this long is asked again; as with weights."""
SAY_SECONDS = 60.0
"""Between two lines about a learner that is not there yet."""
REACH_SECONDS = 10.0
"""Time in which the hub must answer: a wrong address or token should show at once."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What this host got."""

    config: RunConfig
    paths: RunPaths
    """Its directory: ``config.toml``, and the files below."""


async def join(hub: str, role: ActorKind, teacher: str, cache: Path, *, wait_seconds: float) -> Membership:
    """Fetch what ``role`` needs from the run of ``hub``; waits for a learner that is still starting.

    Raises InvalidRequest when the run refuses this host, or sends what must not be written; Unavailable when the hub
    does not answer; DeadlineExceeded after ``wait_seconds`` without a learner.
    """
    progress = Progress()
    async with HubClient(hub) as client:
        await _reach(client)
        while True:
            left = progress.moved_at + wait_seconds - time.monotonic()
            try:
                limit = max(min(left, SAY_SECONDS), RETRY_SECONDS)
                learner = await client.wait_for(ActorKind.LEARNER, deadline_seconds=limit)
                return await _take(learner.address, role, teacher, cache, progress)
            # A learner joins once it has its start model, whose pretraining may take hours.
            except DeadlineExceeded as error:
                if left < 0:
                    raise
                logger.info("join: %s; waiting for up to %.0f s more", error, left)
            # The learner restarts, or the link is cut. What has come so far is kept.
            except (Unavailable, NotReady) as error:
                if left < 0:
                    raise
                logger.warning("join: %s; trying again", error)
                await asyncio.sleep(RETRY_SECONDS)


@dataclass(slots=True)
class Progress:
    """When bytes came last: on a bad link a large model may take longer than any fixed limit."""

    moved_at: float = field(default_factory=time.monotonic)


async def _reach(client: HubClient) -> None:
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        try:
            await client.list_actors(ActorKind.LEARNER)
            return
        except (Unavailable, DeadlineExceeded) as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"hub: nothing answers at {client.address} ({error}); is that its HOST:PORT?"
                ) from None
            await asyncio.sleep(RETRY_SECONDS)


async def _take(address: str, role: ActorKind, teacher: str, cache: Path, progress: Progress) -> Membership:
    async with open_channel(address) as channel:
        stub: Any = pb_grpc.JoinServiceStub(channel)
        request = pb.JoinRequest(role=role, teacher=teacher, version=version())
        # Digesting a teacher's weights takes the learner a second per gigabyte.
        answer = await call(stub.Join, request, deadline_seconds=10 * QUIET_SECONDS, what="learner")
        check_files(answer.files, role)
        config = _configuration(answer.config)
        place = cache / f"{config.name}-{_digest_of(answer)}"
        _make_room(place, answer.files)
        for file in answer.files:
            await _fetch(stub, file, place, progress)
    config = _at_home(config, place)
    paths = RunPaths(place)
    paths.config.write_text(to_toml(config), encoding="utf-8")
    return Membership(config, paths)


def check_files(files: Sequence[pb.JoinFile], role: ActorKind) -> None:
    """Raise InvalidRequest for a file that must not be written here: its path, kind, size or digest is wrong."""
    seen = set()
    for file in files:
        path = PurePosixPath(file.path)
        folder = file.path.partition("/")[0]
        allowed = SUFFIXES.get(folder, ()) if folder != "code" or role is ActorKind.VERIFIER else ()
        if len(path.parts) != 2 or str(path) != file.path or not all(_PART.fullmatch(part) for part in path.parts):
            raise InvalidRequest(f"files: the path {file.path[:80]!r} is refused; only FOLDER/NAME is written here")
        if path.suffix not in allowed:
            raise InvalidRequest(f"files: {file.path[:80]!r} is refused; a {role} takes no such file")
        if file.num_bytes > MAX_FILE_BYTES and path.suffix != ".safetensors":
            raise InvalidRequest(f"files: {file.path!r} has {file.num_bytes} bytes; at most {MAX_FILE_BYTES}")
        if not re.fullmatch(r"[0-9a-f]{64}", file.sha256) or file.path.lower() in seen:
            raise InvalidRequest(f"files: {file.path!r} is listed twice, or its digest is malformed")
        seen.add(file.path.lower())  # two names that one file system takes for the same


def _configuration(text: str) -> RunConfig:
    try:
        return validate(RunConfig, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config: what the learner sent is not TOML: {error}") from None


def _at_home(config: RunConfig, place: Path) -> RunConfig:
    """The configuration with each path below ``place``."""
    values = config.model_dump(mode="json", exclude_none=True)
    values["directory"] = str(place.parent)
    for table, key in ((values["model"], "path"), *((teacher, "model") for teacher in values["teachers"])):
        if table[key] == "model":  # a hub name stays
            table[key] = str(place / "model")

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        return str(place / value) if isinstance(value, str) and value.startswith("code/") else value

    values["verifier"]["options"] = moved(values["verifier"]["options"])
    return validate(RunConfig, values)


def _digest_of(answer: pb.JoinResponse) -> str:
    listed = "".join(f"{file.path} {file.sha256}\n" for file in answer.files)
    return hashlib.sha256((answer.config + listed).encode()).hexdigest()[:16]


def _make_room(place: Path, files: Sequence[pb.JoinFile]) -> None:
    try:
        # The user's own: with reward functions in it, who can write it can run code as this user.
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = place.stat().st_uid
    except OSError as error:
        raise ConfigError(f"--cache: {str(place)!r} cannot be made ({error.strerror}); give another") from None
    if owner != os.geteuid():
        raise ConfigError(f"--cache: {str(place)!r} belongs to another user; give a directory of your own")
    missing = sum(file.num_bytes for file in files if not (place / file.path).exists())
    if missing > (free := shutil.disk_usage(place).free):
        raise LimitExceeded(f"--cache: {missing} bytes are to come, and {str(place)!r} has {free} left; give another")


async def _fetch(stub: Any, file: pb.JoinFile, place: Path, progress: Progress) -> None:
    """Write one file, from where an earlier attempt broke off. Raises InvalidRequest when its content is wrong."""
    target = place / file.path
    if target.is_file() and await asyncio.to_thread(_is_whole, target, file):
        return
    target.parent.mkdir(mode=0o700, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    was_begun = part.exists()
    await _append(stub, file, part, progress)
    if was_begun and not await asyncio.to_thread(_is_whole, part, file):
        part.unlink()  # its beginning may be of a process that was killed while it wrote
        await _append(stub, file, part, progress)
    if not await asyncio.to_thread(_is_whole, part, file):
        part.unlink()
        raise InvalidRequest(f"files: {file.path!r} is not what the learner listed; was it changed during the run?")
    part.replace(target)


async def _append(stub: Any, file: pb.JoinFile, part: Path, progress: Progress) -> None:
    # Writing holds up nothing: this process does nothing but fetch.
    with part.open("ab") as written, rpc_errors(f"learner ({file.path})"):
        held = written.tell()
        async with aclosing(_data(stub, file, held)) as parts:
            async for data in parts:
                held += len(data)
                if held > file.num_bytes:  # the digest will be wrong; the disk is not to be filled meanwhile
                    return
                written.write(data)
                progress.moved_at = time.monotonic()


async def _data(stub: Any, file: pb.JoinFile, offset: int) -> AsyncGenerator[bytes, None]:
    stream = stub.ReadFile(pb.ReadFileRequest(sha256=file.sha256, offset=min(offset, file.num_bytes)))
    messages = aiter(stream)
    try:
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    message = await anext(messages)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Unavailable(f"learner: sent no part of {file.path} for {QUIET_SECONDS:g} s") from None
            check_bounds(message)
            yield message.data
    finally:
        with suppress(Exception):  # the stream is given up: an error of its end changes nothing
            stream.cancel()


def _is_whole(path: Path, file: pb.JoinFile) -> bool:
    if path.stat().st_size != file.num_bytes:
        return False
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
