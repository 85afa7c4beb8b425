"""Whether NVIDIA has revoked a certificate: signed answers of its OCSP responder, checked offline.

Decides whether an answer is about this certificate, by somebody whom its issuer appointed, in force, and what it says.
Fetching it is not part of this module. A certificate without an answer is an error, never "not revoked".

Source: RFC 6960; NVIDIA nvtrust, which names certificates by SHA-384 and asks about all but a device's leaf and the root.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from attestation.certificates import common_name, is_ca
from attestation.errors import (
    EndorsementError,
    EndorsementUnavailableError,
    MalformedEvidenceError,
    RevokedError,
)
from attestation.nvidia_gpu.chain import check_signature, may_sign

MAX_RESPONSE_SIZE = 16 * 1024  # bytes; genuine ones are below 1.1 KiB

_DECODE_ERRORS = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)
_RETRY = frozenset({ocsp.OCSPResponseStatus.TRY_LATER, ocsp.OCSPResponseStatus.INTERNAL_ERROR})


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """What the issuer's responder says about one certificate: usable."""

    serial_number: int
    status: Literal["good", "hold"]  # hold: revoked for the time being, and the caller allows that
    this_update: datetime
    next_update: datetime  # the answer may be used before this time


def verify_status(
    response: bytes,
    *,
    subject: x509.Certificate,
    issuer: x509.Certificate,
    nonce: bytes | None,
    allow_hold: bool,
    now: datetime,
) -> CertificateStatus:
    """Verify one OCSP response.

    1. It decodes, and is an answer and not a refusal.
    2. It is about `subject`, named by SHA-384 of its issuer's name and key, and by its serial number.
    3. It is signed by `issuer`, or by a responder that `issuer` certified for OCSP, valid at `now`.
    4. It is in force at `now`, and says until when.
    5. It answers to the nonce, if one was sent.
    6. The certificate is good.

    Args:
        response: OCSPResponse, DER.
        subject: The certificate in question, whose path to a pinned root is verified.
        issuer: The next certificate of that path.
        nonce: What the request held, or None where the request held none; NVIDIA's responder then sends none.
        allow_hold: Whether a certificate on hold is usable.
        now: The time to verify at, with a time zone.

    Raises:
        MalformedEvidenceError: It does not decode.
        EndorsementUnavailableError: The responder asks to try later.
        EndorsementError: The responder refuses, or step 2 to 5.
        RevokedError: Step 6.
    """
    # 1. Decode.
    answer = _read(response)

    # 2. The certificate.
    _require_subject(answer, subject, issuer)

    # 3. The responder.
    _require_signature(answer, _responder(answer, issuer, now=now))

    # 4. Time.
    starts, ends = answer.this_update_utc, answer.next_update_utc
    if ends is None or not starts <= now < ends:
        raise EndorsementError(f"OCSP response holds from {starts} to {ends}, expected a time around {now}")

    # 5. Nonce.
    if nonce is not None and not hmac.compare_digest(_nonce(answer), nonce):
        raise EndorsementError(f"OCSP response has nonce {_nonce(answer).hex() or 'none'}, expected {nonce.hex()}")

    # 6. Status.
    return CertificateStatus(
        serial_number=subject.serial_number,
        status=_status(answer, _name(subject), allow_hold=allow_hold),
        this_update=starts,
        next_update=ends,
    )


def verify_statuses(
    chain: Sequence[x509.Certificate], responses: Sequence[bytes], *, allow_hold: bool, now: datetime
) -> tuple[CertificateStatus, ...]:
    """Verify that no certificate of a verified path is revoked; each needs an answer, but the root.

    The root is pinned: whoever revokes it takes its fingerprint away. A device's leaf has no status either, since the
    device made it: pass `claims.chain[1:]`. Of several answers about one certificate, all must hold.

    Args:
        chain: Subject first, the root last.
        responses: OCSP responses to requests without a nonce, in any order.
        allow_hold: Whether certificates on hold are usable.
        now: The time to verify at, with a time zone.

    Returns:
        One status for each certificate but the root, in the order of the chain.

    Raises:
        EndorsementUnavailableError: A certificate has no answer.
        AttestationError: As `verify_status`.
    """
    by_serial: dict[int, list[bytes]] = {}
    for response in responses:
        by_serial.setdefault(_read(response).serial_number, []).append(response)
    statuses = []
    for subject, issuer in pairwise(chain):
        answers = by_serial.get(subject.serial_number, [])
        if not answers:
            raise EndorsementUnavailableError(f"no OCSP response about {_name(subject)}, expected one")
        verified = [
            verify_status(answer, subject=subject, issuer=issuer, nonce=None, allow_hold=allow_hold, now=now)
            for answer in answers
        ]
        statuses.append(verified[-1])
    return tuple(statuses)


def _read(response: bytes) -> ocsp.OCSPResponse:
    """Decode a response that is an answer, with everything that would be decoded on first use."""
    if len(response) > MAX_RESPONSE_SIZE:
        raise MalformedEvidenceError(f"OCSP response has {len(response)} bytes, expected at most {MAX_RESPONSE_SIZE}")
    try:
        answer = ocsp.load_der_ocsp_response(response)
        status = answer.response_status
        if status is ocsp.OCSPResponseStatus.SUCCESSFUL:
            # Properties about "the" certificate raise where there is none or more than one.
            _ = (answer.serial_number, answer.hash_algorithm, answer.issuer_name_hash, answer.issuer_key_hash)
            _ = (answer.certificate_status, answer.revocation_reason, answer.this_update_utc, answer.next_update_utc)
            _ = (answer.extensions, answer.single_extensions, answer.signature_hash_algorithm, answer.responder_name)
            _ = [(item.extensions, item.public_key(), item.subject, item.issuer) for item in answer.certificates]
    except _DECODE_ERRORS as error:
        raise MalformedEvidenceError(f"OCSP response does not decode ({error}), expected one certificate's") from error
    if status in _RETRY:
        raise EndorsementUnavailableError(f"OCSP responder answers {status.name}, expected SUCCESSFUL")
    if status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise EndorsementError(f"OCSP responder answers {status.name}, expected SUCCESSFUL")
    return answer


def _require_subject(answer: ocsp.OCSPResponse, subject: x509.Certificate, issuer: x509.Certificate) -> None:
    if not isinstance(answer.hash_algorithm, SHA384):
        raise EndorsementError(f"OCSP response names its certificate by {answer.hash_algorithm.name}, expected sha384")
    found = (answer.issuer_name_hash, answer.issuer_key_hash, answer.serial_number)
    name = hashlib.sha384(issuer.subject.public_bytes()).digest()
    key = hashlib.sha384(_key_bits(issuer)).digest()
    if found != (name, key, subject.serial_number):
        raise EndorsementError(
            f"OCSP response is about serial number {answer.serial_number:x}, expected {subject.serial_number:x} "
            f"({_name(subject)}) of {_name(issuer)}"
        )


def _key_bits(certificate: x509.Certificate) -> bytes:
    """Return the content of subjectPublicKey: the point, uncompressed. Paths are on P-384 throughout."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EndorsementError(f"key of {_name(certificate)} is not on a curve, expected ECDSA P-384")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _responder(answer: ocsp.OCSPResponse, issuer: x509.Certificate, *, now: datetime) -> x509.Certificate:
    """Return the certificate that the response is signed with: the issuer's, or a delegate's that the issuer signed."""
    if _is_named(answer, issuer):
        return issuer
    named = [certificate for certificate in answer.certificates if _is_named(answer, certificate)]
    if len(named) != 1:
        raise EndorsementError(f"OCSP response carries {len(named)} certificates of its responder, expected one")
    delegate = named[0]
    if delegate.issuer != issuer.subject or is_ca(delegate) or not _may_answer(delegate):
        raise EndorsementError(
            f"{_name(delegate)} of {_name_of(delegate.issuer)} signs OCSP responses, "
            f"expected a certificate for OCSP signing of {_name(issuer)}"
        )
    try:
        _require_scheme(delegate.signature_algorithm_oid)
        check_signature(delegate, issuer)
    except InvalidSignature as error:
        raise EndorsementError(f"OCSP responder {_name(delegate)} is not certified by {_name(issuer)}") from error
    if not delegate.not_valid_before_utc <= now <= delegate.not_valid_after_utc:
        raise EndorsementError(f"OCSP responder {_name(delegate)} is not valid at {now}")
    return delegate


def _is_named(answer: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if answer.responder_name is not None:
        return answer.responder_name == certificate.subject
    # RFC 6960 section 4.2.1 names keys by SHA-1. It only chooses the certificate; the signature decides.
    return answer.responder_key_hash == hashlib.sha1(_key_bits(certificate), usedforsecurity=False).digest()


def _may_answer(delegate: x509.Certificate) -> bool:
    """RFC 6960 section 4.2.2.2: appointed for OCSP by the issuer, and for nothing else here."""
    usages = {
        oid
        for extension in delegate.extensions
        if isinstance(extension.value, x509.ExtendedKeyUsage)
        for oid in extension.value
    }
    has_usage = any(isinstance(extension.value, x509.KeyUsage) for extension in delegate.extensions)
    return ExtendedKeyUsageOID.OCSP_SIGNING in usages and (not has_usage or may_sign(delegate))


def _require_signature(answer: ocsp.OCSPResponse, responder: x509.Certificate) -> None:
    critical = [item.oid.dotted_string for item in (*answer.extensions, *answer.single_extensions) if item.critical]
    if critical:
        raise EndorsementError(f"OCSP response has critical extensions {critical}, expected none")
    key = responder.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise EndorsementError(
            f"OCSP responder {_name(responder)} has a key that is not on P-384, expected ECDSA P-384"
        )
    try:
        _require_scheme(answer.signature_algorithm_oid)
        key.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise EndorsementError(f"OCSP response does not verify with the key of {_name(responder)}") from error


def _require_scheme(named: x509.ObjectIdentifier) -> None:
    """Raise where the algorithm that is named, outside of what is signed, is not the one that is verified with."""
    if named != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise InvalidSignature(f"algorithm {named.dotted_string}, expected ECDSA with SHA-384")


def _nonce(answer: ocsp.OCSPResponse) -> bytes:
    """Return the nonce of the response, or nothing where it has none."""
    return next((item.value.nonce for item in answer.extensions if isinstance(item.value, x509.OCSPNonce)), b"")


def _status(answer: ocsp.OCSPResponse, name: str, *, allow_hold: bool) -> Literal["good", "hold"]:
    if answer.certificate_status is ocsp.OCSPCertStatus.GOOD:
        return "good"
    if answer.certificate_status is not ocsp.OCSPCertStatus.REVOKED:
        raise EndorsementError(f"OCSP responder does not know {name}, expected an answer about it")
    on_hold = answer.revocation_reason is x509.ReasonFlags.certificate_hold
    if on_hold and allow_hold:
        return "hold"
    reason = answer.revocation_reason.value if answer.revocation_reason is not None else "no reason given"
    raise RevokedError(f"certificate {name} is revoked since {answer.revocation_time_utc}: {reason}, expected good")


def _name(certificate: x509.Certificate) -> str:
    return _name_of(certificate.subject)


def _name_of(name: x509.Name) -> str:
    return common_name(name) or name.rfc4514_string()
