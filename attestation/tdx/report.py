"""The body of a TDX quote: what the TDX module says about one trust domain, 584 or 648 bytes to fields.

Decides whether the bytes follow the format, undefined attribute bits included. Who signed them is decided in `verify`,
and whether anybody wants such a trust domain in `appraise`.

Source: Intel TDX Module 1.5 ABI Specification, "TDREPORT_STRUCT" and "ATTRIBUTES"; Intel TDX DCAP Quoting Library API,
appendix 3. Integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attestation.errors import MalformedEvidenceError

TD_10_SIZE = 584  # bytes: TDX 1.0
TD_15_SIZE = 648  # bytes: TDX 1.5 appends TEE_TCB_SVN_2 and MRSERVICETD
DIGEST_SIZE = 48  # bytes, SHA-384

AttributeName = Literal["debug", "lass", "sept_ve_disable", "migratable", "pks", "kl", "tpa", "perfmon"]

ATTRIBUTE_BITS: Mapping[AttributeName, int] = {
    "debug": 0,  # the host may read and write the trust domain's memory
    "lass": 27,  # linear address space separation
    "sept_ve_disable": 28,  # the host cannot raise #VE in the guest by taking away one of its pages
    "migratable": 29,  # a migration trust domain may move its state elsewhere
    "pks": 30,  # supervisor protection keys
    "kl": 31,  # key locker
    "tpa": 62,  # provisioning agent of TDX Connect
    "perfmon": 63,  # performance counters
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """Fields of one report, unverified: anyone could have written these bytes."""

    tee_tcb_svn: bytes  # 16 bytes: module version, module major, loader; at launch of the trust domain
    mr_seam: bytes  # 48 bytes, SHA-384 of the TDX module
    mr_signer_seam: bytes  # 48 bytes; zero for a module of Intel's
    seam_attributes: bytes  # 8 bytes; zero for a production module
    attributes: frozenset[AttributeName]  # those that are on
    xfam: int  # 64 bits: the extended processor state that the trust domain may use
    mr_td: bytes  # 48 bytes, SHA-384 of the initial memory
    mr_config_id: bytes  # 48 bytes, chosen by the host at launch and fixed from then on
    mr_owner: bytes  # 48 bytes, likewise
    mr_owner_config: bytes  # 48 bytes, likewise
    rtmrs: tuple[bytes, bytes, bytes, bytes]  # 48 bytes each: run-time measurements 0 to 3
    report_data: bytes  # 64 bytes, chosen by the guest
    tee_tcb_svn_2: bytes | None  # 16 bytes: the module that runs now; None in TDX 1.0
    mr_service_td: bytes | None  # 48 bytes: the service bound to it; None in TDX 1.0

    @classmethod
    def parse(cls, raw: bytes) -> TdReport:
        """Read one report.

        Args:
            raw: 584 bytes (TDX 1.0) or 648 bytes (TDX 1.5).

        Raises:
            MalformedEvidenceError: Another size, or an attribute bit that is not defined.
        """
        if len(raw) not in (TD_10_SIZE, TD_15_SIZE):
            raise MalformedEvidenceError(f"TD report has {len(raw)} bytes, expected {TD_10_SIZE} or {TD_15_SIZE}")
        extended = len(raw) == TD_15_SIZE
        return cls(
            tee_tcb_svn=raw[0:16],
            mr_seam=raw[16:64],
            mr_signer_seam=raw[64:112],
            seam_attributes=raw[112:120],
            attributes=parse_attributes(int.from_bytes(raw[120:128], "little")),
            xfam=int.from_bytes(raw[128:136], "little"),
            mr_td=raw[136:184],
            mr_config_id=raw[184:232],
            mr_owner=raw[232:280],
            mr_owner_config=raw[280:328],
            rtmrs=(raw[328:376], raw[376:424], raw[424:472], raw[472:520]),
            report_data=raw[520:584],
            tee_tcb_svn_2=raw[584:600] if extended else None,
            mr_service_td=raw[600:648] if extended else None,
        )


def parse_attributes(bits: int) -> frozenset[AttributeName]:
    """Read TDATTRIBUTES; raises `MalformedEvidenceError` where a bit is set that Intel does not define.

    Bits 7:1 say that the trust domain is under test or profiled, and are undefined here on purpose.
    """
    names = frozenset(name for name, bit in ATTRIBUTE_BITS.items() if bits >> bit & 1)
    if unknown := bits & ~sum(1 << ATTRIBUTE_BITS[name] for name in names):
        raise MalformedEvidenceError(f"TD attributes are {bits:#x}, expected bits {unknown:#x} to be zero")
    return names
