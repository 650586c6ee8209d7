"""Mutual TLS, in which both ends show a certificate of the same authority, and the rule for addresses without it."""

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from rlserve.errors import ConfigError

CERTIFICATE, KEY, AUTHORITY = "RLSERVE_TLS_CERTIFICATE", "RLSERVE_TLS_KEY", "RLSERVE_TLS_CA"
INSECURE = "RLSERVE_INSECURE"
_ALL = f"{CERTIFICATE}, {KEY} and {AUTHORITY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of one actor. The certificate must name the host that clients dial."""

    certificate: Path
    key: Path
    ca: Path
    """Certificate of the authority that signed those of all actors of the run."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "TlsFiles | None":
        """The files named by RLSERVE_TLS_CERTIFICATE, _KEY and _CA; None when none is set.

        Raises ConfigError when only some are.
        """
        values = {name: environ.get(name, "") for name in (CERTIFICATE, KEY, AUTHORITY)}
        if not any(values.values()):
            return None
        for name, value in values.items():
            if not value:
                raise ConfigError(f"{name}: is not set, but another of {', '.join(values)} is; set all three")
        return cls(certificate=Path(values[CERTIFICATE]), key=Path(values[KEY]), ca=Path(values[AUTHORITY]))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a server that requires a client certificate. Raises ConfigError, see :meth:`check`."""
        self.check()
        return grpc.ssl_server_credentials(
            [(_read(self.key), _read(self.certificate))],
            root_certificates=_read(self.ca),
            require_client_auth=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client. Raises ConfigError, see :meth:`check`."""
        self.check()
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))

    def check(self) -> None:
        """Check that all three files can be read and the key fits the certificate. Raises ConfigError naming the file.

        gRPC itself would only report that it cannot bind the port.
        """
        for path in (self.certificate, self.key, self.ca):
            _read(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError as error:
            raise ConfigError(f"{AUTHORITY}: {str(self.ca)!r} holds no certificate ({_reason(error)})") from None
        try:
            context.load_cert_chain(self.certificate, self.key, password=self._refuse_password)
        except ssl.SSLError as error:
            raise ConfigError(
                f"{KEY}: {str(self.key)!r} does not go with the TLS certificate {str(self.certificate)!r} "
                f"({_reason(error)}); give a certificate in PEM and the key that it was made with"
            ) from None

    def _refuse_password(self) -> str:
        # Called by the ssl module for an encrypted key; without it OpenSSL would ask on the terminal and wait.
        raise ConfigError(f"{KEY}: {str(self.key)!r} is encrypted; give a key without a password")


def tls_hint(details: str) -> str:
    """A hint how TLS may have caused a failure to connect; empty when it did not."""
    # The texts are OpenSSL's and gRPC's: no status code distinguishes these cases.
    if "WRONG_VERSION_NUMBER" in details:
        return f"; this side uses TLS and the peer does not: set {_ALL} there too, or on neither side"
    if "Hostname Verification Check failed" in details or "not in the certificate" in details:
        return "; the peer's TLS certificate does not name the dialled address: see its subjectAltName"
    if "CERTIFICATE_VERIFY_FAILED" in details or "Tls handshake failed" in details:
        return f"; TLS: the peer's certificate is not signed by the authority in {AUTHORITY} here"
    if "failed to connect" in details and ("Socket closed" in details or "reset by peer" in details):
        return (
            "; the peer accepted the connection and closed it, as a TLS server does when the client uses no TLS or a "
            f"certificate of another authority: set {_ALL} on both sides"
        )
    return ""


def insecure_allowed(environ: Mapping[str, str] = os.environ) -> bool:
    """True when RLSERVE_INSECURE=1 declares the network itself trusted."""
    return environ.get(INSECURE, "") == "1"


def check_bind(address: str, *, tls: TlsFiles | None, insecure: bool) -> None:
    """Raise ConfigError when ``address`` could be reached from other hosts without TLS."""
    if tls is None and not insecure and not is_loopback(address):
        raise ConfigError(
            f"address: other hosts can reach {address!r} and there is no TLS; set {CERTIFICATE}, "
            f"{KEY} and {AUTHORITY}, or {INSECURE}=1 on a network you trust"
        )


def is_loopback(address: str) -> bool:
    """True for addresses that only this machine can reach."""
    if address.startswith("unix:"):
        return True
    host = host_of(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host in ``host:port`` or ``[v6]:port``. Raises ConfigError when the port is missing."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError(f"address: {address!r} is not HOST:PORT, e.g. 127.0.0.1:0")
    return host.removeprefix("[").removesuffix("]")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"tls: {str(path)!r} cannot be read ({error.strerror}); give a PEM file") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
