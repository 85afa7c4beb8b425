"""Encodes and signs NVIDIA GPU attestation reports, and the certificates that go with them, as an H100 would.

Layouts: DMTF DSP0274 SPDM 1.1, GET_MEASUREMENTS and MEASUREMENTS; the opaque data and the certificates of genuine H100
boards. Written from those and never by the parser in `attestation.nvidia_gpu`. Integers are little-endian.
"""

from __future__ import annotations

import struct
from datetime import datetime
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.mock_tee.machines import GpuLaunch
from attestation.mock_tee.vendor import BACKDATED, CA_LIFETIME, Vendor, key_usage, pem_chain
from policies.encoding import lp, sha384, u32

DRIVER_VERSION = "580.95.05"
VBIOS_VERSION = "96.00.9F.00.01"
BLOCK_COUNT = 64
BLOCK_BYTES = 48  # SHA-384
FWID = sha384("mock-gpu-firmware", lp(VBIOS_VERSION))  # 48 bytes, digest of the firmware that holds the leaf key

_GET_MEASUREMENTS = b"\x11\xe0\x01\xff"  # SPDM 1.1, signature requested, all blocks
_MEASUREMENTS = b"\x11\x60\x00\x00"
_SLOT = b"\x00"
_BLOCK = struct.Struct("<BBHBH")  # index from 1, specification (1 is DMTF), size, value type, value size

# Opaque data fields, {type u16, size u16, data}. Facts: NVIDIA nvtrust, "OpaqueDataParser".
_DRIVER_VERSION, _GPU_INFO, _VBIOS, _NVDEC0_STATUS, _MEASUREMENT_COUNT, _CPR_INFO = 3, 4, 6, 11, 12, 13
_BOARD_ID, _CHIP_SKU, _CHIP_SKU_MOD, _PROJECT, _PROJECT_SKU, _PROJECT_SKU_MOD = 14, 15, 16, 17, 18, 19
_FWID, _PROTECTED_PCIE, _OPAQUE_VERSION, _CHIP_INFO, _FEATURE = 20, 21, 34, 35, 36
_OFF = b"\x55"
_SINGLE_PASSTHROUGH = 0  # one GPU given whole to one machine

_DICE_FWID = x509.ObjectIdentifier("2.23.133.5.4.1")  # TCG DICE
_SPDM_DEVICE = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")  # DMTF DSP0274, device information in the SAN
_SHA384_OID = bytes.fromhex("0609608648016503040202")  # DER


class Gpu:
    """One board: signs measurements with the key of its firmware, which its boot ROM certifies.

    Both keys follow from the vendor's seed and the serial number, so a board stays the same wherever it is plugged in.
    """

    def __init__(self, vendor: Vendor, launch: GpuLaunch, *, now: datetime) -> None:
        self._vendor = vendor
        self._now = now
        self._unique = vendor.derive_bytes(29, "gpu", launch.serial)  # 9 bytes of the boot ROM, 20 of the firmware
        self._rom_key = vendor.derive_key("gpu-rom", launch.serial)
        self._firmware_key = vendor.derive_key("gpu-firmware", launch.serial, FWID)
        self._measurements = _measurement_record(launch.driver_version)
        self._opaque = _opaque_data(launch.driver_version)

    @cached_property
    def chain(self) -> bytes:
        """Firmware, boot ROM, provisioner, identity, root: five certificates, PEM, leaf first."""
        rom = self._rom_certificate()
        return pem_chain(
            (
                self._firmware_certificate(rom),
                rom,
                self._vendor.provisioner,
                self._vendor.identity,
                self._vendor.device_root,
            )
        )

    def report(self, nonce: bytes, *, responder_nonce: bytes) -> bytes:
        """Return the request, the response and its signature.

        Args:
            nonce: The verifier's, 32 bytes; stands in the request.
            responder_nonce: The device's own, 32 bytes, new each time.
        """
        request = _GET_MEASUREMENTS + nonce + _SLOT
        opaque_length = struct.pack("<H", len(self._opaque))
        response = _MEASUREMENTS + self._measurements + responder_nonce + opaque_length + self._opaque
        signed = request + response
        r, s = decode_dss_signature(self._firmware_key.sign(signed, ec.ECDSA(hashes.SHA384())))
        return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def _rom_certificate(self) -> x509.Certificate:
        serial = self._unique[:9]
        builder = self._certificate(
            self._rom_key, _device_name("GSP BROM", serial), self._vendor.provisioner.subject, serial
        )
        return (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=True), critical=True)
            .add_extension(_authority_key(self._vendor.provisioner_key), critical=False)
            .sign(self._vendor.provisioner_key, hashes.SHA384())
        )

    def _firmware_certificate(self, rom: x509.Certificate) -> x509.Certificate:
        serial = self._unique[9:]
        device = f"NVIDIA:GH100:{self._unique[:8].hex().upper()}".encode("ascii")
        san = x509.OtherName(_SPDM_DEVICE, b"\x0c" + bytes([len(device)]) + device)  # UTF8String
        return (
            self._certificate(self._firmware_key, _device_name("GSP FMC LF", serial), rom.subject, serial)
            .add_extension(key_usage(signs_data=True), critical=True)
            .add_extension(_authority_key(self._rom_key), critical=False)
            .add_extension(x509.SubjectAlternativeName([san]), critical=False)
            .add_extension(x509.UnrecognizedExtension(_DICE_FWID, self._composite_device_id()), critical=False)
            .sign(self._rom_key, hashes.SHA384())
        )

    def _certificate(
        self, key: ec.EllipticCurvePrivateKey, subject: x509.Name, issuer: x509.Name, serial: bytes
    ) -> x509.CertificateBuilder:
        not_before = self._now - BACKDATED
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(_positive(serial))
            .not_valid_before(not_before)
            .not_valid_after(not_before + CA_LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    def _composite_device_id(self) -> bytes:
        """DER: SEQUENCE { version 1, key of the boot ROM, SEQUENCE { SHA-384, FWID } }; the FWID comes last."""
        rom_key = self._rom_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        fwid = b"\x30\x3d" + _SHA384_OID + b"\x04\x30" + FWID
        content = b"\x02\x01\x01" + rom_key + fwid
        return b"\x30\x81" + bytes([len(content)]) + content


def _positive(serial: bytes) -> int:
    """Read a serial number with its first bit cleared and its last one set: RFC 5280 wants it positive."""
    return (int.from_bytes(serial, "big") | 1) & ((1 << (8 * len(serial) - 1)) - 1)


def _device_name(part: str, serial: bytes) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{_positive(serial):0{2 * len(serial)}X}"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "NVIDIA Corporation"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"GH100 A01 {part}"),
        ]
    )


def _authority_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _measurement_record(driver_version: str) -> bytes:
    """Number of blocks, length of the record (u24), then the blocks: what firmware and driver would measure."""
    record = b"".join(
        _BLOCK.pack(index, 1, 3 + BLOCK_BYTES, 1, BLOCK_BYTES)
        + sha384("mock-gpu-measurement", lp(VBIOS_VERSION), lp(driver_version), u32(index))
        for index in range(1, BLOCK_COUNT + 1)
    )
    return bytes([BLOCK_COUNT]) + len(record).to_bytes(3, "little") + record


def _opaque_data(driver_version: str) -> bytes:
    fields = (
        (_VBIOS, _vbios(VBIOS_VERSION)),
        (_BOARD_ID, struct.pack("<I", 0x0437)),
        (_CHIP_SKU, b"885".ljust(9, b"\0")),
        (_CHIP_SKU_MOD, b"0".ljust(5, b"\0")),
        (_PROJECT, b"G520\0"),
        (_PROJECT_SKU, b"0200\0"),
        (_PROJECT_SKU_MOD, bytes(2)),
        (_DRIVER_VERSION, driver_version.encode("ascii") + b"\0"),
        (_GPU_INFO, struct.pack("<Q", 0x180)),
        (_MEASUREMENT_COUNT, struct.pack("<I", 1) * BLOCK_COUNT),
        (_CPR_INFO, struct.pack("<I", 0x1C000)),
        (_NVDEC0_STATUS, _OFF),
        (_FWID, FWID),
        (_PROTECTED_PCIE, _OFF),
        (_CHIP_INFO, b"GH100\0"),
        (_OPAQUE_VERSION, struct.pack("<H", 1)),
        (_FEATURE, struct.pack("<H", _SINGLE_PASSTHROUGH)),
    )
    return b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in fields)


def _vbios(version: str) -> bytes:
    """Encode "96.00.9F.00.01" as 00 9f 00 96 01 and three zeros: the first four reversed, then the fifth."""
    parts = bytes.fromhex(version.replace(".", ""))
    return parts[3::-1] + parts[4:] + bytes(3)
