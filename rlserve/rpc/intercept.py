"""A server interceptor: turns a handler's exception into a gRPC status and counts it, for all four kinds of call.

A request that is not a protobuf message gets INVALID_ARGUMENT; gRPC itself would answer UNKNOWN.
"""

import contextlib
import inspect
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from rlserve.errors import InvalidRequest, RlserveError
from rlserve.rpc.codec.bounds import check_bounds
from rlserve.rpc.status import status_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
ErrorCounts = Counter[tuple[str, str]]
"""Failed calls by (method, status name), e.g. ``("/rlserve.v1.HubService/Register", "NOT_FOUND")``."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Replaces a request whose bytes do not parse as a message of its type."""

    error: str


class ErrorsToStatus(grpc.aio.ServerInterceptor):
    """Ends every failed call with a status that separates the client's faults from the server's, and counts failures.

    For example, a handler that raises ``InvalidRequest("n: is 0; give 1 or more", field="n")`` ends its call with::

        INVALID_ARGUMENT "n: is 0; give 1 or more"     # and, in its details, field "n" and reason "MALFORMED"
        interceptor.errors["/rlserve.v1.RolloutService/Generate", "INVALID_ARGUMENT"]    # 1
    """

    def __init__(self) -> None:
        self.errors: ErrorCounts = Counter()

    async def intercept_service(
        self, continuation: Callable[..., Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler that ``continuation`` finds."""
        handler = await continuation(details)
        if handler is None:
            return None
        method = str(details.method)
        wrapped: dict[str, Any] = {"request_deserializer": _tolerant(handler.request_deserializer)}
        for kind in ("unary_unary", "stream_unary"):
            if (inner := getattr(handler, kind)) is not None:
                wrapped[kind] = self._one_response(inner, method)
        for kind in ("unary_stream", "stream_stream"):
            if (inner := getattr(handler, kind)) is not None:
                wrapped[kind] = self._many_responses(inner, method)
        return handler._replace(**wrapped)

    def _one_response(self, inner: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def respond(request: Any, context: Context) -> Any:
            async with self._reporting(method, context):
                return await inner(_checked(request), context)

        return respond

    def _many_responses(self, inner: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def respond(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._reporting(method, context):
                result = inner(_checked(request), context)
                if inspect.isawaitable(result):  # the handler is no generator and writes to the context itself
                    await result
                    return
                # Closed here, when the caller leaves: a generator's finally blocks would otherwise run at some later
                # garbage collection.
                async with contextlib.aclosing(result):
                    async for response in result:
                        yield response

        return respond

    @contextlib.asynccontextmanager
    async def _reporting(self, method: str, context: Context) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AbortError:
            self._count(method, context.code())
            raise
        except RlserveError as error:
            status = status_of(error)
            self._count(method, status.code)
            logger.info("%s: %s: %s", method, status.code.name, error)
            await _abort(context, status)
        except Exception as error:
            if context.cancelled():  # the caller left, and a failure after that is no defect
                raise
            logger.exception("%s: unexpected exception, answered as INTERNAL", method)
            self._count(method, grpc.StatusCode.INTERNAL)
            await _abort(context, status_of(RlserveError(f"{type(error).__name__}: {error}")))

    def _count(self, method: str, code: Any) -> None:
        # After an abort, grpc.aio returns the code as an int instead of a StatusCode.
        name = code.name if isinstance(code, grpc.StatusCode) else _NAMES.get(code, str(code))
        self.errors[method, name] += 1


_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


async def _abort(context: Context, status: grpc.Status) -> None:
    await context.abort(status.code, status.details, status.trailing_metadata)


def _tolerant(deserialize: Callable[[bytes], T] | None) -> Callable[[bytes], T | Malformed] | None:
    if deserialize is None:
        return None

    # gRPC deserializes before any handler runs, outside of every try here: the failure has to travel as a value.
    def attempt(data: bytes) -> T | Malformed:
        try:
            return deserialize(data)
        except Exception as error:
            return Malformed(str(error))

    return attempt


def _checked(request: Any) -> Any:
    """The request after its check, or an iterator that checks each message. Raises InvalidRequest."""
    if isinstance(request, Malformed):
        raise InvalidRequest(
            f"request: is not a message of the expected type ({request.error}); send protobuf bytes",
            field="request",
        )
    if isinstance(request, Message):
        check_bounds(request)
    return _checked_each(request) if hasattr(request, "__aiter__") else request


async def _checked_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)
