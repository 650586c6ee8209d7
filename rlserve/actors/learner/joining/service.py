"""JoinService: lists what a role gets, and sends the bytes of what it has listed.

A caller names a file by its digest: no path of a caller ever meets this machine's file system.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

from rlserve.actors.learner.joining.parcel import ROLES, Parcel, ParcelFile, parcel_for
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError, InvalidRequest, NotReady
from rlserve.records import ActorKind
from rlserve.rpc.codec.check import optional_text, text
from rlserve.rpc.version import version
from rlserve.v1 import join_service_pb2 as pb
from rlserve.v1 import join_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["JoinService"].full_name
CHUNK_BYTES = 2**20
"""Of one message: far below gRPC's limit, far above what a frame costs."""


class JoinService(pb_grpc.JoinServiceServicer):
    """What hosts that join get from this run."""

    def __init__(self, config: RunConfig, paths: RunPaths, start_model: str) -> None:
        self._config = config
        self._paths = paths
        self._start_model = start_model
        self._offered: dict[str, ParcelFile] = {}

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        # Before all else: fields of another version may mean something else.
        if request.version != version():
            raise InvalidRequest(
                f"version: this host has rlserve {request.version or '(unknown)'}, the run {version()}; install the "
                "run's version there",
                reason="version",
            )
        parcel = await asyncio.to_thread(self._parcel, _role(request.role), request.teacher)
        self._offered.update({file.sha256: file for file in parcel.files})
        files = [pb.JoinFile(path=f.path, num_bytes=f.num_bytes, sha256=f.sha256) for f in parcel.files]
        return pb.JoinResponse(config=parcel.config, files=files)

    def _parcel(self, role: ActorKind, teacher: str) -> Parcel:
        named = optional_text(teacher, "", "teacher")
        try:
            return parcel_for(role, named, self._config, self._paths, self._start_model)
        except OSError as error:
            raise ConfigError(f"files: {error.filename!r} cannot be read ({error.strerror}) at the learner") from None

    async def ReadFile(self, request: pb.ReadFileRequest, context: Context) -> AsyncIterator[pb.ReadFileResponse]:
        file = self._offered.get(text(request.sha256, "", "sha256"))
        if file is None:
            raise NotReady("sha256: this learner has listed no such file; call Join again")
        if request.offset > file.num_bytes:
            raise InvalidRequest(f"offset: is {request.offset}, and the file has {file.num_bytes} bytes")
        for start in range(request.offset, file.num_bytes, CHUNK_BYTES):
            yield pb.ReadFileResponse(data=await asyncio.to_thread(_read, file.content, start))


def _role(name: str) -> ActorKind:
    if name not in tuple(ROLES):
        raise InvalidRequest(f"role: is {name[:40]!r}; a host joins as {', '.join(ROLES)}")
    return ActorKind(name)


def _read(content: bytes | Path, start: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + CHUNK_BYTES]
    with content.open("rb") as file:
        file.seek(start)
        return file.read(CHUNK_BYTES)
