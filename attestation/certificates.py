"""X.509 for the verifiers of every vendor: read a certificate strictly, walk a chain to its pinned root.

Decides whether bytes are a certificate and whether a path holds at a given time. Which names, keys and extensions a
vendor's certificates must have is the vendor package's business, and so is whether the root is pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from attestation.errors import EndorsementError, MalformedEvidenceError, RevokedError, SignatureError

MAX_CERTIFICATE_SIZE = 16 * 1024  # bytes; genuine ones are below 2.5 KiB
MAX_CHAIN_CERTIFICATES = 8

_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"
_PEM_END = b"-----END CERTIFICATE-----"

# OpenSSL x509_vfy.h: what a verification error says about the revocation list rather than about a certificate.
_CERT_REVOKED = 23
_CRL_ERRORS = frozenset({3, 5, 8, 11, 12, 15, 16, 33, 35, 36, 44, 54})

# Everything that cryptography raises on bytes it cannot decode.
_DECODE_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

CheckSignature = Callable[[x509.Certificate, x509.Certificate], None]  # (subject, issuer); raises InvalidSignature


def read_der(der: bytes, *, what: str) -> x509.Certificate:
    """Read one DER certificate, to the last byte.

    Everything that is decoded on first use is decoded here, so that nothing later fails on the encoding.

    Args:
        der: The certificate and nothing else.
        what: Its name in messages: "VCEK".

    Raises:
        MalformedEvidenceError: Not a certificate, bytes behind it, an extension twice or an unknown kind of key.
    """
    if len(der) > MAX_CERTIFICATE_SIZE:
        raise MalformedEvidenceError(
            f"{what} certificate has {len(der)} bytes, expected at most {MAX_CERTIFICATE_SIZE}"
        )
    try:
        certificate = x509.load_der_x509_certificate(der)
        _decode_everything(certificate)
    except _DECODE_ERRORS as error:
        raise MalformedEvidenceError(f"{what} certificate does not decode ({error}), expected one, in DER") from error
    return certificate


def _decode_everything(certificate: x509.Certificate) -> None:
    certificate.public_key()
    _ = (certificate.extensions, certificate.subject, certificate.issuer, certificate.signature_hash_algorithm)
    _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def split_pem(pem: bytes, *, what: str) -> tuple[bytes, ...]:
    """Return the DER of each certificate of a PEM file, in the order of the file.

    Only certificates and white space are allowed: text between the blocks is where parsers begin to disagree.

    Raises:
        MalformedEvidenceError: Anything else is in the file, or more than 8 certificates are.
    """
    blocks = pem.split(_PEM_END)
    if blocks[-1].strip(b"\r\n\t \0") or len(blocks) - 1 not in range(1, MAX_CHAIN_CERTIFICATES + 1):
        raise MalformedEvidenceError(
            f"{what} has {len(blocks) - 1} PEM certificates and {len(blocks[-1].strip())} bytes behind them, "
            f"expected 1 to {MAX_CHAIN_CERTIFICATES} and none"
        )
    return tuple(_pem_body(block, what=what) for block in blocks[:-1])


def _pem_body(block: bytes, *, what: str) -> bytes:
    head, _, body = block.partition(_PEM_BEGIN)
    if head.strip():
        raise MalformedEvidenceError(f"{what} has text before a certificate, expected only certificates")
    try:
        certificate = x509.load_pem_x509_certificate(_PEM_BEGIN + body + _PEM_END + b"\n")
    except _DECODE_ERRORS as error:
        raise MalformedEvidenceError(f"{what} has a PEM block that does not decode ({error})") from error
    return certificate.public_bytes(Encoding.DER)


def common_name(name: x509.Name) -> str:
    """Return the only common name of a subject or issuer, or "" where there is none or more than one."""
    names = [str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return names[0] if len(names) == 1 else ""


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether the certificate says, in a critical basicConstraints, that it may issue others."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False  # OpenSSL alone would take keyUsage keyCertSign for an answer
    return constraints.critical and constraints.value.ca


def extension_value(certificate: x509.Certificate, oid: str) -> bytes | None:
    """Return the raw value of a private extension, or None where the certificate does not have it."""
    try:
        extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        return None
    return extension.value if isinstance(extension, x509.UnrecognizedExtension) else None


def verify_path(
    chain: Sequence[x509.Certificate],
    *,
    check_signature: CheckSignature,
    now: datetime,
) -> None:
    """Verify that each certificate of a chain is issued by the next, and that all of them are valid at `now`.

    1. Every certificate but the first may issue others, and says so itself.
    2. Every signature verifies under the one scheme that the vendor uses.
    3. OpenSSL walks the path: names, validity, path length, key usage, critical extensions.

    Args:
        chain: Leaf first, the root last; the caller has found the root among its trust anchors.
        check_signature: Verifies one link; OpenSSL alone would accept any scheme it knows.
        now: The time to verify at, with a time zone.

    Raises:
        SignatureError: A step fails; the message names the certificate.
    """
    # 1. Issuers are certificate authorities.
    for certificate in chain[1:]:
        if not is_ca(certificate):
            raise SignatureError(f"certificate {_name(certificate)} issued another, expected basicConstraints CA:TRUE")

    # 2. Signatures, the root's own included: it shows that the pinned root uses the scheme too.
    for subject, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        try:
            check_signature(subject, issuer)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(
                f"signature of certificate {_name(subject)} does not verify with the key of {_name(issuer)}"
            ) from error

    # 3. The path.
    _walk(chain, now=now)


def verify_not_revoked(
    intermediate: x509.Certificate, root: x509.Certificate, *, crl_der: bytes, now: datetime
) -> None:
    """Verify that `root` has not revoked `intermediate`, by a list that is in force at `now`.

    Raises:
        MalformedEvidenceError: The list does not decode.
        EndorsementError: The list is not signed by `root`, does not end, or is not in force at `now`.
        RevokedError: The intermediate is on the list.
    """
    try:
        crl = x509.load_der_x509_crl(crl_der)
        ends = crl.next_update_utc
    except _DECODE_ERRORS as error:
        raise MalformedEvidenceError(f"revocation list does not decode ({error}), expected one DER CRL") from error
    if ends is None:
        # OpenSSL takes a list without an end as good for ever, so an old one could be replayed.
        raise EndorsementError("revocation list has no nextUpdate, expected a time until which it holds")
    _walk((intermediate, root), now=now, crl=crl)


def _walk(
    chain: Sequence[x509.Certificate], *, now: datetime, crl: x509.CertificateRevocationList | None = None
) -> None:
    """Let OpenSSL walk from the first certificate to the last, which it trusts; with `crl`, check the first against it."""
    store = crypto.X509Store()
    try:
        leaf, *intermediates, root = (crypto.X509.from_cryptography(certificate) for certificate in chain)
        store.add_cert(root)
        if crl is not None:
            store.add_crl(crl)
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    except crypto.Error as error:
        raise MalformedEvidenceError("OpenSSL does not read a certificate or list that otherwise decodes") from error
    store.set_time(now.astimezone(UTC))
    try:
        crypto.X509StoreContext(store, leaf, intermediates).verify_certificate()
    except crypto.X509StoreContextError as error:
        code, depth, reason = error.errors
        name = _name(chain[min(depth, len(chain) - 1)])
        if code == _CERT_REVOKED:
            raise RevokedError(f"certificate {name} is on the revocation list of its issuer") from error
        if code in _CRL_ERRORS:
            raise EndorsementError(f"revocation list for {name} is not usable: {reason}") from error
        raise SignatureError(f"certificate path fails at {name}: {reason}") from error


def _name(certificate: x509.Certificate) -> str:
    return common_name(certificate.subject) or certificate.subject.rfc4514_string()
