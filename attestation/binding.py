"""What report data holds: one CPU report binds challenge, keys, identity, audit head and every device.

    CH       = SHA-384(core)                    the core, as received
    nonce_i  = SHA-256(CH, i, n)                what device i of n must answer to
    GD       = SHA-384(n, each device's report and chain)
    report data = SHA-512(kind of TEE, CH, GD)  64 bytes

So each device report binds the same core as the CPU report does, and no device can be lent or left out unnoticed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence

from attestation.errors import BindingMismatchError
from attestation.evidence import DeviceEvidence
from policies.encoding import lp, sha256, sha384, sha512, u16


def core_hash(core: bytes) -> bytes:
    """CH: 48 bytes over the core's JSON as it travelled."""
    return sha384("core", lp(core))


def device_nonce(core_digest: bytes, index: int, count: int) -> bytes:
    """The 32-byte nonce that device `index` (from 0) of `count` must answer to."""
    return sha256("device-nonce", core_digest, u16(index), u16(count))


def device_digest(devices: Sequence[DeviceEvidence]) -> bytes:
    """GD: 48 bytes over every device's class, report and chain, in evidence order."""
    return sha384(
        "device-evidence",
        u16(len(devices)),
        *(
            lp(device.device_class) + hashlib.sha384(device.report).digest() + hashlib.sha384(device.chain).digest()
            for device in devices
        ),
    )


def report_data(kind: str, core: bytes, devices: Sequence[DeviceEvidence]) -> bytes:
    """The 64 bytes that the CPU report of a node must carry."""
    return sha512("report-data", lp(kind), core_hash(core), device_digest(devices))


def service_report_data(kind: str, core: bytes) -> bytes:
    """The 64 bytes that the CPU report of the attestation service itself must carry."""
    return sha512("service-report-data", lp(kind), sha384("service-core", lp(core)))


def peer_nonces_digest(nonces: Iterable[bytes]) -> bytes:
    """Digest of the nonces that sites gave this node, in ascending order; each 32 bytes."""
    return sha256("peer-nonces", *(lp(nonce) for nonce in sorted(nonces)))


def require_equal(what: str, found: bytes, expected: bytes) -> None:
    """Compare in constant time.

    Raises:
        BindingMismatchError: `found` is not `expected`.
    """
    if not hmac.compare_digest(found, expected):
        raise BindingMismatchError(
            f"{what} is {found.hex()[:32]}…, expected {expected.hex()[:32]}…: the evidence was made for something else"
        )
