"""Limits and timings of servers and channels, as gRPC channel arguments."""

from dataclasses import dataclass

from rlserve.rpc.descriptors import descriptor_limit

MESSAGE_BYTES = 16 * 2**20
"""Larger contents (weights, large groups) travel in chunks. Any value of this size will do: gRPC holds a message in
memory as a whole, and its default of 4 MiB is less than a group of long trajectories."""
TEACHER_MESSAGE_BYTES = 64 * 2**20
"""Between teachers and their clients: the top k of a long sequence, or a whole vocabulary, in one message."""
METADATA_BYTES = 16 * 1024
"""Metadata of a request. Any value of this size will do: rlserve's own requests have next to none."""
# Together they find a peer that vanished without closing its connection (power loss, a pulled cable) within 40 s. Any
# values of this size will do above the interval that servers allow, which is the next one.
_KEEPALIVE_MILLISECONDS, _KEEPALIVE_TIMEOUT_MILLISECONDS = 30_000, 10_000
_MIN_PING_INTERVAL_MILLISECONDS = 10_000  # below the 30 s of our clients, so that their pings are never too early
_FIRST_RECONNECT_MILLISECONDS = 100  # so that an actor that starts a moment later is found at once


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Limits and timings of one server."""

    max_message_bytes: int = MESSAGE_BYTES
    """Largest message in or out; a larger one gets RESOURCE_EXHAUSTED."""
    max_request_bytes: int | None = None
    """Largest message in, where that is less."""
    max_connections: int = 4096
    """Connections at a time; more are closed at once. At most half of the process's descriptors are used for them."""
    idle_seconds: float = 300.0
    """Time after which a connection without a call is closed; its client opens another when it needs one."""
    handshake_seconds: float = 10.0
    """Time in which a new connection must complete its handshake."""
    max_concurrent_rpcs: int = 2048
    """Calls in progress, streams included; one more gets RESOURCE_EXHAUSTED."""
    max_streams_per_connection: int = 1024
    """Calls in progress of one connection, so that one client cannot take all. It lies well above what an actor sends:
    at the limit gRPC refuses some calls (UNAVAILABLE, REFUSED_STREAM) instead of holding them back."""
    stop_grace_seconds: float = 2.0
    """Time in which running calls may end on a stop."""
    insecure: bool = False
    """Listen beyond this machine without TLS (also by RLSERVE_INSECURE=1)."""
    advertised_host: str = ""
    """Host that others dial; empty: as bound, or this host's name when bound to all interfaces."""

    def arguments(self) -> list[tuple[str, int]]:
        """The options as gRPC channel arguments."""
        return [
            ("grpc.max_receive_message_length", self.max_request_bytes or self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_allowed_incoming_connections", min(self.max_connections, descriptor_limit() // 2)),
            ("grpc.max_connection_idle_ms", int(self.idle_seconds * 1000)),
            ("grpc.server_handshake_timeout_ms", int(self.handshake_seconds * 1000)),
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.max_concurrent_streams", self.max_streams_per_connection),
            # By default Linux lets a second server bind the same port and share its calls; it must fail instead.
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MILLISECONDS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MILLISECONDS),
            # gRPC counts pings of a quiet stream as strikes although they keep the agreed interval, and one strike too
            # many ends the whole connection ("too_many_pings"): seen after minutes of an idle watch. 0 turns it off.
            ("grpc.http2.max_ping_strikes", 0),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """Limits and timings of one client's channel."""

    max_message_bytes: int = MESSAGE_BYTES
    max_reconnect_seconds: float = 1.0
    """Longest pause between attempts to connect, and so the time in which a restarted actor is found again."""

    def arguments(self) -> list[tuple[str, int]]:
        """The options as gRPC channel arguments."""
        reconnect = int(self.max_reconnect_seconds * 1000)
        return [
            *_message_limits(self.max_message_bytes),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MILLISECONDS),
            ("grpc.keepalive_permit_without_calls", 1),
            # 0 is "no limit": by default pings stop after two without data, and a quiet stream would lose its watch.
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", min(_FIRST_RECONNECT_MILLISECONDS, reconnect)),
            # Despite its name also the time that one attempt to connect may take; the default is 20 s.
            ("grpc.min_reconnect_backoff_ms", reconnect),
            ("grpc.max_reconnect_backoff_ms", reconnect),
            # Actors connect to each other directly; http_proxy in the environment is meant for web traffic.
            ("grpc.enable_http_proxy", 0),
        ]


def _message_limits(max_bytes: int) -> list[tuple[str, int]]:
    return [("grpc.max_receive_message_length", max_bytes), ("grpc.max_send_message_length", max_bytes)]
