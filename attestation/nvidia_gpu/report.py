"""The measurement report of an NVIDIA GPU or NVSwitch: bytes to fields.

A report is the SPDM 1.1 GET_MEASUREMENTS request that was sent, followed by the MEASUREMENTS response to it. Decides
whether the bytes follow the format, to the last one. Who signed them is decided in `verify`.

Source: DMTF DSP0274 1.1.0, tables "GET_MEASUREMENTS request message" and "MEASUREMENTS response message"; NVIDIA nvtrust
for the opaque data. Integers are little-endian, the signature is big-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from attestation.errors import MalformedEvidenceError

REQUEST_SIZE = 37  # bytes
NONCE_SIZE = 32
SIGNATURE_SIZE = 96  # ECDSA P-384, raw r || s
MEASUREMENT_SIZE = 48  # SHA-384
MAX_REPORT_SIZE = 128 * 1024

_SPDM_1_1 = 0x11
# GET_MEASUREMENTS, signature requested, all blocks; a request without a signature proves nothing.
_REQUEST_HEAD = bytes((_SPDM_1_1, 0xE0, 0x01, 0xFF))
_REQUEST_SLOT = b"\0"
_RESPONSE_HEAD = bytes((_SPDM_1_1, 0x60, 0x00, 0x00))
_DMTF = 1  # measurement specification
_DIGEST_TYPES = range(4)  # ROM, firmware, hardware and firmware configuration; not raw bits, not a manifest
_BLOCK_HEAD_SIZE = 4
_VALUE_HEAD_SIZE = 3
_OPAQUE_HEAD_SIZE = 4

_DRIVER_VERSION, _VBIOS_VERSION = 3, 6
_NVDEC0_STATUS, _FWID, _PROTECTED_PCIE_STATUS, _FEATURE_FLAG, _INVALID = 11, 20, 21, 36, 255
_OPAQUE_SIZES: Mapping[int, int] = {_NVDEC0_STATUS: 1, _FWID: 48, _PROTECTED_PCIE_STATUS: 1, _FEATURE_FLAG: 2}
_ON_OFF: Mapping[bytes, bool] = {b"\xaa": True, b"\x55": False}
_GPU_VBIOS_ORDER = (3, 2, 1, 0, 4)  # 00 9f 00 96 01 is 96.00.9f.00.01

Feature = Literal["spt", "mpt", "ppcie"]  # single GPU, several GPUs with encrypted NVLink, protected PCIe
_FEATURES: Mapping[int, Feature] = {0: "spt", 1: "mpt", 2: "ppcie"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """Fields of one report, unverified: anyone could have written these bytes."""

    nonce: bytes  # 32 bytes, of the request: the verifier's. The responder's own nonce proves nothing to a verifier
    measurements: Mapping[int, bytes]  # SPDM block index, from 1, to SHA-384 of 48 bytes
    opaque: Mapping[int, bytes]  # every opaque field by type, as it is
    driver_version: str | None  # "550.90.07"; None on a switch
    vbios_version: str  # "96.00.9f.00.01", lower case
    fwid: bytes | None  # 48 bytes, digest of the firmware that holds the leaf key; None with drivers before 550
    feature: Feature | None  # None with drivers before 580, and on a switch
    nvdec0_enabled: bool | None
    protected_pcie: bool | None
    signed: bytes  # request and response without the signature
    r: int  # below 2**384
    s: int  # below 2**384

    @classmethod
    def parse(cls, raw: bytes) -> GpuReport:
        """Read one report.

        Args:
            raw: Request and response, as the driver gave them; at most 128 KiB.

        Raises:
            MalformedEvidenceError: A size, a code, an enumeration is wrong, or a block or field comes twice.
        """
        if len(raw) > MAX_REPORT_SIZE:
            raise MalformedEvidenceError(f"GPU report has {len(raw)} bytes, expected at most {MAX_REPORT_SIZE}")
        reader = _Reader(raw)
        reader.expect(_REQUEST_HEAD, what="SPDM 1.1 GET_MEASUREMENTS request")
        nonce = reader.take(NONCE_SIZE, what="request nonce")
        reader.expect(_REQUEST_SLOT, what="certificate slot")
        reader.expect(_RESPONSE_HEAD, what="SPDM 1.1 MEASUREMENTS response")
        block_count = reader.number(1, what="number of blocks")
        record = reader.take(reader.number(3, what="record length"), what="measurement record")
        reader.take(NONCE_SIZE, what="responder nonce")
        opaque = _parse_opaque(reader.take(reader.number(2, what="opaque length"), what="opaque data"))
        signed = raw[: reader.position]
        signature = reader.take(SIGNATURE_SIZE, what="signature")
        reader.finish()
        return cls(
            nonce=nonce,
            measurements=_parse_blocks(record, block_count=block_count),
            opaque=opaque,
            driver_version=_text(opaque[_DRIVER_VERSION], what="driver version") if _DRIVER_VERSION in opaque else None,
            vbios_version=_vbios_version(opaque),
            fwid=opaque.get(_FWID),
            feature=_feature(opaque),
            nvdec0_enabled=_on_off(opaque, _NVDEC0_STATUS),
            protected_pcie=_on_off(opaque, _PROTECTED_PCIE_STATUS),
            signed=signed,
            r=int.from_bytes(signature[:48], "big"),
            s=int.from_bytes(signature[48:], "big"),
        )


class _Reader:
    """Takes bytes from the front; refuses to go past the end or to leave something behind."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.position = 0

    def take(self, size: int, *, what: str) -> bytes:
        piece = self._raw[self.position : self.position + size]
        if len(piece) != size:
            raise MalformedEvidenceError(f"{what} has {len(piece)} bytes left, expected {size}")
        self.position += size
        return piece

    def number(self, size: int, *, what: str) -> int:
        return int.from_bytes(self.take(size, what=what), "little")

    def expect(self, constant: bytes, *, what: str) -> None:
        if (found := self.take(len(constant), what=what)) != constant:
            raise MalformedEvidenceError(f"{what} starts with {found.hex()}, expected {constant.hex()}")

    def more(self) -> bool:
        return self.position < len(self._raw)

    def finish(self) -> None:
        if self.more():
            raise MalformedEvidenceError(f"GPU report has {len(self._raw) - self.position} bytes behind its end")


def _parse_blocks(record: bytes, *, block_count: int) -> Mapping[int, bytes]:
    reader, measurements = _Reader(record), dict[int, bytes]()
    while reader.more():
        index = reader.number(1, what="block index")
        specification = reader.number(1, what="measurement specification")
        size = reader.number(2, what="block size")
        value_type = reader.number(1, what="value type")
        value_size = reader.number(2, what="value size")
        value = reader.take(value_size, what=f"measurement {index}")
        if specification != _DMTF or value_type not in _DIGEST_TYPES:
            raise MalformedEvidenceError(
                f"measurement {index} has specification {specification} and type {value_type}, expected 1 and 0 to 3"
            )
        if value_size != MEASUREMENT_SIZE or size != _VALUE_HEAD_SIZE + value_size:
            raise MalformedEvidenceError(
                f"measurement {index} has {value_size} bytes in a block of {size}, expected {MEASUREMENT_SIZE} in 51"
            )
        if index == 0 or index in measurements:
            raise MalformedEvidenceError(f"measurement {index} is zero or comes twice, expected each index from 1 once")
        measurements[index] = value
    if len(measurements) != block_count or not measurements:
        raise MalformedEvidenceError(f"report has {len(measurements)} measurements, expected {block_count}, at least 1")
    return MappingProxyType(measurements)


def _parse_opaque(raw: bytes) -> Mapping[int, bytes]:
    """Read {type u16, size u16, data} to the end. Unknown types are kept: newer drivers add some."""
    reader, fields = _Reader(raw), dict[int, bytes]()
    while reader.more():
        kind = reader.number(2, what="opaque type")
        field = reader.take(reader.number(2, what="opaque size"), what=f"opaque field {kind}")
        if kind == _INVALID or kind in fields:
            raise MalformedEvidenceError(f"opaque field {kind} is invalid or comes twice, expected each type once")
        if len(field) != _OPAQUE_SIZES.get(kind, len(field)):
            raise MalformedEvidenceError(f"opaque field {kind} has {len(field)} bytes, expected {_OPAQUE_SIZES[kind]}")
        fields[kind] = field
    return MappingProxyType(fields)


def _text(field: bytes, *, what: str) -> str:
    """Return printable ASCII without the zeros behind it."""
    text = field.rstrip(b"\0")
    if not text.isascii() or not text.decode("ascii", "replace").isprintable() or not text:
        raise MalformedEvidenceError(f"{what} is {field.hex()}, expected printable ASCII")
    return text.decode("ascii")


def _vbios_version(opaque: Mapping[int, bytes]) -> str:
    field = opaque.get(_VBIOS_VERSION)
    if field is None:
        raise MalformedEvidenceError("report has no VBIOS version, expected opaque field 6")
    if len(field) == 8:  # a GPU: binary
        return ".".join(f"{field[position]:02x}" for position in _GPU_VBIOS_ORDER)
    return _text(field, what="VBIOS version").lower()  # a switch


def _feature(opaque: Mapping[int, bytes]) -> Feature | None:
    if _FEATURE_FLAG not in opaque:
        return None
    flag = int.from_bytes(opaque[_FEATURE_FLAG], "little")
    if flag not in _FEATURES:
        raise MalformedEvidenceError(f"feature flag is {flag}, expected 0 (SPT), 1 (MPT) or 2 (PPCIE)")
    return _FEATURES[flag]


def _on_off(opaque: Mapping[int, bytes], kind: int) -> bool | None:
    field = opaque.get(kind)
    if field is None:
        return None
    if field not in _ON_OFF:
        raise MalformedEvidenceError(f"opaque field {kind} is {field.hex()}, expected aa (on) or 55 (off)")
    return _ON_OFF[field]
