"""Claims of a trust domain against what a policy asks: every finding, worst first; and the binding to this session.

Some things no policy can allow, so they have no field: a trust domain that its host may debug, that may be migrated, that a
service is bound to, that the host can surprise with an exception on its own pages, or that runs on a module that is not
Intel's. `dcap-qvl` refuses them too; a claim that says them is refused here by itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from attestation.errors import BindingMismatchError
from attestation.findings import Finding, FindingStatus, worst_first
from attestation.tdx.dcap import TcbClaims, TcbStatus, TdxPlatform
from attestation.tdx.report import AttributeName, TdReport
from attestation.tdx.verify import TdxClaims

AcceptableStatus = Literal[  # OutOfDate and Revoked are not among them: no policy accepts known holes
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
]

XFAM_REQUIRED = 0b11  # x87 and SSE; Intel TDX Module 1.5 Base Architecture Specification, "XFAM": fixed to one
XFAM_DEFINED = 0x6DBE7  # every state component that a trust domain may use


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxExpectations:
    """What a policy asks of a trust domain and its platform.

    Fields without a default must be written out: None says in so many words that nothing is asked. An empty set accepts
    nothing.
    """

    mr_tds: frozenset[bytes] | None  # 48 bytes each: the initial memories that are accepted
    mr_config_id: bytes | None  # 48 bytes: the digest of the guest's init data
    ppids: frozenset[bytes] | None  # 16 bytes each: the processors that are enrolled
    min_tcb_evaluation_data_number: int  # older collateral may still be in force and knows fewer holes; 0: not asked
    statuses: frozenset[AcceptableStatus] = frozenset({"UpToDate"})
    denied_advisories: frozenset[str] = frozenset()  # refused even under a status that is accepted
    rtmr0: frozenset[bytes] | None = None  # 48 bytes each: firmware configuration
    rtmr1: frozenset[bytes] | None = None  # kernel and boot loader
    rtmr2: frozenset[bytes] | None = None  # kernel command line and initial RAM disk
    rtmr3: frozenset[bytes] | None = None  # what the workload measured
    mr_owner: bytes | None = None  # 48 bytes
    mr_owner_config: bytes | None = None  # 48 bytes
    mr_seams: frozenset[bytes] | None = None  # 48 bytes each: the builds of the TDX module that are accepted
    xfams: frozenset[int] | None = None  # 64 bits each: processor state, which an image needs exactly
    attributes: frozenset[AttributeName] | None = None  # exactly these are on
    forbidden_attributes: frozenset[AttributeName] = frozenset({"perfmon", "pks"})
    allow_smt: bool = True
    allow_dynamic_platform: bool = True
    allow_cached_keys: bool = True


def verify_binding(claims: TdxClaims, report_data: bytes) -> None:
    """Verify that the quote was made for this session.

    Args:
        claims: The verified quote.
        report_data: 64 bytes, what this session expects.

    Raises:
        BindingMismatchError: Another value; compared in constant time.
    """
    if not hmac.compare_digest(claims.report.report_data, report_data):
        raise BindingMismatchError(
            f"report data is {claims.report.report_data.hex()}, expected {report_data.hex()}",
            hint="the evidence was made for another session or another key; attest again",
        )


def appraise(claims: TdxClaims, expectations: TdxExpectations) -> tuple[Finding, ...]:
    """Return everything about the trust domain that the policy does not want, worst first; nothing where it is all well."""
    findings = [
        *_appraise_domain(claims.report, expectations),
        *_appraise_module(claims.report, expectations),
        *_appraise_identity(claims.report, expectations),
        *_appraise_tcb(claims.tcb, expectations),
        *_appraise_platform(claims.platform, expectations),
    ]
    return worst_first(findings)


def _appraise_domain(report: TdReport, asked: TdxExpectations) -> Iterator[Finding]:
    """How the trust domain was launched."""
    on = report.attributes
    forbidden: frozenset[AttributeName] = asked.forbidden_attributes | {"debug", "migratable"}
    for name in sorted(on & forbidden):
        yield _finding(f"td_attributes.{name}", "on", "off", f"launch the trust domain without {name}")
    if "sept_ve_disable" not in on:
        repair = "launch the trust domain with SEPT_VE_DISABLE"
        yield _finding("td_attributes.sept_ve_disable", "off", "on", repair)
    if asked.attributes is not None and on != asked.attributes:
        yield _finding("td_attributes", _all_of(on), _all_of(asked.attributes), "launch with the approved attributes")
    if report.xfam & XFAM_REQUIRED != XFAM_REQUIRED or report.xfam & ~XFAM_DEFINED:
        expected = f"both bits of {XFAM_REQUIRED:#x} and none outside {XFAM_DEFINED:#x}"
        yield _finding("xfam", f"{report.xfam:#x}", expected, "launch with processor state that Intel defines")
    if asked.xfams is not None and report.xfam not in asked.xfams:
        expected = " or ".join(f"{xfam:#x}" for xfam in sorted(asked.xfams)) or "none at all"
        yield _finding("xfam", f"{report.xfam:#x}", expected, "launch with the approved processor state")
    if any(report.mr_service_td or b""):
        repair = "launch the trust domain without a service trust domain"
        yield _finding("mr_service_td", (report.mr_service_td or b"").hex(), "zero, no service", repair)


def _appraise_module(report: TdReport, asked: TdxExpectations) -> Iterator[Finding]:
    """Which TDX module launched it, and which one runs it now."""
    if any(report.mr_signer_seam) or any(report.seam_attributes):
        found = f"signer {report.mr_signer_seam.hex()}, attributes {report.seam_attributes.hex()}"
        yield _finding("tdx_module", found, "zero both, Intel's in production", "load Intel's TDX module")
    if asked.mr_seams is not None and report.mr_seam not in asked.mr_seams:
        yield _finding("mr_seam", report.mr_seam.hex(), _digests(asked.mr_seams), "load an approved TDX module")
    now = report.tee_tcb_svn_2
    if now is not None and any(own < launch for own, launch in zip(now, report.tee_tcb_svn, strict=True)):
        # A module is replaced under running trust domains, by a newer one; an older one is a rollback.
        expected = f"at least {report.tee_tcb_svn.hex()} in each byte, as at launch"
        yield _finding("tee_tcb_svn_2", now.hex(), expected, "update the TDX module, then launch anew")


def _appraise_identity(report: TdReport, asked: TdxExpectations) -> Iterator[Finding]:
    """What was launched, with which data, and what it loaded since."""
    sets = (
        ("mr_td", report.mr_td, asked.mr_tds),
        ("rtmr0", report.rtmrs[0], asked.rtmr0),
        ("rtmr1", report.rtmrs[1], asked.rtmr1),
        ("rtmr2", report.rtmrs[2], asked.rtmr2),
        ("rtmr3", report.rtmrs[3], asked.rtmr3),
        ("mr_config_id", report.mr_config_id, _only(asked.mr_config_id)),
        ("mr_owner", report.mr_owner, _only(asked.mr_owner)),
        ("mr_owner_config", report.mr_owner_config, _only(asked.mr_owner_config)),
    )
    for field, found, accepted in sets:
        if accepted is not None and found not in accepted:
            repair = "launch an approved image with the registered init data, or have this one approved"
            yield _finding(field, found.hex(), _digests(accepted), repair)


def _appraise_tcb(tcb: TcbClaims, asked: TdxExpectations) -> Iterator[Finding]:
    """How the platform's firmware stands among Intel's levels, at launch and now."""
    statuses: list[tuple[str, TcbStatus]] = [("tcb_status", tcb.status)]
    if tcb.current_status is not None:
        statuses.append(("current_tcb_status", tcb.current_status))
    for field, status in statuses:
        advisories = f" ({', '.join(sorted(tcb.advisory_ids))})" if tcb.advisory_ids else ""
        repair = "update the platform's firmware, microcode and TDX module, then launch anew"
        if status not in asked.statuses:
            yield _finding(field, status + advisories, _any_of(asked.statuses), repair)
        elif status != "UpToDate":
            yield _finding(field, status + advisories, "UpToDate", repair, status="warning")
    if denied := sorted(tcb.advisory_ids & asked.denied_advisories):
        yield _finding("advisory_ids", ", ".join(denied), "none that the policy denies", "install Intel's mitigation")
    if tcb.evaluation_data_number < asked.min_tcb_evaluation_data_number:
        repair = "fetch current collateral from Intel's provisioning certification service"
        expected = f"at least {asked.min_tcb_evaluation_data_number}"
        yield _finding("tcb_evaluation_data_number", str(tcb.evaluation_data_number), expected, repair)


def _appraise_platform(platform: TdxPlatform, asked: TdxExpectations) -> Iterator[Finding]:
    """Whose hardware it is, and how it is set up."""
    if asked.ppids is not None and platform.ppid not in asked.ppids:
        expected = f"one of {len(asked.ppids)} enrolled processors"
        yield _finding("ppid", platform.ppid.hex(), expected, "enrol this machine's processor")
    flags = (
        ("smt", platform.smt_enabled, asked.allow_smt),
        ("dynamic_platform", platform.dynamic_platform, asked.allow_dynamic_platform),
        ("cached_keys", platform.cached_keys, asked.allow_cached_keys),
    )
    for field, value, allowed in flags:
        if value != "False" and not allowed:  # Undefined is not a no
            yield _finding(f"platform.{field}", value, "False", f"use a platform that is certified without {field}")


def _finding(
    field: str, found: str, expected: str, repair: str, *, status: FindingStatus = "contraindicated"
) -> Finding:
    return Finding(field=f"tdx.{field}", found=found, expected=expected, status=status, repair=repair)


def _only(digest: bytes | None) -> frozenset[bytes] | None:
    return None if digest is None else frozenset({digest})


def _digests(accepted: frozenset[bytes]) -> str:
    return " or ".join(sorted(digest.hex() for digest in accepted)) or "none at all"


def _any_of(names: frozenset[AcceptableStatus]) -> str:
    return " or ".join(sorted(names)) or "none at all"


def _all_of(names: frozenset[AttributeName]) -> str:
    return ", ".join(sorted(names)) or "none"
