"""The certificates behind a quote, traced to the pinned Intel root, each in its role.

Two kinds of certificate stand under that root. A PCK signs the quoting enclave of one platform, and every owner of a
platform has one; "Intel SGX TCB Signing" signs what Intel says about platforms. One must never do the other's work: an
owner could then write the collateral that clears their own machine.

Source: Intel "PCK Certificate and Certificate Revocation List Profile Specification".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from attestation.certificates import common_name, is_ca, read_der, split_pem, verify_path
from attestation.errors import EndorsementError, MalformedEvidenceError, RevokedError, SignatureError
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.quote import Quote
from attestation.trust_anchors import TrustAnchor, TrustAnchors

_ROOT_NAME = "Intel SGX Root CA"
_SIGNER_NAME = "Intel SGX TCB Signing"
_PCK_NAME = "Intel SGX PCK Certificate"
_PCK_CA_NAMES = frozenset({"Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"})

# Everything that cryptography raises on a revocation list that it cannot decode.
_DECODE_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedRoot:
    """The root under which everything about a quote stands."""

    anchor: TrustAnchor
    der: bytes


def verify_chains(quote: Quote, collateral: TdxCollateral, *, anchors: TrustAnchors, now: datetime) -> TrustedRoot:
    """Verify the certificates of a quote and of its collateral, and that they are used in their roles.

    1. All chains end in one root, which is pinned.
    2. The PCK chain is a PCK under a PCK authority of Intel's, and holds at `now`.
    3. TCB info and QE identity are each signed by "Intel SGX TCB Signing", directly under the root, holding at `now`.
    4. The quoting enclave's report is signed by this PCK.
    5. No certificate is on the revocation list of its issuer; the lists are signed, complete and in force.

    Args:
        quote: The parsed quote, for its PCK chain and QE report.
        collateral: For the signers' chains and the revocation lists.
        anchors: The pinned roots.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: A certificate or a list does not decode.
        SignatureError: Step 1 to 4.
        EndorsementError: A revocation list is absent or not usable.
        RevokedError: A certificate is on a list.
    """
    pck_chain = _read_chain(quote.pck_chain, what="PCK", size=3)
    signer_chains = (
        _read_chain(collateral.tcb_info_issuer_chain, what="TCB info signer", size=2),
        _read_chain(collateral.qe_identity_issuer_chain, what="QE identity signer", size=2),
    )

    # 1. The root.
    root_der = pck_chain[-1]
    anchor = anchors.find("intel", root_der)
    if any(chain[-1] != root_der for chain in signer_chains):
        raise SignatureError("collateral is signed under another root than the quote, expected one for both")
    root = read_der(root_der, what="Intel root")
    if common_name(root.subject) != _ROOT_NAME:
        raise SignatureError(f"root is {common_name(root.subject) or '?'}, expected {_ROOT_NAME}")

    # 2. The platform's key.
    pck, pck_ca = (read_der(der, what=what) for der, what in zip(pck_chain[:2], ("PCK", "PCK CA"), strict=True))
    if common_name(pck.subject) != _PCK_NAME or common_name(pck_ca.subject) not in _PCK_CA_NAMES or is_ca(pck):
        raise SignatureError(
            f"quote is certified by {common_name(pck.subject) or '?'} under {common_name(pck_ca.subject) or '?'}, "
            f"expected {_PCK_NAME}, an end entity, under {' or '.join(sorted(_PCK_CA_NAMES))}"
        )
    verify_path((pck, pck_ca, root), check_signature=_check_link, now=now)

    # 3. The collateral's signers.
    signers = tuple(read_der(chain[0], what="TCB signer") for chain in signer_chains)
    for signer in signers:
        if common_name(signer.subject) != _SIGNER_NAME or is_ca(signer):
            raise SignatureError(
                f"collateral is signed by {common_name(signer.subject) or '?'}, expected {_SIGNER_NAME}, an end entity"
            )
        verify_path((signer, root), check_signature=_check_link, now=now)

    # 4. The quoting enclave, before revocation: a PCK of another platform is foreign, not badly documented.
    _check_qe_report(quote, pck)

    # 5. Revocation.
    _verify_not_revoked(pck, pck_ca, crl_der=collateral.pck_crl, now=now)
    for certificate in (pck_ca, *signers):
        _verify_not_revoked(certificate, root, crl_der=collateral.root_ca_crl, now=now)
    return TrustedRoot(anchor=anchor, der=root_der)


def _read_chain(pem: bytes, *, what: str, size: int) -> tuple[bytes, ...]:
    chain = split_pem(pem, what=f"{what} chain")
    if len(chain) != size:
        raise SignatureError(f"{what} chain has {len(chain)} certificates, expected {size}, the root last")
    return chain


def _check_link(subject: x509.Certificate, issuer: x509.Certificate) -> None:
    """Verify one signature by Intel's scheme; raises `InvalidSignature` for every other scheme and key too."""
    _p256_key(issuer).verify(subject.signature, subject.tbs_certificate_bytes, ec.ECDSA(SHA256()))


def _p256_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidSignature
    return key


def _check_qe_report(quote: Quote, pck: x509.Certificate) -> None:
    r, s = (int.from_bytes(half, "big") for half in (quote.qe_report_signature[:32], quote.qe_report_signature[32:]))
    try:
        _p256_key(pck).verify(encode_dss_signature(r, s), quote.qe_report, ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise SignatureError("QE report signature does not verify with the platform's PCK") from error


def _verify_not_revoked(
    certificate: x509.Certificate, issuer: x509.Certificate, *, crl_der: bytes, now: datetime
) -> None:
    """Verify that `issuer` has not revoked `certificate`, by a complete list that is in force at `now`."""
    who = common_name(issuer.subject)
    if not crl_der:
        raise EndorsementError(f"revocation list of {who} is absent, expected one: nobody knows what is revoked")
    try:
        crl = x509.load_der_x509_crl(crl_der)
        begins, ends, extensions = crl.last_update_utc, crl.next_update_utc, crl.extensions
        sha256 = isinstance(crl.signature_hash_algorithm, SHA256)
        signed = sha256 and crl.issuer == issuer.subject and crl.is_signature_valid(_p256_key(issuer))
    except _DECODE_ERRORS as error:
        raise MalformedEvidenceError(f"revocation list of {who} does not decode ({error}), expected DER") from error
    if not signed:
        raise EndorsementError(f"revocation list is not signed by {who}, expected its ECDSA P-256 with SHA-256")
    if any(extension.critical for extension in extensions):
        # A partial or indirect list says so in a critical extension; Intel's lists have none.
        raise EndorsementError(f"revocation list of {who} has a critical extension, expected a plain, complete list")
    if ends is None or not begins <= now <= ends:
        raise EndorsementError(
            f"revocation list of {who} holds from {begins} to {ends}, expected {now} to be between",
            hint="fetch the current list from Intel's provisioning certification service",
        )
    if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
        raise RevokedError(f"certificate {common_name(certificate.subject)} is on the revocation list of {who}")
