"""The certificate table that a host hands to its guest beside a report (`auxblob` of configfs-tsm).

Untrusted, as everything from the host: this module finds the certificates, and `chain` decides whether they hold.

Source: AMD 56421 (GHCB specification), "SNP Extended Guest Request", table of {GUID, offset u32, length u32}.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from attestation.certificates import split_pem
from attestation.errors import EndorsementError, MalformedEvidenceError
from attestation.snp.chain import SnpEndorsements

MAX_TABLE_SIZE = 64 * 1024  # bytes
MAX_ENTRIES = 16

_ENTRY = struct.Struct("<16sII")  # GUID in text order, offset from the start of the table, length; 24 bytes
_TERMINATOR = bytes(_ENTRY.size)
_PEM_MARK = b"-----BEGIN"

_GUIDS: Mapping[str, bytes] = {
    "ark": UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes,
    "ask": UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes,  # the ASVK beside a VLEK
    "vcek": UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes,
    "vlek": UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes,
    "crl": UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea").bytes,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateTable:
    """What a host's table holds: DER each, None where it has no such entry."""

    ark: bytes | None = None
    ask: bytes | None = None
    vcek: bytes | None = None
    vlek: bytes | None = None
    crl: bytes | None = None

    @classmethod
    def parse(cls, raw: bytes) -> CertificateTable:
        """Read a table; certificates may be DER or PEM, as hosts give both.

        Entries of other GUIDs are passed over, as the specification allows them; their bounds count all the same.

        Raises:
            MalformedEvidenceError: Too large, no terminator, an entry out of bounds, twice, empty or over another, or
                bytes that belong to no entry.
        """
        if len(raw) > MAX_TABLE_SIZE:
            raise MalformedEvidenceError(f"certificate table has {len(raw)} bytes, expected at most {MAX_TABLE_SIZE}")
        entries = _read_entries(raw)
        _check_bounds(raw, entries)
        blobs = {guid: raw[offset : offset + length] for guid, (offset, length) in entries.items()}
        known = {name: _der(blobs[guid], what=name) for name, guid in _GUIDS.items() if guid in blobs}
        return cls(**known)

    def encode(self) -> bytes:
        """Return the bytes of the table: entries, terminator, then the certificates without gaps."""
        blobs = [(guid, blob) for name, guid in _GUIDS.items() if (blob := getattr(self, name)) is not None]
        header, body = b"", b""
        start = _ENTRY.size * (len(blobs) + 1)
        for guid, blob in blobs:
            header += _ENTRY.pack(guid, start + len(body), len(blob))
            body += blob
        return header + _TERMINATOR + body

    def endorsements(self) -> SnpEndorsements:
        """Return the certificates for `verify`.

        Raises:
            EndorsementError: The root, the intermediate or the VEK is missing, or there are both kinds of VEK.
        """
        if self.vcek is not None and self.vlek is not None:
            raise EndorsementError("certificate table has a VCEK and a VLEK, expected one: there is one ASK or ASVK")
        vek = self.vcek if self.vcek is not None else self.vlek
        if self.ark is None or self.ask is None or vek is None:
            found = ", ".join(name for name in _GUIDS if getattr(self, name) is not None) or "nothing"
            raise EndorsementError(
                f"certificate table has {found}, expected ark, ask and one of vcek and vlek",
                hint="fetch the missing certificates from AMD's key distribution service",
            )
        return SnpEndorsements(vek=vek, intermediate=self.ask, root=self.ark, crl=self.crl)


def _read_entries(raw: bytes) -> dict[bytes, tuple[int, int]]:
    """Return (offset, length) by GUID, up to the terminator."""
    entries: dict[bytes, tuple[int, int]] = {}
    for position in range(0, _ENTRY.size * (MAX_ENTRIES + 1), _ENTRY.size):
        header = raw[position : position + _ENTRY.size]
        if header == _TERMINATOR:
            return entries
        if len(header) < _ENTRY.size:
            break
        guid, offset, length = _ENTRY.unpack(header)
        if guid in entries:
            raise MalformedEvidenceError(f"certificate table has {UUID(bytes=guid)} twice, expected each GUID once")
        entries[guid] = (offset, length)
    raise MalformedEvidenceError(
        f"certificate table has no terminator, expected one after at most {MAX_ENTRIES} entries"
    )


def _check_bounds(raw: bytes, entries: Mapping[bytes, tuple[int, int]]) -> None:
    """Check that the entries tile the table: nothing overlaps, nothing but zeros lies between or behind."""
    end = _ENTRY.size * (len(entries) + 1)
    for offset, length in sorted(entries.values()):
        if length == 0 or offset < end or offset + length > len(raw):
            raise MalformedEvidenceError(
                f"certificate table entry is at {offset} with {length} bytes, expected between {end} and {len(raw)}"
            )
        _check_padding(raw[end:offset])
        end = offset + length
    _check_padding(raw[end:])


def _check_padding(gap: bytes) -> None:
    if any(gap):
        raise MalformedEvidenceError(f"certificate table has {len(gap)} bytes that belong to no entry, expected zeros")


def _der(blob: bytes, *, what: str) -> bytes:
    if not blob.startswith(_PEM_MARK):
        return blob
    certificates = split_pem(blob, what=what)
    if len(certificates) != 1:
        raise MalformedEvidenceError(f"certificate table has {len(certificates)} certificates as {what}, expected one")
    return certificates[0]
