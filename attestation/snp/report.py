"""The attestation report of AMD SEV-SNP: 1184 bytes to fields.

Decides whether the bytes follow the format, reserved bits included. Who signed them is decided in `verify`, and whether
anybody wants such a machine in `appraise`.

Source: AMD 56860 (SEV-SNP firmware ABI), "ATTESTATION_REPORT Structure". Integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attestation.errors import MalformedEvidenceError
from attestation.snp.tcb import Product, Tcb

REPORT_SIZE = 0x4A0  # 1184 bytes
SIGNED_SIZE = 0x2A0  # 672 bytes: the signature covers these
VERSIONS = range(2, 6)  # 2 to 5; 3 adds the CPUID, 5 the mitigation vectors
NO_MIGRATION_AGENT = b"\xff" * 32
HOST_VMPL = 0xFFFFFFFF  # the report was asked for by the host
VMPLS = frozenset({0, 1, 2, 3, HOST_VMPL})

_ECDSA_P384_SHA384 = 1
_SCALAR_SIZE = 72  # bytes of the r and of the s field; the upper 24 are zero
_P384_BYTES = 48

_POLICY_MUST_BE_ONE = 1 << 17
_POLICY_DEFINED = (1 << 26) - 1
_PLATFORM_DEFINED = (1 << 8) - 1
_KEY_INFO_DEFINED = (1 << 5) - 1

SigningKey = Literal["vcek", "vlek", "none"]
_SIGNING_KEYS: dict[int, SigningKey] = {0: "vcek", 1: "vlek", 7: "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestPolicy:
    """What the owner of the guest allowed at launch; the firmware holds the host to it."""

    abi_major: int
    abi_minor: int
    smt_allowed: bool
    migrate_ma: bool  # a migration agent may move the guest's state elsewhere
    debug: bool  # the host may read and write the guest's memory
    single_socket: bool
    cxl_allowed: bool
    mem_aes_256_xts: bool
    rapl_disabled: bool
    ciphertext_hiding_dram: bool
    page_swap_disabled: bool

    @classmethod
    def parse(cls, bits: int) -> GuestPolicy:
        """Read the 64-bit POLICY; raises `MalformedEvidenceError` where a reserved bit is wrong."""
        if bits & ~_POLICY_DEFINED or not bits & _POLICY_MUST_BE_ONE:
            raise MalformedEvidenceError(f"policy is {bits:#x}, expected bit 17 one and bits 63:26 zero")
        return cls(
            abi_major=bits >> 8 & 0xFF,
            abi_minor=bits & 0xFF,
            smt_allowed=_bit(bits, 16),
            migrate_ma=_bit(bits, 18),
            debug=_bit(bits, 19),
            single_socket=_bit(bits, 20),
            cxl_allowed=_bit(bits, 21),
            mem_aes_256_xts=_bit(bits, 22),
            rapl_disabled=_bit(bits, 23),
            ciphertext_hiding_dram=_bit(bits, 24),
            page_swap_disabled=_bit(bits, 25),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformInfo:
    """How the host's platform is set up at the time of the report."""

    smt_enabled: bool
    tsme_enabled: bool
    ecc_enabled: bool
    rapl_disabled: bool
    ciphertext_hiding_dram: bool
    alias_check_complete: bool  # memory was checked for aliases at boot: BadRAM, CVE-2024-21944
    reserved_bit_6: bool  # undocumented, and set on genuine Turin machines: tolerated, and reported by appraisal
    tio_enabled: bool

    @classmethod
    def parse(cls, bits: int) -> PlatformInfo:
        """Read the 64-bit PLATFORM_INFO; raises `MalformedEvidenceError` where one of bits 63:8 is set."""
        if bits & ~_PLATFORM_DEFINED:
            raise MalformedEvidenceError(f"platform info is {bits:#x}, expected bits 63:8 zero")
        return cls(
            smt_enabled=_bit(bits, 0),
            tsme_enabled=_bit(bits, 1),
            ecc_enabled=_bit(bits, 2),
            rapl_disabled=_bit(bits, 3),
            ciphertext_hiding_dram=_bit(bits, 4),
            alias_check_complete=_bit(bits, 5),
            reserved_bit_6=_bit(bits, 6),
            tio_enabled=_bit(bits, 7),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareVersion:
    """Version of the SNP firmware."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        """`1.55.29`."""
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """Fields of one report, unverified: anyone could have written these bytes."""

    version: int  # 2 to 5
    guest_svn: int  # from the ID block; 0 where there was none
    policy: GuestPolicy
    family_id: bytes  # 16 bytes
    image_id: bytes  # 16 bytes
    vmpl: int  # 0 to 3, or HOST_VMPL
    platform_info: PlatformInfo
    author_key_enabled: bool
    mask_chip_key: bool
    signing_key: SigningKey
    report_data: bytes  # 64 bytes, chosen by the guest
    measurement: bytes  # 48 bytes, SHA-384 of the launched image
    host_data: bytes  # 32 bytes, chosen by the host at launch and fixed from then on
    id_key_digest: bytes  # 48 bytes; zero where there was no ID block
    author_key_digest: bytes  # 48 bytes; zero unless `author_key_enabled`
    report_id: bytes  # 32 bytes
    report_id_ma: bytes  # 32 bytes; NO_MIGRATION_AGENT where there is none
    chip_id: bytes  # 64 bytes; zero where the host masks it
    product: Product | None  # by CPUID; None in version 2, which has none
    current_tcb: Tcb
    reported_tcb: Tcb  # the one that the signing key is derived from
    committed_tcb: Tcb  # the firmware cannot be rolled back below it
    launch_tcb: Tcb  # when the guest was launched
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_mitigations: int | None  # bit vector; None before version 5
    current_mitigations: int | None  # bit vector; None before version 5
    signed: bytes  # 672 bytes, what the signature covers
    r: int  # below 2**384
    s: int  # below 2**384

    @classmethod
    def parse(cls, raw: bytes) -> SnpReport:
        """Read one report.

        Args:
            raw: 1184 bytes, as the firmware gave them.

        Raises:
            MalformedEvidenceError: A size, a version, an enumeration or a reserved byte is wrong.
        """
        if len(raw) != REPORT_SIZE:
            raise MalformedEvidenceError(f"report has {len(raw)} bytes, expected {REPORT_SIZE}")
        version = _u32(raw, 0x000)
        if version not in VERSIONS:
            raise MalformedEvidenceError(f"report version is {version}, expected 2 to 5")
        if (algorithm := _u32(raw, 0x034)) != _ECDSA_P384_SHA384:
            raise MalformedEvidenceError(f"signature algorithm is {algorithm}, expected 1 (ECDSA P-384 with SHA-384)")
        if (vmpl := _u32(raw, 0x030)) not in VMPLS:
            raise MalformedEvidenceError(f"VMPL is {vmpl}, expected 0 to 3, or 0xffffffff for the host")
        _check_reserved(raw, version=version)
        author_key_enabled, mask_chip_key, signing_key = _parse_key_info(_u32(raw, 0x048))
        if not author_key_enabled and any(raw[0x110:0x140]):
            raise MalformedEvidenceError("author key digest is set, expected zero as AUTHOR_KEY_EN is 0")
        product = _product(family=raw[0x188], model=raw[0x189]) if version >= 3 else None
        layout = product or "Milan"  # Turin never wrote version 2
        return cls(
            version=version,
            guest_svn=_u32(raw, 0x004),
            policy=GuestPolicy.parse(_u64(raw, 0x008)),
            family_id=raw[0x010:0x020],
            image_id=raw[0x020:0x030],
            vmpl=vmpl,
            platform_info=PlatformInfo.parse(_u64(raw, 0x040)),
            author_key_enabled=author_key_enabled,
            mask_chip_key=mask_chip_key,
            signing_key=signing_key,
            report_data=raw[0x050:0x090],
            measurement=raw[0x090:0x0C0],
            host_data=raw[0x0C0:0x0E0],
            id_key_digest=raw[0x0E0:0x110],
            author_key_digest=raw[0x110:0x140],
            report_id=raw[0x140:0x160],
            report_id_ma=raw[0x160:0x180],
            chip_id=raw[0x1A0:0x1E0],
            product=product,
            current_tcb=Tcb.parse(raw[0x038:0x040], product=layout),
            reported_tcb=Tcb.parse(raw[0x180:0x188], product=layout),
            committed_tcb=Tcb.parse(raw[0x1E0:0x1E8], product=layout),
            launch_tcb=Tcb.parse(raw[0x1F0:0x1F8], product=layout),
            current_version=FirmwareVersion(build=raw[0x1E8], minor=raw[0x1E9], major=raw[0x1EA]),
            committed_version=FirmwareVersion(build=raw[0x1EC], minor=raw[0x1ED], major=raw[0x1EE]),
            launch_mitigations=_u64(raw, 0x1F8) if version >= 5 else None,
            current_mitigations=_u64(raw, 0x200) if version >= 5 else None,
            signed=raw[:SIGNED_SIZE],
            r=_scalar(raw, 0x2A0, name="r"),
            s=_scalar(raw, 0x2E8, name="s"),
        )


def _check_reserved(raw: bytes, *, version: int) -> None:
    """Check every reserved range; the tail of the signature is not signed, so there it also stops malleability."""
    ranges = [
        (0x04C, 0x050),
        (0x188 if version < 3 else 0x18B, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x1F8 if version < 5 else 0x208, 0x2A0),
        (0x330, REPORT_SIZE),
    ]
    for start, end in ranges:
        if any(raw[start:end]):
            raise MalformedEvidenceError(
                f"reserved bytes {start:#x} to {end:#x} are set, expected zero in version {version}"
            )


def _parse_key_info(bits: int) -> tuple[bool, bool, SigningKey]:
    signing_key = _SIGNING_KEYS.get(bits >> 2 & 0b111)
    if bits & ~_KEY_INFO_DEFINED or signing_key is None:
        raise MalformedEvidenceError(f"key info is {bits:#x}, expected signing key 0, 1 or 7 and bits 31:5 zero")
    return _bit(bits, 0), _bit(bits, 1), signing_key


def _product(*, family: int, model: int) -> Product:
    """Return the product line of a CPUID family and model (virtee/sev, `Generation::identify_cpu`)."""
    if family == 0x19 and model <= 0x0F:
        return "Milan"
    if family == 0x19 and (0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF):
        return "Genoa"  # Bergamo and Siena included: they have Genoa's roots
    if family == 0x1A and model <= 0x11:
        return "Turin"
    raise MalformedEvidenceError(
        f"CPUID family {family:#x} model {model:#x} is unknown, expected Milan, Genoa or Turin"
    )


def _scalar(raw: bytes, offset: int, *, name: str) -> int:
    field = raw[offset : offset + _SCALAR_SIZE]
    if any(field[_P384_BYTES:]):
        raise MalformedEvidenceError(f"signature {name} is longer than {_P384_BYTES} bytes, expected zero padding")
    return int.from_bytes(field[:_P384_BYTES], "little")


def _bit(bits: int, position: int) -> bool:
    return bool(bits >> position & 1)


def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")


def _u64(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")
