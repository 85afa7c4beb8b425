"""A TDX quote: header, report, and the chain of signatures from the report to Intel's certificates.

Decides whether the bytes follow the format, to the last one. Quotes arrive in buffers that are padded with zeros; only
zeros are taken for padding.

Source: Intel TDX DCAP Quoting Library API, appendix 3 (quote formats 4 and 5). Integers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from attestation.errors import MalformedEvidenceError
from attestation.tdx.report import TD_10_SIZE, TD_15_SIZE, TdReport

MAX_QUOTE_SIZE = 32 * 1024  # bytes, padding included: the most that Linux configfs-tsm gives
QE_REPORT_SIZE = 384  # bytes, an SGX enclave report
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_HEADER = struct.Struct("<HHIHH16s20s")  # version, key type, TEE, QE SVN, PCE SVN, QE vendor, user data; 48 bytes
_BODY = struct.Struct("<HI")  # version 5 only: body type, body size
_BODY_SIZES: Mapping[int, int] = {2: TD_10_SIZE, 3: TD_15_SIZE}  # by body type; 1 is an SGX enclave
_CERTIFICATION = struct.Struct("<HI")  # type, size

_ECDSA_P256 = 2
_TEE_TDX = 0x81
_QE_REPORT_CERTIFICATION = 6
_PCK_CHAIN_CERTIFICATION = 5
_SIGNATURE_SIZE = 64  # bytes: r, s; and x, y of a P-256 key
_QE_REPORT_DATA = 320  # offset of the 64 bytes: SHA-256(attestation key || auth data), zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """One quote, unverified: anyone could have written these bytes."""

    version: int  # 4 or 5
    user_data: bytes  # 20 bytes
    report: TdReport
    qe_report: bytes  # 384 bytes: the quoting enclave, which vouches for the key that signed the report
    qe_report_signature: bytes  # 64 bytes, r || s big-endian, by the platform's PCK
    pck_chain: bytes  # PEM, leaf first
    raw: bytes  # the quote without its padding

    @classmethod
    def parse(cls, raw: bytes) -> Quote:
        """Read one quote.

        Args:
            raw: At most 32 KiB; zeros behind the declared end are passed over.

        Raises:
            MalformedEvidenceError: A version, a type, a size or a reserved byte is wrong, or there are bytes behind the
                end that are not zero.
        """
        if not _HEADER.size <= len(raw) <= MAX_QUOTE_SIZE:
            raise MalformedEvidenceError(f"quote has {len(raw)} bytes, expected {_HEADER.size} to {MAX_QUOTE_SIZE}")
        version, key_type, tee, _qe_svn, _pce_svn, vendor, user_data = _HEADER.unpack_from(raw)
        _check_header(version=version, key_type=key_type, tee=tee, vendor=vendor)
        report, offset = _read_report(raw, version=version)
        signature_data, end = _read_sized(raw, offset, what="signature data")
        if any(raw[end:]):
            raise MalformedEvidenceError(f"quote has {len(raw) - end} bytes behind its end, expected zeros only")
        qe_report, qe_report_signature, pck_chain = _read_signature_data(signature_data)
        return cls(
            version=version,
            user_data=user_data,
            report=TdReport.parse(report),
            qe_report=qe_report,
            qe_report_signature=qe_report_signature,
            pck_chain=pck_chain,
            raw=raw[:end],
        )


def _check_header(*, version: int, key_type: int, tee: int, vendor: bytes) -> None:
    if version not in (4, 5):
        raise MalformedEvidenceError(f"quote version is {version}, expected 4 or 5")
    if key_type != _ECDSA_P256:
        raise MalformedEvidenceError(f"attestation key type is {key_type}, expected {_ECDSA_P256} (ECDSA P-256)")
    if tee != _TEE_TDX:
        raise MalformedEvidenceError(f"quote is of TEE {tee:#x}, expected {_TEE_TDX:#x} (TDX)")
    if vendor != INTEL_QE_VENDOR:
        raise MalformedEvidenceError(f"quoting enclave is of vendor {vendor.hex()}, expected {INTEL_QE_VENDOR.hex()}")


def _read_report(raw: bytes, *, version: int) -> tuple[bytes, int]:
    """Return the report and the offset behind it."""
    offset, size = _HEADER.size, TD_10_SIZE
    if version == 5:
        kind, size = _BODY.unpack(_take(raw, offset, _BODY.size, what="body descriptor"))
        if _BODY_SIZES.get(kind) != size:
            raise MalformedEvidenceError(
                f"body is of type {kind} and {size} bytes, expected type 2 and {TD_10_SIZE} or 3 and {TD_15_SIZE}"
            )
        offset += _BODY.size
    return _take(raw, offset, size, what="TD report"), offset + size


def _read_signature_data(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the QE report, its signature and the PCK chain from: signature, key, certification data of type 6."""
    certified = _read_certification(raw, 2 * _SIGNATURE_SIZE, kind=_QE_REPORT_CERTIFICATION)
    qe_report = _take(certified, 0, QE_REPORT_SIZE, what="QE report")
    if any(qe_report[_QE_REPORT_DATA + 32 :]):
        raise MalformedEvidenceError("QE report data is longer than a SHA-256, expected 32 zeros behind it")
    signature = _take(certified, QE_REPORT_SIZE, _SIGNATURE_SIZE, what="QE report signature")
    offset = QE_REPORT_SIZE + _SIGNATURE_SIZE
    auth_size = int.from_bytes(_take(certified, offset, 2, what="QE authentication data"), "little")
    chain = _read_certification(certified, offset + 2 + auth_size, kind=_PCK_CHAIN_CERTIFICATION)
    return qe_report, signature, chain


def _read_certification(raw: bytes, offset: int, *, kind: int) -> bytes:
    """Return certification data of this type; it must end where `raw` does."""
    found, size = _CERTIFICATION.unpack(_take(raw, offset, _CERTIFICATION.size, what="certification data"))
    start = offset + _CERTIFICATION.size
    if found != kind or start + size != len(raw):
        raise MalformedEvidenceError(
            f"certification data is of type {found} and {size} bytes, expected type {kind} and {len(raw) - start}"
        )
    return raw[start:]


def _read_sized(raw: bytes, offset: int, *, what: str) -> tuple[bytes, int]:
    """Return the bytes behind their length in 32 bits, and the offset behind them."""
    size = int.from_bytes(_take(raw, offset, 4, what=what), "little")
    return _take(raw, offset + 4, size, what=what), offset + 4 + size


def _take(raw: bytes, offset: int, size: int, *, what: str) -> bytes:
    if offset + size > len(raw):
        raise MalformedEvidenceError(f"{what} ends at byte {offset + size}, expected at most {len(raw)}")
    return raw[offset : offset + size]
