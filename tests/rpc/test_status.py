"""The status table covers every error raised on purpose, and both ends read it the same way."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from rlserve import errors
from rlserve.errors import InvalidRequest, RlserveError
from rlserve.rpc.status import STATUS, error_from_rpc, status_of


class RemoteError(grpc.RpcError):
    """A failed call as a client sees it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: object = ()) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> object:
        return self._trailing


def over_the_wire(error: RlserveError) -> RlserveError:
    status = status_of(error)
    return error_from_rpc(RemoteError(status.code, status.details, status.trailing_metadata))


def all_errors() -> list[type[RlserveError]]:
    found = [RlserveError]
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", all_errors())
def test_every_error_has_a_status_and_comes_back_as_itself(cls: type[RlserveError]) -> None:
    assert cls in STATUS
    back = over_the_wire(cls("steps: is -1; give at least 0"))
    assert type(back) is cls
    assert str(back) == "steps: is -1; give at least 0"


def test_the_table_has_nothing_but_errors_of_the_tree() -> None:
    assert set(STATUS) == set(all_errors())


def test_an_invalid_request_keeps_its_field_and_its_reason() -> None:
    error = InvalidRequest("logprob is nan", field="trajectories[2].behavior_logprobs[7]", reason="nan_logprob")
    back = over_the_wire(error)
    assert isinstance(back, InvalidRequest)
    assert (back.field, back.reason) == ("trajectories[2].behavior_logprobs[7]", "nan_logprob")


def test_the_details_are_the_standard_ones_for_callers_in_other_languages() -> None:
    status = status_of(InvalidRequest("n: is 0; give at least 1", reason="too_few"))
    rich = status_pb2.Status.FromString(dict(status.trailing_metadata)["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert rich.details[0].Unpack(info)
    assert rich.details[1].Unpack(bad)
    assert (info.domain, info.reason) == ("rlserve", "TOO_FEW")
    assert bad.field_violations[0].field == "n"


def test_a_status_without_details_becomes_the_nearest_error() -> None:
    back = error_from_rpc(RemoteError(grpc.StatusCode.UNAVAILABLE, "connection refused"), what="hub")
    assert type(back) is errors.Unavailable
    assert str(back) == "hub: connection refused (UNAVAILABLE)"


def test_garbled_details_do_not_hide_the_status() -> None:
    trailing = (("grpc-status-details-bin", b"\xff\xff\xff"),)
    back = error_from_rpc(RemoteError(grpc.StatusCode.NOT_FOUND, "no such lease", trailing))
    assert type(back) is errors.UnknownName


def test_a_message_that_no_proto_string_takes_still_arrives_and_is_bounded() -> None:
    back = over_the_wire(InvalidRequest("text: '\ud800' is a lone surrogate" + "x" * 100_000, field="\udfff"))
    assert "\\ud800" in str(back)
    assert len(str(back)) <= 1000


def test_a_subclass_outside_the_table_travels_as_its_nearest_ancestor() -> None:
    class EndpointGone(errors.EngineDied):
        """Private to some module."""

    assert type(over_the_wire(EndpointGone("rollout-0: is gone"))) is errors.EngineDied
