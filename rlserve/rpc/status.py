"""Errors as gRPC status, for both ends: one table, and rich details that name the field.

The details (``google.rpc``) carry an ErrorInfo with the error's class and a reason from a closed set and, for an
InvalidRequest, a BadRequest with the dotted path of the field. A client in any language can read them; our client turns
them back into the same class of :mod:`rlserve.errors`.
"""

import re
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from rlserve import errors
from rlserve.errors import RlserveError
from rlserve.observability.printable import LINES, printable
from rlserve.rpc.tls import tls_hint

STATUS: dict[type[RlserveError], StatusCode] = {
    RlserveError: StatusCode.INTERNAL,
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.ConfigError: StatusCode.INVALID_ARGUMENT,
    errors.TaskRefused: StatusCode.INVALID_ARGUMENT,
    errors.UnknownName: StatusCode.NOT_FOUND,
    errors.NotReady: StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.LimitExceeded: StatusCode.RESOURCE_EXHAUSTED,
    errors.PluginFailed: StatusCode.INTERNAL,
    errors.VerifierFailed: StatusCode.INTERNAL,
    errors.WeightsMismatch: StatusCode.ABORTED,
    errors.EngineDied: StatusCode.UNAVAILABLE,
    errors.StateCorrupt: StatusCode.DATA_LOSS,
}

# A status without our details (from gRPC itself, or from a server in another language) becomes the nearest class.
NEAREST: dict[StatusCode, type[RlserveError]] = {
    StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    StatusCode.UNAUTHENTICATED: errors.InvalidRequest,
    StatusCode.PERMISSION_DENIED: errors.InvalidRequest,
    StatusCode.NOT_FOUND: errors.UnknownName,
    StatusCode.UNIMPLEMENTED: errors.UnknownName,
    StatusCode.FAILED_PRECONDITION: errors.NotReady,
    StatusCode.UNAVAILABLE: errors.Unavailable,
    StatusCode.CANCELLED: errors.Unavailable,
    StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    StatusCode.RESOURCE_EXHAUSTED: errors.LimitExceeded,
    StatusCode.ABORTED: errors.WeightsMismatch,
    StatusCode.DATA_LOSS: errors.StateCorrupt,
}

M = TypeVar("M", bound=Message)

DOMAIN = "rlserve"
MAX_MESSAGE_CHARACTERS = 1000
"""A message travels up to three times, in plain and inside the details, and gRPC drops metadata beyond 8 KiB."""

_BY_NAME = {cls.__name__: cls for cls in STATUS}


def status_of(error: RlserveError) -> grpc.Status:
    """The gRPC status of an error, details included; the message is cut at MAX_MESSAGE_CHARACTERS."""
    # The nearest base class in the table: a plug-in may derive an error of its own.
    cls = next(cls for cls in type(error).__mro__ if cls in STATUS)
    code = STATUS[cls]
    message = _wire_text(str(error))
    rich = status_pb2.Status(code=code.value[0], message=message)
    rich.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=_reason(error), domain=DOMAIN, metadata={"error": cls.__name__})
    )
    if isinstance(error, errors.InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_wire_text(error.field), description=message, reason=_reason(error)
        )
        rich.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    status: grpc.Status = rpc_status.to_status(rich)
    return status


def error_from_rpc(error: grpc.RpcError, *, what: str = "") -> RlserveError:
    """The RlserveError for a failed call, of the class that the server raised.

    ``what`` names the call or the peer at the start of the message, e.g. ``"verifier-0"``. ``error`` comes from
    grpc.aio or from the synchronous API.
    """
    # Printable only: the text comes from the peer and ends up in logs and on terminals.
    code, details = error.code(), printable(error.details() or "", keep=LINES)
    message = f"{what}: {details}" if what else details
    rich = _rich_status(error)
    info = _first(rich, error_details_pb2.ErrorInfo)
    cls = _BY_NAME.get(info.metadata.get("error", "")) if info and info.domain == DOMAIN else None
    if cls is None:
        cls = NEAREST.get(code, RlserveError)
        message = f"{message} ({code.name}){tls_hint(details) if code is StatusCode.UNAVAILABLE else ''}"
    if not issubclass(cls, errors.InvalidRequest):
        return cls(message)
    bad = _first(rich, error_details_pb2.BadRequest)
    field = bad.field_violations[0].field if bad and bad.field_violations else ""
    return cls(message, field=field, reason=info.reason.lower() if info else code.name.lower())


def raised_by_server(error: grpc.RpcError) -> bool:
    """Whether an rlserve server raised the error; False for the call's own deadline and for a lost connection."""
    info = _first(_rich_status(error), error_details_pb2.ErrorInfo)
    return info is not None and info.domain == DOMAIN


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(error)
    except Exception:
        # The details come from the peer: invalid ones must not hide the status itself.
        return None


def _first(status: status_pb2.Status | None, cls: type[M]) -> M | None:
    for packed in status.details if status else ():
        found = cls()
        if packed.Unpack(found):
            return found
    return None


def _reason(error: RlserveError) -> str:
    if isinstance(error, errors.InvalidRequest):
        return error.reason.upper()
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).upper()


def _wire_text(text: str) -> str:
    """The text without lone surrogates (a proto string refuses them) and control characters, cut to length."""
    clean = printable(text, keep=LINES)
    return clean if len(clean) <= MAX_MESSAGE_CHARACTERS else clean[: MAX_MESSAGE_CHARACTERS - 3] + "..."
