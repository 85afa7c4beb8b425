"""TLS keys, certificates and gRPC channels: mutual TLS 1.3, certificates that rotate without dropping a connection.

Python gRPC cannot set a minimum TLS version. Every certificate here is ECDSA; naming only an RSA suite for TLS 1.2 leaves that
version without a suite in common, while the suites of TLS 1.3 are not affected: 1.2 is refused (tested with OpenSSL).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"  # read once, when gRPC makes its first credentials

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
ROTATION_PAUSE_SECONDS = 0.05  # far more than a handshake needs between asking for the certificate and using it

OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
SERVER_OPTIONS: Sequence[tuple[str, int]] = (
    *OPTIONS,
    ("grpc.server_handshake_timeout_ms", 10_000),  # idle sockets do not hold a place
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second listener
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A private key and the certificate for it, as gRPC wants them."""

    key_pem: bytes  # PKCS #8, unencrypted: lives in memory only
    certificate_pem: bytes


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(certificate_der: bytes) -> bytes:
    """Return a DER certificate as PEM."""
    return x509.load_der_x509_certificate(certificate_der).public_bytes(serialization.Encoding.PEM)


class RotatingServerCredentials:
    """Server credentials whose certificate can be replaced while connections live on.

    gRPC asks for the certificate at the beginning of each handshake, under a lock, and then uses what it has outside of that
    lock: a handshake that has just asked would use memory that a replacement frees (it crashes the process). So nothing is
    handed over unless it has changed, and then only after a pause, in which those that have asked go on and all others wait.
    """

    def __init__(self, identity: TlsIdentity, *, client_roots_pem: bytes | None) -> None:
        """Begin with `identity`; `client_roots_pem` are those who may sign clients, None where clients have none."""
        self._identity = self._given = identity
        self._client_roots_pem = client_roots_pem

    def rotate(self, identity: TlsIdentity) -> None:
        """Answer new handshakes with `identity`."""
        self._identity = identity

    def credentials(self) -> grpc.ServerCredentials:
        """Return what `add_secure_port` takes; once, for one port."""
        self._given = self._identity
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(self._given),
            self._changed,  # type: ignore[arg-type]  # None says that nothing has changed; the stubs do not know it
            require_client_authentication=self._client_roots_pem is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        # It must never raise: gRPC would silently go on with the old certificate.
        identity = self._identity
        if identity is self._given:
            return None
        time.sleep(ROTATION_PAUSE_SECONDS)
        self._given = identity
        return self._configuration(identity)

    def _configuration(self, identity: TlsIdentity) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(identity.key_pem, identity.certificate_pem)], self._client_roots_pem
        )


def open_channel(
    address: str, *, trusted_pem: bytes, name: str, identity: TlsIdentity | None = None
) -> grpc.aio.Channel:
    """Open a channel to `address`.

    Args:
        address: `host:port`.
        trusted_pem: The only certificate that is believed: an authority, or the very leaf that was appraised.
        name: The DNS name that the certificate must carry, whatever the address is.
        identity: What to present, where the other side asks for it.
    """
    credentials = grpc.ssl_channel_credentials(
        trusted_pem, identity.key_pem if identity else None, identity.certificate_pem if identity else None
    )
    return grpc.aio.secure_channel(address, credentials, options=[*OPTIONS, ("grpc.ssl_target_name_override", name)])


def service_dns_name(trust_domain: str) -> str:
    """The DNS name in the certificates of the attestation service."""
    return f"attestation.{trust_domain}"


def server_dns_name(node: str, trust_domain: str) -> str:
    """The DNS name in the certificate of a node in the server role; no other role is given one."""
    return f"{node}.server.{trust_domain}"
