"""Limits and timings of servers and channels, as gRPC wants them."""

from dataclasses import dataclass

from rlserve.rpc.descriptors import descriptor_limit

MESSAGE_BYTES = 16 * 2**20
TEACHER_MESSAGE_BYTES = 64 * 2**20
"""Between teachers and those who ask them: the top k of a long sequence, or a whole vocabulary, in one message."""
_KEEPALIVE_MILLISECONDS = 30_000
_KEEPALIVE_TIMEOUT_MILLISECONDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What one server bears."""

    max_message_bytes: int = MESSAGE_BYTES
    """Largest message in or out; a larger one gets RESOURCE_EXHAUSTED."""
    max_request_bytes: int | None = None
    """Largest message in, where that is less."""
    max_connections: int = 4096
    """Connections at once; more are closed at once. Never more than half of the descriptors that there are."""
    idle_seconds: float = 300.0
    """A connection without a call is closed after this; its client opens another when it needs one."""
    handshake_seconds: float = 10.0
    """Time that a new connection gets to say what it speaks."""
    max_concurrent_rpcs: int = 2048
    """Calls in progress, streams included; one more gets RESOURCE_EXHAUSTED."""
    max_streams_per_connection: int = 1024
    """Calls in progress of one connection, so that one client cannot take all. Well above what an actor of ours
    sends: at the limit gRPC refuses some calls (UNAVAILABLE, REFUSED_STREAM) instead of holding them back."""
    stop_grace_seconds: float = 2.0
    """Time that running calls get to end on a stop."""
    insecure: bool = False
    """Listen beyond this machine without TLS (also by RLSERVE_INSECURE=1)."""
    advertised_host: str = ""
    """Host that others dial; empty: as bound, or this host's name when bound to all interfaces."""

    def arguments(self) -> list[tuple[str, int]]:
        """As channel arguments."""
        return [
            ("grpc.max_receive_message_length", self.max_request_bytes or self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_allowed_incoming_connections", min(self.max_connections, descriptor_limit() // 2)),
            ("grpc.max_connection_idle_ms", int(self.idle_seconds * 1000)),
            ("grpc.server_handshake_timeout_ms", int(self.handshake_seconds * 1000)),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_concurrent_streams", self.max_streams_per_connection),
            # A second server on a port must fail, not share it.
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MILLISECONDS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            # Pings of a quiet stream count as strikes although they come at the agreed pace, and a strike too many
            # ends the whole connection ("too_many_pings"): seen after minutes of an idle watch.
            ("grpc.http2.max_ping_strikes", 0),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """How one client behaves."""

    max_message_bytes: int = MESSAGE_BYTES
    max_reconnect_seconds: float = 1.0
    """Longest pause between attempts to connect; a restarted actor is found within it."""

    def arguments(self) -> list[tuple[str, int]]:
        """As channel arguments."""
        reconnect = int(self.max_reconnect_seconds * 1000)
        return [
            *_message_limits(self.max_message_bytes),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MILLISECONDS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", min(100, reconnect)),
            ("grpc.min_reconnect_backoff_ms", reconnect),
            ("grpc.max_reconnect_backoff_ms", reconnect),
            # Actors talk to each other directly; a web proxy set for this host is not meant for them.
            ("grpc.enable_http_proxy", 0),
        ]


def _message_limits(max_bytes: int) -> list[tuple[str, int]]:
    return [("grpc.max_receive_message_length", max_bytes), ("grpc.max_send_message_length", max_bytes)]
