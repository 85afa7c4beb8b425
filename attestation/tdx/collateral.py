"""What Intel says about a platform: TCB info, identity of the quoting enclave, revocation lists and their signers.

Anyone may hand these over; `verify` proves that Intel signed them. This module reads their frame, bounds their size and says
whether they claim to be in force, so that stale collateral is named as such before anything is computed.

Source: Intel PCS API version 4, https://api.portal.trustedservices.intel.com; the frame is `sgx_ql_qve_collateral_t`
as JSON, as `dcap-qvl` and PCCS write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from attestation.errors import EndorsementError, MalformedEvidenceError
from policies.documents import check_strict_json, describe
from policies.errors import MalformedDocumentError

MAX_COLLATERAL_SIZE = 512 * 1024  # bytes; genuine collateral is below 32 KiB

_Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-fA-F]{2})*$")]
_SignatureHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{128}$")]


class _Frame(BaseModel):
    """The nine parts, by the names that PCCS gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    pck_crl_issuer_chain: str
    root_ca_crl: _Hex
    pck_crl: _Hex
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: _SignatureHex
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: _SignatureHex


class _Dated(BaseModel):
    """The times in a body that Intel signs; the rest of the body is for `dcap-qvl`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issued: AwareDatetime = Field(alias="issueDate")
    until: AwareDatetime = Field(alias="nextUpdate")


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxCollateral:
    """Intel's statements about one kind of platform, unverified.

    The issuer chain of the PCK revocation list is not kept: the list is verified with the authority above the PCK itself.
    """

    root_ca_crl: bytes  # DER
    pck_crl: bytes  # DER
    tcb_info_issuer_chain: bytes  # PEM, signer first
    tcb_info: str  # JSON, the exact text that is signed
    tcb_info_signature: bytes  # 64 bytes, r || s big-endian
    qe_identity_issuer_chain: bytes  # PEM, signer first
    qe_identity: str  # JSON, the exact text that is signed
    qe_identity_signature: bytes  # 64 bytes, r || s big-endian

    @classmethod
    def parse(cls, raw: bytes) -> TdxCollateral:
        """Read one set of collateral.

        Args:
            raw: JSON with nine texts; revocation lists and signatures in hex.

        Raises:
            MalformedEvidenceError: Too large, not strict JSON, a part is missing, unknown or of a wrong form.
        """
        if len(raw) > MAX_COLLATERAL_SIZE:
            raise MalformedEvidenceError(f"collateral has {len(raw)} bytes, at most {MAX_COLLATERAL_SIZE} are read")
        try:
            check_strict_json(raw)
            frame = _Frame.model_validate_json(raw)
        except MalformedDocumentError as error:
            raise MalformedEvidenceError(f"collateral is {error}") from error
        except ValidationError as error:
            raise MalformedEvidenceError(f"collateral: {describe(error)}") from error
        return cls(
            root_ca_crl=bytes.fromhex(frame.root_ca_crl),
            pck_crl=bytes.fromhex(frame.pck_crl),
            tcb_info_issuer_chain=frame.tcb_info_issuer_chain.encode(),
            tcb_info=frame.tcb_info,
            tcb_info_signature=bytes.fromhex(frame.tcb_info_signature),
            qe_identity_issuer_chain=frame.qe_identity_issuer_chain.encode(),
            qe_identity=frame.qe_identity,
            qe_identity_signature=bytes.fromhex(frame.qe_identity_signature),
        )

    def check_in_force(self, now: datetime) -> None:
        """Check that TCB info and QE identity were issued, and are not to be replaced yet, at `now`.

        Raises:
            MalformedEvidenceError: One of them is not strict JSON, or has no such times.
            EndorsementError: One of them is not in force.
        """
        for what, text in (("TCB info", self.tcb_info), ("QE identity", self.qe_identity)):
            dated = _read_dated(text, what=what)
            if not dated.issued <= now <= dated.until:
                raise EndorsementError(
                    f"{what} holds from {dated.issued.isoformat()} to {dated.until.isoformat()}, "
                    f"expected {now.isoformat()} to be between",
                    hint="fetch current collateral from Intel's provisioning certification service",
                )


def _read_dated(text: str, *, what: str) -> _Dated:
    raw = text.encode()
    try:
        # Two readers of one JSON text must not find two values: no key may appear twice.
        check_strict_json(raw)
        return _Dated.model_validate_json(raw)
    except MalformedDocumentError as error:
        raise MalformedEvidenceError(f"{what} is {error}") from error
    except ValidationError as error:
        raise MalformedEvidenceError(f"{what}: {describe(error)}") from error
