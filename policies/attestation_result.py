"""The Attestation Result: what the Verifier says about a node, and everybody else reads.

An EAR (draft-ietf-rats-ear) as a JWT, signed with EdDSA by a key that the reader has pinned; the header names no key and no
address. There is no maintained Python library for EAR, hence this small model.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, model_validator

from policies.documents import Document, Ed25519Key, Name, Sha256, Sha384, check_strict_json, key_id, raw_public_key
from policies.errors import DocumentExpiredError, DocumentSignatureError, MalformedDocumentError
from policies.grant import HardwareId
from policies.roster import Role, Tier

PROFILE: Literal["tag:cloister,2026:ear/1"] = "tag:cloister,2026:ear/1"
MAX_BYTES = 8 * 1024  # what the certificate extension carries
SKEW_SECONDS = 300

Status = Literal["affirming", "warning", "contraindicated", "none"]
ORDER: tuple[Status, ...] = ("affirming", "warning", "contraindicated", "none")  # best first


def worst(statuses: tuple[Status, ...]) -> Status:
    """The worst of some statuses; `none` where nothing was appraised."""
    return max(statuses, key=ORDER.index) if statuses else "none"


class TrustVector(Document):
    """AR4SI claims of one component; each is appraised, or `none` where the component has no such thing.

    Source: draft-ietf-rats-ar4si, section 2.3
    """

    instance_identity: Status
    configuration: Status
    executables: Status
    hardware: Status
    runtime_opaque: Status

    @property
    def status(self) -> Status:
        """The worst appraised claim; `none` if nothing was appraised."""
        appraised = tuple(value for value in self.model_dump().values() if value != "none")
        return worst(appraised)


class Submodule(Document):
    """The appraisal of one component: `cpu0`, `gpu0`, ..."""

    status: Status
    trust_vector: TrustVector
    hardware: HardwareId
    advisories: tuple[str, ...] = Field(max_length=64)  # each finding that is a warning, in words


class Confirmation(Document):
    """The keys that were bound in the evidence: whoever holds them is the node this result is about (RFC 7800)."""

    tls_spki: Sha256  # SHA-256 of the SubjectPublicKeyInfo of the TLS key
    sign_pk: Ed25519Key
    hpke_pk: bytes = Field(min_length=1216, max_length=1216)  # MLKEM768_X25519: 1184 || 32


class AttestationResult(Document):
    """A signed statement of the Verifier, valid only together with possession of the confirmed keys."""

    eat_profile: Literal["tag:cloister,2026:ear/1"]
    iss: str
    iat: int
    exp: int
    jti: str = Field(pattern=r"^[0-9a-f]{32}$")
    eat_nonce: bytes = Field(min_length=32, max_length=32)
    purpose: Literal["issue", "release"]
    trust_domain: Name
    node: Name
    role: Role
    tier: Tier
    organisation: Name
    boot: bytes = Field(min_length=16, max_length=16)
    image: Sha384
    reference: str  # name of the compound reference entry that matched as a whole
    status: Status
    submods: dict[str, Submodule] = Field(min_length=1, max_length=17)
    cnf: Confirmation
    revocation_epoch: int = Field(ge=0)
    evidence_sha256: Sha256  # of the attestation as it travelled: the archive keeps it under this name
    mock: bool  # true where a development trust anchor verified any of the evidence

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.status != worst(tuple(part.status for part in self.submods.values())):
            raise ValueError("status is not the worst of the submodules")
        if self.mock and self.status == "affirming":
            raise ValueError("mock evidence is never affirming")
        if self.mock and not self.trust_domain.endswith(".mock"):
            raise ValueError("mock evidence in a trust domain that does not end in .mock")
        if self.exp <= self.iat:
            raise ValueError("expires before it is issued")
        return self

    def require_current(self, now: datetime) -> None:
        """Raise `DocumentExpiredError` unless `now` lies between issue (less 5 minutes) and expiry."""
        seconds = now.timestamp()
        if seconds < self.iat - SKEW_SECONDS:
            raise DocumentExpiredError(f"Attestation Result {self.jti} was issued at {self.iat}, it is {int(seconds)}")
        if seconds >= self.exp:
            raise DocumentExpiredError(f"Attestation Result {self.jti} expired at {self.exp}, it is {int(seconds)}")


def sign_result(result: AttestationResult, key: Ed25519PrivateKey) -> bytes:
    """Return the result as a compact JWT (ASCII bytes)."""
    signed = _base64url(_header(raw_public_key(key))) + b"." + _base64url(result.encode())
    return signed + b"." + _base64url(key.sign(signed))


def verify_result(token: bytes, result_key: bytes) -> AttestationResult:
    """Return the result that `result_key` (raw Ed25519, pinned by the root) signed. Expiry is for `require_current`.

    Raises:
        MalformedDocumentError: Not a compact JWT of this profile, or larger than 8 KiB.
        DocumentSignatureError: Another algorithm or key, or the signature does not hold.
    """
    if len(token) > MAX_BYTES:
        raise MalformedDocumentError(f"Attestation Result has {len(token)} bytes, at most {MAX_BYTES} are read")
    parts = token.split(b".")
    if len(parts) != 3:
        raise MalformedDocumentError(f"Attestation Result has {len(parts)} parts, expected 3")
    header, payload, signature = (_unbase64url(part) for part in parts)
    if header != _header(result_key):  # the whole header is fixed: no other algorithm, key, type or extension exists
        raise DocumentSignatureError(
            f"Attestation Result has header {check_strict_json(header)}, expected EdDSA by key {key_id(result_key)}"
        )
    try:
        Ed25519PublicKey.from_public_bytes(result_key).verify(signature, parts[0] + b"." + parts[1])
    except InvalidSignature as error:
        raise DocumentSignatureError("the signature of the Attestation Result does not hold") from error
    return AttestationResult.parse(payload)


def _header(result_key: bytes) -> bytes:
    return b'{"alg":"EdDSA","kid":"%b","typ":"ear+jwt"}' % key_id(result_key).encode()


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unbase64url(text: bytes) -> bytes:
    try:
        raw = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise MalformedDocumentError(f"not base64url: {error}") from error
    if _base64url(raw) != text:
        raise MalformedDocumentError("base64url is not canonical")
    return raw
