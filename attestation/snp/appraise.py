"""Claims of an SNP guest against what a policy asks: every finding, worst first; and the binding to this session.

Some things no policy can allow, so they have no field: a guest that its host may debug, and one that a migration agent
may move. Everything else is asked in `SnpExpectations`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from attestation.errors import BindingMismatchError
from attestation.findings import Finding, FindingStatus, worst_first
from attestation.snp.chain import VekKind
from attestation.snp.report import NO_MIGRATION_AGENT, SnpReport
from attestation.snp.tcb import Product, Tcb
from attestation.snp.verify import SnpClaims


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpExpectations:
    """What a policy asks of a guest and its platform.

    Fields without a default must be written out: None says in so many words that nothing is asked. An empty set accepts
    nothing.
    """

    measurements: frozenset[bytes] | None  # 48 bytes each: the launch digests that are accepted
    host_data: bytes | None  # 32 bytes: the digest of the guest's init data
    min_tcb: Tcb | None  # holds for the reported, committed and launch TCB
    chip_ids: frozenset[bytes] | None  # 64 bytes each; the zero of a masked chip never matches
    products: frozenset[Product] | None = None
    id_key_digest: bytes | None = None  # 48 bytes
    author_key_digest: bytes | None = None  # 48 bytes
    signing_keys: frozenset[VekKind] = frozenset({"vcek"})
    vlek_csps: frozenset[str] = frozenset()  # the cloud providers whose VLEK is accepted
    vmpl: int = 0
    min_report_version: int = 3
    min_guest_svn: int = 0
    alias_check_complete: bool = True  # False: not asked
    ciphertext_hiding: bool = False  # False: not asked
    allow_smt: bool = True
    launch_mitigations: int = 0  # bit mask that must be set in the vector at launch
    current_mitigations: int = 0  # bit mask that must be set in the vector now


def verify_binding(claims: SnpClaims, report_data: bytes) -> None:
    """Verify that the report was made for this session.

    Args:
        claims: The verified report.
        report_data: 64 bytes, what this session expects.

    Raises:
        BindingMismatchError: Another value; compared in constant time.
    """
    if not hmac.compare_digest(claims.report.report_data, report_data):
        raise BindingMismatchError(
            f"report data is {claims.report.report_data.hex()}, expected {report_data.hex()}",
            hint="the evidence was made for another session or another key; attest again",
        )


def appraise(claims: SnpClaims, expectations: SnpExpectations) -> tuple[Finding, ...]:
    """Return everything about the guest that the policy does not want, worst first; nothing where it is all well."""
    findings = [
        *_appraise_guest(claims.report, expectations),
        *_appraise_identity(claims.report, expectations),
        *_appraise_firmware(claims.report, expectations),
        *_appraise_platform(claims.report, expectations),
        *_appraise_hardware(claims, expectations),
    ]
    return worst_first(findings)


def _appraise_guest(report: SnpReport, asked: SnpExpectations) -> Iterator[Finding]:
    """How the guest was launched."""
    if report.policy.debug:
        yield _finding("policy.debug", "on", "off", "launch the guest without the debug policy bit")
    if report.policy.migrate_ma or report.report_id_ma != NO_MIGRATION_AGENT:
        yield _finding("policy.migrate_ma", "on", "off, no agent", "launch the guest without a migration agent")
    if report.vmpl != asked.vmpl:
        repair = f"ask for the report at VMPL {asked.vmpl}"
        yield _finding("vmpl", str(report.vmpl), str(asked.vmpl), repair)
    if report.guest_svn < asked.min_guest_svn:
        repair = "launch a newer image"
        yield _finding("guest_svn", str(report.guest_svn), f"at least {asked.min_guest_svn}", repair)


def _appraise_identity(report: SnpReport, asked: SnpExpectations) -> Iterator[Finding]:
    """What was launched, with which data, signed by whom."""
    if asked.measurements is not None and report.measurement not in asked.measurements:
        expected = " or ".join(sorted(measurement.hex() for measurement in asked.measurements)) or "none at all"
        repair = "launch an approved image, or have this one approved"
        yield _finding("measurement", report.measurement.hex(), expected, repair)
    digests = (
        ("host_data", report.host_data, asked.host_data, "launch with the init data that was registered"),
        ("id_key_digest", report.id_key_digest, asked.id_key_digest, "sign the ID block with the approved key"),
        ("author_key_digest", report.author_key_digest, asked.author_key_digest, "use the approved author key"),
    )
    for field, found, expected_digest, repair in digests:
        if expected_digest is not None and found != expected_digest:
            yield _finding(field, found.hex(), expected_digest.hex(), repair)


def _appraise_firmware(report: SnpReport, asked: SnpExpectations) -> Iterator[Finding]:
    """Which firmware the guest was launched on, runs on and could be moved back to."""
    if report.version < asked.min_report_version:
        repair = "update the platform's SNP firmware"
        yield _finding("report_version", str(report.version), f"at least {asked.min_report_version}", repair)
    if asked.min_tcb is not None:
        # Reported alone is not enough: the host can hot-update firmware under a guest that was launched on a
        # vulnerable one, and can roll back as far as the committed TCB.
        tcbs = (("reported", report.reported_tcb), ("committed", report.committed_tcb), ("launch", report.launch_tcb))
        for name, tcb in tcbs:
            if not tcb.at_least(asked.min_tcb):
                repair = "update and commit the platform's firmware, then launch the guest anew"
                yield _finding(f"{name}_tcb", str(tcb), f"at least {asked.min_tcb}", repair)
    vectors = (
        ("launch_mitigations", report.launch_mitigations, asked.launch_mitigations),
        ("current_mitigations", report.current_mitigations, asked.current_mitigations),
    )
    for field, vector, mask in vectors:
        if (vector or 0) & mask != mask:
            found = "absent" if vector is None else f"{vector:#x}"
            repair = "update the platform's firmware and launch the guest anew"
            yield _finding(field, found, f"all bits of {mask:#x}", repair)


def _appraise_platform(report: SnpReport, asked: SnpExpectations) -> Iterator[Finding]:
    """How the host's platform is set up."""
    platform = report.platform_info
    if asked.alias_check_complete and not platform.alias_check_complete:
        repair = "update the platform's firmware (AMD-SB-3015) and restart the host"
        yield _finding("platform.alias_check_complete", "off", "on", repair)
    if asked.ciphertext_hiding and not (platform.ciphertext_hiding_dram and report.policy.ciphertext_hiding_dram):
        repair = "enable ciphertext hiding on the host and ask for it in the guest's policy"
        yield _finding("platform.ciphertext_hiding_dram", "off", "on, and in the guest's policy", repair)
    if platform.smt_enabled and not asked.allow_smt:
        yield _finding("platform.smt", "on", "off", "switch SMT off in the host's BIOS")
    if platform.reserved_bit_6:
        repair = "none: AMD does not document the bit; genuine Turin machines set it"
        yield _finding("platform.reserved_bit_6", "on", "off", repair, status="warning")


def _appraise_hardware(claims: SnpClaims, asked: SnpExpectations) -> Iterator[Finding]:
    """Whose hardware it is."""
    if asked.products is not None and claims.product not in asked.products:
        yield _finding("product", claims.product, _any_of(asked.products), "use a processor that the policy lists")
    if claims.signing_key not in asked.signing_keys:
        repair = "have reports signed by a key that the policy lists"
        yield _finding("signing_key", claims.signing_key, _any_of(asked.signing_keys), repair)
    elif claims.signing_key == "vlek" and claims.csp_id not in asked.vlek_csps:
        repair = "list the cloud provider in the policy"
        yield _finding("csp_id", str(claims.csp_id), _any_of(asked.vlek_csps), repair)
    if asked.chip_ids is not None and (not any(claims.chip_id) or claims.chip_id not in asked.chip_ids):
        repair = "enrol this machine's chip"
        yield _finding("chip_id", claims.chip_id.hex(), f"one of {len(asked.chip_ids)} enrolled chips", repair)


def _finding(
    field: str, found: str, expected: str, repair: str, *, status: FindingStatus = "contraindicated"
) -> Finding:
    return Finding(field=f"snp.{field}", found=found, expected=expected, status=status, repair=repair)


def _any_of(names: frozenset[Product] | frozenset[VekKind] | frozenset[str]) -> str:
    return " or ".join(sorted(names)) or "none at all"
