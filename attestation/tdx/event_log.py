"""The event log of a trust domain: what was measured into the run-time registers, replayed against a quote.

The log is not signed. It is believed because its digests, extended one by one, give the RTMRs of a verified quote. That
proves the digests and their order; it proves the data of an event only where the digest is that of the data
(`Event.data_is_measured`), and says nothing about the data of others, whose digest is that of a file or an image.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10 (crypto agile log); UEFI 2.11, chapter 38
(confidential computing: register indices 1 to 4 are RTMR 0 to 3); the bytes are those of the ACPI CCEL table's log area.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attestation.errors import BindingMismatchError, MalformedEvidenceError
from attestation.tdx.report import DIGEST_SIZE

MAX_LOG_SIZE = 1024 * 1024  # bytes; genuine areas are 64 KiB and mostly empty
MAX_EVENTS = 4096
RTMR_COUNT = 4

_EV_NO_ACTION = 3  # informs the reader, extends nothing
_SHA384 = 0x000C  # TPM_ALG_SHA384
_SPEC_ID = b"Spec ID Event03\0"

_LEGACY = struct.Struct("<II20sI")  # register, type, SHA-1, size of the data: the first event only
_SPEC = struct.Struct("<16sIBBBBI")  # signature, class, minor, major, errata, size of a native integer, algorithms
_ALGORITHM = struct.Struct("<HH")  # identifier, size of its digest
_EVENT = struct.Struct("<III")  # register, type, number of digests
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")

_MAX_ALGORITHMS = 8
_MAX_DIGEST_SIZE = 64  # bytes, SHA-512


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry, as good as the log it stands in."""

    register: int  # 0 is the MRTD, 1 to 4 are RTMR 0 to 3
    kind: int  # TCG EV_*
    digest: bytes  # 48 bytes, SHA-384
    data: bytes

    @property
    def extends(self) -> bool:
        """Whether the firmware extended a register by it."""
        return self.kind != _EV_NO_ACTION

    @property
    def data_is_measured(self) -> bool:
        """Whether the digest is that of the data, so that a replay proves the data too."""
        return self.extends and hashlib.sha384(self.data).digest() == self.digest


def parse_event_log(raw: bytes) -> tuple[Event, ...]:
    """Read a crypto agile log with SHA-384 digests.

    Args:
        raw: The log area; what is behind the last event is all zeros or all ones.

    Raises:
        MalformedEvidenceError: Too large, no header of such a log, no SHA-384 digest, a register that does not exist, or
            an event that is cut off.
    """
    if len(raw) > MAX_LOG_SIZE:
        raise MalformedEvidenceError(f"event log has {len(raw)} bytes, at most {MAX_LOG_SIZE} are read")
    sizes, offset = _read_header(raw)
    end = _end_of_events(raw)
    events: list[Event] = []
    while offset < end:
        if len(events) == MAX_EVENTS:
            raise MalformedEvidenceError(f"event log has more than {MAX_EVENTS} events")
        event, offset = _read_event(raw, offset, sizes=sizes)
        events.append(event)
    return tuple(events)


def replay(events: Iterable[Event]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return RTMR 0 to 3, 48 bytes each, after these events: each register is SHA-384(register || digest)."""
    registers = [bytes(DIGEST_SIZE)] * RTMR_COUNT
    for event in events:
        if event.extends and event.register > 0:
            index = event.register - 1
            registers[index] = hashlib.sha384(registers[index] + event.digest).digest()
    return registers[0], registers[1], registers[2], registers[3]


def verify_event_log(raw: bytes, rtmrs: tuple[bytes, bytes, bytes, bytes]) -> tuple[Event, ...]:
    """Verify that a log gives the registers of a quote.

    Args:
        raw: The log area.
        rtmrs: The registers of a verified quote, 48 bytes each.

    Raises:
        MalformedEvidenceError: The log does not follow the format.
        BindingMismatchError: The log gives other registers: it was edited, or belongs to another trust domain or boot.
    """
    events = parse_event_log(raw)
    for index, (found, expected) in enumerate(zip(replay(events), rtmrs, strict=True)):
        if not hmac.compare_digest(found, expected):
            raise BindingMismatchError(
                f"event log gives RTMR{index} {found.hex()}, expected {expected.hex()} as in the quote",
                hint="read the log and the quote in one boot, with nothing measured between them",
            )
    return events


def _read_header(raw: bytes) -> tuple[Mapping[int, int], int]:
    """Return the size of a digest by its algorithm, and the offset of the first event."""
    register, kind, sha1, size = _unpack(_LEGACY, raw, 0)
    specification = _take(raw, _LEGACY.size, size)
    if kind != _EV_NO_ACTION or any(sha1) or not specification.startswith(_SPEC_ID):
        raise MalformedEvidenceError(
            f"event log begins with an event of type {kind} in register {register}, "
            f"expected type {_EV_NO_ACTION} with {_SPEC_ID!r}: a crypto agile log"
        )
    count = _unpack(_SPEC, specification, 0)[-1]
    if count > _MAX_ALGORITHMS:
        raise MalformedEvidenceError(f"event log has {count} digest algorithms, expected at most {_MAX_ALGORITHMS}")
    pairs = [_unpack(_ALGORITHM, specification, _SPEC.size + _ALGORITHM.size * place) for place in range(count)]
    sizes: dict[int, int] = dict(pairs)
    if len(sizes) != count or sizes.get(_SHA384) != DIGEST_SIZE or max(sizes.values()) > _MAX_DIGEST_SIZE:
        raise MalformedEvidenceError(f"event log has digests {pairs}, expected each once, and SHA-384 of 48 bytes")
    vendor = _SPEC.size + _ALGORITHM.size * count
    if len(specification) != vendor + 1 + _take(specification, vendor, 1)[0]:
        raise MalformedEvidenceError(f"event log has a header of {size} bytes, which its vendor field does not fill")
    return sizes, _LEGACY.size + size


def _end_of_events(raw: bytes) -> int:
    """Return where the unused rest of the area begins, at the latest: firmware leaves it all ones, or all zeros.

    An event whose own data ends like that is cut short by this and is read in full all the same: only its begin counts.
    """
    return len(raw.rstrip(raw[-1:])) if raw[-1:] in (b"\0", b"\xff") else len(raw)


def _read_event(raw: bytes, offset: int, *, sizes: Mapping[int, int]) -> tuple[Event, int]:
    register, kind, count = _unpack(_EVENT, raw, offset)
    offset += _EVENT.size
    if register > RTMR_COUNT:
        raise MalformedEvidenceError(f"event is for register {register}, expected 0 to {RTMR_COUNT}")
    if count != len(sizes):
        raise MalformedEvidenceError(f"event has {count} digests, expected {len(sizes)} as the header says")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        (algorithm,) = _unpack(_U16, raw, offset)
        if algorithm not in sizes or algorithm in digests:
            raise MalformedEvidenceError(f"event has a digest of algorithm {algorithm:#x} twice or unannounced")
        digests[algorithm] = _take(raw, offset + _U16.size, sizes[algorithm])
        offset += _U16.size + sizes[algorithm]
    (size,) = _unpack(_U32, raw, offset)
    offset += _U32.size
    event = Event(register=register, kind=kind, digest=digests[_SHA384], data=_take(raw, offset, size))
    return event, offset + size


def _unpack(form: struct.Struct, raw: bytes, offset: int) -> tuple[Any, ...]:
    return form.unpack(_take(raw, offset, form.size))


def _take(raw: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(raw):
        raise MalformedEvidenceError(f"event log ends at byte {len(raw)}, expected at least {offset + size}")
    return raw[offset : offset + size]
