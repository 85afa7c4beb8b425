"""What an Attester sends: the bytes that its hardware signed and the certificates that go with them.

Nothing here is trusted, parsed or verified: anyone could have written these bytes. This module says only how large they
may be, so that no verifier allocates or parses before it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attestation.errors import MalformedEvidenceError

CpuKind = Literal["snp", "tdx"]
DeviceClass = Literal["gpu", "switch"]
DeviceVendor = Literal["nvidia"]

MAX_CPU_BYTES = 64 * 1024  # report and endorsements together
MAX_DEVICE_BYTES = 128 * 1024  # report and chain together, each device
MAX_DEVICES = 16
MAX_CHAIN_CERTIFICATES = 8

_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuEvidence:
    """One CPU report, unverified."""

    kind: CpuKind
    report: bytes  # snp: ATTESTATION_REPORT, 1184 bytes; tdx: quote
    endorsements: bytes  # snp: GHCB certificate table (AMD 56421, "Extended Guest Request"), may be empty

    def check_size(self) -> None:
        """Raise `MalformedEvidenceError` unless report and endorsements fit into `MAX_CPU_BYTES`."""
        size = len(self.report) + len(self.endorsements)
        if size > MAX_CPU_BYTES:
            raise MalformedEvidenceError(f"CPU evidence has {size} bytes, at most {MAX_CPU_BYTES} are read")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvidence:
    """One device report, unverified."""

    device_class: DeviceClass
    vendor: DeviceVendor
    report: bytes  # nvidia: SPDM 1.1 GET_MEASUREMENTS request || MEASUREMENTS response
    chain: bytes  # PEM certificates, leaf first

    def check_size(self) -> None:
        """Raise `MalformedEvidenceError` unless report and chain fit into `MAX_DEVICE_BYTES` and the chain is short."""
        size = len(self.report) + len(self.chain)
        if size > MAX_DEVICE_BYTES:
            raise MalformedEvidenceError(
                f"{self.device_class} evidence has {size} bytes, at most {MAX_DEVICE_BYTES} are read"
            )
        certificates = self.chain.count(_PEM_BEGIN)
        if certificates > MAX_CHAIN_CERTIFICATES:
            raise MalformedEvidenceError(
                f"{self.device_class} chain has {certificates} certificates, at most {MAX_CHAIN_CERTIFICATES} are read"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything one machine sends about itself, unverified; the devices in the order their nonces were numbered."""

    cpu: CpuEvidence
    devices: tuple[DeviceEvidence, ...]

    def check_sizes(self) -> None:
        """Check every size before anything is parsed.

        Raises:
            MalformedEvidenceError: Too many devices or certificates, or too many bytes.
        """
        if len(self.devices) > MAX_DEVICES:
            raise MalformedEvidenceError(f"evidence of {len(self.devices)} devices, at most {MAX_DEVICES} are read")
        self.cpu.check_size()
        for device in self.devices:
            device.check_size()
