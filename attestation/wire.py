"""Between the bytes of an `Attestation` message and `ReceivedAttestation`: sizes and shape, nothing more."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import cast

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from attestation.errors import MalformedEvidenceError
from attestation.evidence import CpuEvidence, CpuKind, DeviceClass, DeviceEvidence, DeviceVendor, Evidence
from attestation.service import attestation_pb2 as pb
from policies import init_data as init_data_rules

MAX_ATTESTATION_BYTES = 4 * 1024 * 1024
MAX_CORE_BYTES = 16 * 1024
MAX_GRANT_BYTES = 64 * 1024
MAX_CSR_BYTES = 4 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedAttestation:
    """One attestation as it travelled, unverified: anyone could have written these bytes."""

    raw: bytes
    core: bytes
    evidence: Evidence
    init_data: bytes
    grant: bytes
    csr: bytes

    @property
    def sha256(self) -> bytes:
        """What the archive calls these bytes; 32 bytes."""
        return hashlib.sha256(self.raw).digest()


def decode_attestation(raw: bytes) -> ReceivedAttestation:
    """Decode the bytes of one `Attestation` message.

    Raises:
        MalformedEvidenceError: A part or the whole is too large, a field is unknown, or it is no such message.
    """
    if len(raw) > MAX_ATTESTATION_BYTES:
        raise MalformedEvidenceError(f"attestation has {len(raw)} bytes, at most {MAX_ATTESTATION_BYTES} are read")
    message = pb.Attestation()
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise MalformedEvidenceError(f"not an attestation: {error}") from error
    refuse_unknown_fields(message)
    for name, part, most in (
        ("core", message.core, MAX_CORE_BYTES),
        ("init_data", message.init_data, init_data_rules.MAX_BYTES),
        ("grant", message.grant, MAX_GRANT_BYTES),
        ("csr", message.csr, MAX_CSR_BYTES),
    ):
        if not 0 < len(part) <= most:
            raise MalformedEvidenceError(f"{name} has {len(part)} bytes, expected 1 to {most}")
    evidence = Evidence(
        cpu=decode_cpu(message.cpu),
        devices=tuple(
            DeviceEvidence(
                device_class=cast("DeviceClass", _one_of("device class", device.device_class, ("gpu", "switch"))),
                vendor=cast("DeviceVendor", _one_of("device vendor", device.vendor, ("nvidia",))),
                report=device.report,
                chain=device.chain,
            )
            for device in message.devices
        ),
    )
    evidence.check_sizes()
    return ReceivedAttestation(
        raw=raw,
        core=message.core,
        evidence=evidence,
        init_data=message.init_data,
        grant=message.grant,
        csr=message.csr,
    )


def encode_attestation(*, core: bytes, evidence: Evidence, init_data: bytes, grant: bytes, csr: bytes) -> bytes:
    """Return the bytes of an `Attestation` message."""
    message = pb.Attestation(core=core, cpu=encode_cpu(evidence.cpu), init_data=init_data, grant=grant, csr=csr)
    for device in evidence.devices:
        message.devices.add(
            device_class=device.device_class, vendor=device.vendor, report=device.report, chain=device.chain
        )
    return message.SerializeToString(deterministic=True)


def decode_cpu(message: pb.CpuEvidence) -> CpuEvidence:
    """Return the CPU evidence in a message.

    Raises:
        MalformedEvidenceError: An unknown kind of TEE, or too large.
    """
    kind = cast("CpuKind", _one_of("kind of TEE", message.kind, ("snp", "tdx")))
    evidence = CpuEvidence(kind=kind, report=message.report, endorsements=message.endorsements)
    evidence.check_size()
    return evidence


def encode_cpu(evidence: CpuEvidence) -> pb.CpuEvidence:
    """Return CPU evidence as a message."""
    return pb.CpuEvidence(kind=evidence.kind, report=evidence.report, endorsements=evidence.endorsements)


def refuse_unknown_fields(message: Message) -> None:
    """Refuse fields that this version does not know: what is not understood must not be carried along.

    Raises:
        MalformedEvidenceError: The message, or one inside it, has a field this version does not know.
    """
    unknown = len(UnknownFieldSet(message))
    if unknown:
        raise MalformedEvidenceError(f"{message.DESCRIPTOR.name} has {unknown} unknown fields, expected none")
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if isinstance(value, Message) else value:
            refuse_unknown_fields(inner)


def _one_of(what: str, found: str, expected: tuple[str, ...]) -> str:
    if found not in expected:
        raise MalformedEvidenceError(f"{what} is {found!r:.40}, expected {' or '.join(expected)}")
    return found
