"""Encodes and signs AMD SEV-SNP attestation reports, and the VCEK certificates for them, as a Milan chip would.

Layouts: AMD 56860 "SEV Secure Nested Paging Firmware ABI", ATTESTATION_REPORT; AMD 57230, VCEK extensions; AMD 56421
"GHCB Standardization", certificate table. Written from those and never by the parser in `attestation.snp`: what both
understand in the same way is understood twice. Integers are little-endian.
"""

from __future__ import annotations

import struct
from datetime import datetime, timedelta
from functools import cached_property
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.mock_tee.machines import MilanTcb, SnpLaunch
from attestation.mock_tee.vendor import BACKDATED, Vendor, amd_name, pem_chain

REPORT_SIZE = 0x4A0  # 1184 bytes
SIGNED_SIZE = 0x2A0  # 672 bytes: what the signature covers

VCEK_LIFETIME = timedelta(days=7 * 365)
PRODUCT_NAME = "Milan-B0"
CPUID = (0x19, 0x01, 0x01)  # family, model, stepping of Milan-B1; in reports of version 3 and later
FIRMWARE = (0x1D, 0x37, 0x01)  # build, minor, major: 1.55.29
PLATFORM_INFO = 0x25  # SMT_EN, ECC_EN, ALIAS_CHECK_COMPLETE
MITIGATIONS = 0x0B  # LAUNCH_ and CURRENT_MIT_VECTOR of a Milan with current firmware; version 5
FIRST_VERSION_WITH_CPUID = 3
FIRST_VERSION_WITH_MITIGATIONS = 5

_SIGNED = struct.Struct(
    "<"
    "IIQ"  # 0x000 version, guest SVN, policy
    "16s16s"  # 0x010 family id, image id
    "II"  # 0x030 VMPL, signature algorithm
    "8sQ"  # 0x038 current TCB, platform info
    "II"  # 0x048 key info, reserved
    "64s48s32s"  # 0x050 report data, measurement, host data
    "48s48s"  # 0x0E0 id key digest, author key digest
    "32s32s"  # 0x140 report id, report id of the migration agent
    "8s3s21x"  # 0x180 reported TCB, CPUID
    "64s"  # 0x1A0 chip id
    "8s3sx3sx"  # 0x1E0 committed TCB, current firmware, committed firmware
    "8sQQ"  # 0x1F0 launch TCB, launch and current mitigation vectors
    "152x"
)
_SIGNATURE = struct.Struct("<72s72s368x")  # R, S, each 48 bytes little-endian and zero padded

_ECDSA_P384_SHA384 = 1
_NO_MIGRATION_AGENT = b"\xff" * 32
_OID = "1.3.6.1.4.1.3704.1"
_TABLE_ENTRY = struct.Struct("<16sII")  # GUID in text order, offset, length
_ARK_GUID = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
_ASK_GUID = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
_VCEK_GUID = UUID("63da758d-e664-4564-adc5-f4b93be8accd")


class SnpChip:
    """One chip with its firmware at one reported TCB: signs the reports of the machines launched on it.

    The VCEK follows from the vendor's seed, the chip and the TCB, as on hardware: other firmware, other key.
    """

    def __init__(self, vendor: Vendor, *, chip_id: bytes, reported_tcb: MilanTcb, now: datetime) -> None:
        self.chip_id = chip_id  # 64 bytes
        self.reported_tcb = reported_tcb
        self._vendor = vendor
        self._now = now
        self._key = vendor.derive_key("vcek", chip_id, encode_tcb(reported_tcb))

    @cached_property
    def vcek(self) -> x509.Certificate:
        """The certificate of this chip's key, signed by the ASK."""
        not_before = self._now - BACKDATED
        builder = (
            x509.CertificateBuilder()
            .subject_name(amd_name("SEV-VCEK"))
            .issuer_name(self._vendor.ask.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())  # AMD's are 0, which the builder refuses
            .not_valid_before(not_before)
            .not_valid_after(not_before + VCEK_LIFETIME)
        )
        for suffix, value in _vcek_extensions(self.chip_id, self.reported_tcb):
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_OID}.{suffix}"), value)
            builder = builder.add_extension(extension, critical=False)
        return self._vendor.sign_vcek(builder)

    @cached_property
    def certificate_table(self) -> bytes:
        """ARK (PEM, as hosts keep it), ASK and VCEK (DER) behind their GUIDs, as a host hands them to its guest."""
        return encode_certificate_table(
            (
                (_ARK_GUID, pem_chain([self._vendor.ark])),
                (_ASK_GUID, self._vendor.ask.public_bytes(Encoding.DER)),
                (_VCEK_GUID, self.vcek.public_bytes(Encoding.DER)),
            )
        )

    def report(self, launch: SnpLaunch, *, report_id: bytes, report_data: bytes) -> bytes:
        """Return a signed report, 1184 bytes, of a machine launched on this chip.

        Args:
            launch: How it was launched; its chip and reported TCB are this chip's.
            report_id: 32 bytes, new at each launch.
            report_data: 64 bytes, the guest's own.
        """
        signed = encode_signed_part(launch, report_id=report_id, report_data=report_data)
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA384())))
        return signed + _SIGNATURE.pack(r.to_bytes(48, "little"), s.to_bytes(48, "little"))


def encode_tcb(tcb: MilanTcb) -> bytes:
    """Return a TCB_VERSION of Milan, 8 bytes."""
    return struct.pack("<BB4xBB", tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode)


def encode_signed_part(launch: SnpLaunch, *, report_id: bytes, report_data: bytes) -> bytes:
    """Return the 672 bytes of a report that its signature covers."""
    mitigations = MITIGATIONS if launch.report_version >= FIRST_VERSION_WITH_MITIGATIONS else 0
    return _SIGNED.pack(
        launch.report_version,
        0,  # guest SVN: no ID block
        launch.policy,
        bytes(16),
        bytes(16),
        launch.vmpl,
        _ECDSA_P384_SHA384,
        encode_tcb(launch.current_tcb),
        PLATFORM_INFO,
        0,  # signed by the VCEK, no author key, chip id not masked
        0,
        report_data,
        launch.measurement,
        launch.host_data,
        bytes(48),
        bytes(48),
        report_id,
        _NO_MIGRATION_AGENT,
        encode_tcb(launch.reported_tcb),
        bytes(CPUID) if launch.report_version >= FIRST_VERSION_WITH_CPUID else bytes(3),
        launch.chip_id,
        encode_tcb(launch.committed_tcb),
        bytes(FIRMWARE),
        bytes(FIRMWARE),
        encode_tcb(launch.launch_tcb),
        mitigations,
        mitigations,
    )


def encode_certificate_table(entries: tuple[tuple[UUID, bytes], ...]) -> bytes:
    """Return a GHCB certificate table: entries, 24 zero bytes, then the certificates."""
    offset = _TABLE_ENTRY.size * (len(entries) + 1)
    header, blobs = b"", b""
    for guid, blob in entries:
        header += _TABLE_ENTRY.pack(guid.bytes, offset + len(blobs), len(blob))
        blobs += blob
    return header + bytes(_TABLE_ENTRY.size) + blobs


def _vcek_extensions(chip_id: bytes, tcb: MilanTcb) -> tuple[tuple[str, bytes], ...]:
    """AMD 57230, in the order of genuine certificates."""
    return (
        ("1", _integer(0)),  # structVersion
        ("2", b"\x16" + bytes([len(PRODUCT_NAME)]) + PRODUCT_NAME.encode("ascii")),  # IA5String
        ("3.1", _integer(tcb.bootloader)),
        ("3.2", _integer(tcb.tee)),
        *((f"3.{reserved}", _integer(0)) for reserved in (4, 5, 6, 7)),
        ("3.3", _integer(tcb.snp)),
        ("3.8", _integer(tcb.microcode)),
        ("4", chip_id),  # hwID: raw, not wrapped in DER
    )


def _integer(byte: int) -> bytes:
    """DER INTEGER of one unsigned byte: from 0x80 on a zero keeps it positive."""
    content = bytes([byte]) if byte < 0x80 else bytes([0, byte])
    return bytes([0x02, len(content)]) + content
