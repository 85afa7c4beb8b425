"""What `dcap-qvl` decides about a quote, as types and errors of this package.

`dcap-qvl` verifies the signature of the report, the identity of the quoting enclave, the signatures of the collateral, and
matches the platform with Intel's TCB levels. It says what is wrong as text: this module turns the text into the error of
the right kind. A text that is not in the table is a signature that does not verify; nothing is ever passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from dcap_qvl import (  # type: ignore[import-untyped]  # the package has stubs for its core only, and no py.typed
    QuoteCollateralV3,
    QuotePolicy,
    QuoteVerifier,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from attestation.errors import (
    AppraisalError,
    AttestationError,
    EndorsementError,
    MalformedEvidenceError,
    SignatureError,
)
from attestation.findings import Finding
from attestation.tdx.collateral import TdxCollateral
from policies.documents import describe

TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]
Flag = Literal["True", "False", "Undefined"]  # as the PCK certificate says; Undefined under a processor's authority

# Beginnings of the messages of dcap-qvl 0.7.0: the collateral is not of this platform or not of this time.
_ENDORSEMENT = (
    "CrlExpired",
    "Failed to parse PCK CRL",
    "Failed to parse root CA CRL",
    "Fmspc mismatch",
    "No TCB levels found",
    "QE Identity expired",
    "QE Identity issue date",
    "SGX component count mismatch",
    "TCBInfo expired",
    "TCBInfo issue date",
    "TDX component count mismatch",
    "TDX quote with non-TDX TCB info",
    "Unsupported QE Identity",
)
# A part of the quote or of the collateral does not follow Intel's format.
_MALFORMED = ("Failed to decode", "Invalid QE auth data", "Invalid TCB level", "Unrecognized TCB status")
# (beginning, claim, what was found, what was expected): the quote is genuine, and no policy can want it.
_APPRAISAL = (
    ("Debug mode", "td_attributes.debug", "on", "off"),
    ("Failed to evaluate the current TDX TCB", "tee_tcb_svn_2", "below every level of the TCB info", "a listed level"),
    ("Invalid MR service TD", "mr_service_td", "set", "zero, no service"),
    ("No matching TCB level", "tcb_level", "below every level of the TCB info", "a listed level"),
    ("QE ISVSVN", "qe.isv_svn", "below every level of the QE identity", "a listed level"),
    ("Reserved bits in TD", "td_attributes.reserved", "set", "zero"),
    ("SEPT_VE_DISABLE", "td_attributes.sept_ve_disable", "off", "on"),
    ("SERVTD_EXT", "td_attributes.servtd_ext", "on", "off"),
    ("TCB status is invalid", "tcb_status", "Revoked", "UpToDate"),
    ("TD migration", "td_attributes.migratable", "on", "off"),
    ("TD profiling", "td_attributes.profiling", "on", "off"),
    ("TDX module TCB level", "tdx_module.isv_svn", "below every level of the TCB info", "a listed level"),
    ("TDX module identity", "tdx_module", "of another signer or in a debug mode", "Intel's, in production"),
)


class _Lenient(BaseModel):
    """Part of the claims that dcap-qvl writes; what is not read here is read from the quote itself."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Status(_Lenient):
    status: TcbStatus
    advisory_ids: list[str]
    eval_data_number: int


class _Level(_Lenient):
    tcbStatus: TcbStatus  # noqa: N815 - Intel's key


class _Pck(_Lenient):
    ppid: list[int]
    fmspc: list[int]
    pce_id: list[int]
    platform_instance_id: list[int] | None
    dynamic_platform: Flag
    cached_keys: Flag
    smt_enabled: Flag


class _Platform(_Lenient):
    pck: _Pck
    current_tcb_level: _Level | None


class _Qe(_Lenient):
    tcb_eval_data_number: int


class _TcbInfo(_Lenient):
    pceId: str  # noqa: N815 - Intel's key


class _Claims(_Lenient):
    tcb: _Status
    platform: _Platform
    qe: _Qe


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPlatform:
    """What Intel's certificate says about the machine."""

    ppid: bytes  # 16 bytes, names the processor package
    platform_instance_id: bytes | None  # 16 bytes; None under a processor's authority
    fmspc: bytes  # 6 bytes: family, model, stepping, platform and SKU
    pce_id: bytes  # 2 bytes: the enclave that certified the quoting enclave
    dynamic_platform: Flag  # packages can be added to it
    cached_keys: Flag  # its keys are also kept by Intel's registration service
    smt_enabled: Flag


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbClaims:
    """How the platform stands among Intel's TCB levels."""

    status: TcbStatus  # the worst of platform, TDX module and quoting enclave
    current_status: TcbStatus | None  # by the TDX module that runs now; None in TDX 1.0
    advisory_ids: frozenset[str]  # "INTEL-SA-00837"
    evaluation_data_number: int  # the lower one of TCB info and QE identity; Intel raises it with each TCB recovery


def verify_quote(
    quote: bytes, collateral: TdxCollateral, *, root_der: bytes, now: datetime
) -> tuple[TdxPlatform, TcbClaims]:
    """Verify one quote by `dcap-qvl`, with no policy but its own fixed refusals.

    Args:
        quote: The quote without padding; bytes behind its end would pass unseen.
        collateral: What Intel says about the platform.
        root_der: The root that was found among the trust anchors.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: The collateral does not follow Intel's format.
        SignatureError: The quote or its collateral is not signed, or the quoting enclave is not Intel's.
        EndorsementError: The collateral is not of this platform or not in force.
        AppraisalError: The quote is genuine, of a trust domain or platform that no policy can want.
    """
    now_secs = int(now.timestamp())
    try:
        verified = QuoteVerifier(root_der).verify_with_policy(
            quote, _to_dcap(collateral), now_secs, QuotePolicy.claims_only(now_secs)
        )
    except ValueError as error:
        raise _translate(str(error)) from error
    try:
        platform, tcb = _read_claims(verified.to_json())
        tcb_info = _TcbInfo.model_validate_json(collateral.tcb_info)
    except ValidationError as error:  # a word that Intel invented since: nobody has decided what it means
        raise EndorsementError(f"collateral says what this verifier does not know: {describe(error)}") from error
    if tcb_info.pceId.lower() != platform.pce_id.hex():
        # dcap-qvl compares the FMSPC only; Intel keeps TCB info by both.
        raise EndorsementError(f"TCB info is for PCE {tcb_info.pceId}, expected {platform.pce_id.hex()}")
    return platform, tcb


def _to_dcap(collateral: TdxCollateral) -> QuoteCollateralV3:
    return QuoteCollateralV3(
        pck_crl_issuer_chain="",  # not read: the list is verified with the authority above the PCK
        root_ca_crl=collateral.root_ca_crl,
        pck_crl=collateral.pck_crl,
        tcb_info_issuer_chain=collateral.tcb_info_issuer_chain.decode(),
        tcb_info=collateral.tcb_info,
        tcb_info_signature=collateral.tcb_info_signature,
        qe_identity_issuer_chain=collateral.qe_identity_issuer_chain.decode(),
        qe_identity=collateral.qe_identity,
        qe_identity_signature=collateral.qe_identity_signature,
    )


def _translate(text: str) -> AttestationError:
    """Return the error that a message of dcap-qvl stands for."""
    message = text.removeprefix("Verification failed: ")
    for beginning, field, found, expected in _APPRAISAL:
        if message.startswith(beginning):
            finding = Finding(
                field=f"tdx.{field}",
                found=found,
                expected=expected,
                status="contraindicated",
                repair="launch the trust domain on an up-to-date platform, without debug, migration and services",
            )
            return AppraisalError("quote", findings=(finding,))
    if message.startswith(_ENDORSEMENT):
        return EndorsementError(
            f"collateral does not hold for this quote: {message}",
            hint="fetch current collateral for this platform from Intel's provisioning certification service",
        )
    if message.startswith(_MALFORMED):
        return MalformedEvidenceError(f"quote or collateral does not decode: {message}")
    return SignatureError(f"quote does not verify: {message}")


def _read_claims(text: str) -> tuple[TdxPlatform, TcbClaims]:
    claims = _Claims.model_validate_json(text)
    pck, current = claims.platform.pck, claims.platform.current_tcb_level
    platform = TdxPlatform(
        ppid=bytes(pck.ppid),
        platform_instance_id=None if pck.platform_instance_id is None else bytes(pck.platform_instance_id),
        fmspc=bytes(pck.fmspc),
        pce_id=bytes(pck.pce_id),
        dynamic_platform=pck.dynamic_platform,
        cached_keys=pck.cached_keys,
        smt_enabled=pck.smt_enabled,
    )
    tcb = TcbClaims(
        status=claims.tcb.status,
        current_status=None if current is None else current.tcbStatus,
        advisory_ids=frozenset(claims.tcb.advisory_ids),
        evaluation_data_number=min(claims.tcb.eval_data_number, claims.qe.tcb_eval_data_number),
    )
    return platform, tcb
