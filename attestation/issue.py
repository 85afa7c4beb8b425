"""Result first, certificate second: what the service says about a node, and the certificate that carries it.

Both end at the same moment. The certificate names the node by the registry, never by its request, and only a node in the
server role is given a DNS name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation.appraisal import Appraisal
from attestation.claims import Claims
from attestation.core import Purpose
from attestation.errors import AppraisalError, MalformedEvidenceError, UnattestedPeerError
from policies.attestation_result import PROFILE, AttestationResult, Confirmation, sign_result, verify_result
from policies.roster import Role

RESULT_EXTENSION = x509.ObjectIdentifier("2.25.74221293102125946738488971933672088683")  # UUID (X.667); the EAR, ASCII
BACKDATE = timedelta(minutes=5)  # guests' clocks differ


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingContext:
    """What the service adds to a result: who it is, and what is the case right now."""

    issuer: str
    now: datetime
    lifetime: timedelta  # 10 minutes to 24 hours
    revocation_epoch: int


def build_result(
    claims: Claims, appraisal: Appraisal, context: IssuingContext, *, jti: str, purpose: Purpose
) -> AttestationResult:
    """State in one document what was verified and what it was found to be worth.

    Raises:
        AppraisalError: The node is not what the organisations expect; every finding is listed.
    """
    core = claims.core
    if appraisal.status not in {"affirming", "warning"}:
        raise AppraisalError(f"{core.node} is not what the reference values expect", findings=appraisal.findings)
    issued = int(context.now.timestamp())
    return AttestationResult(
        eat_profile=PROFILE,
        iss=context.issuer,
        iat=issued,
        exp=issued + int(context.lifetime.total_seconds()),
        jti=jti,
        eat_nonce=core.nonce,
        purpose=purpose,
        trust_domain=core.td,
        node=core.node,
        role=core.role,
        tier=claims.member.tier,
        organisation=claims.member.organisation,
        boot=core.boot,
        image=claims.cpu.report.measurement,
        reference=appraisal.reference,
        status=appraisal.status,
        submods=appraisal.submods,
        cnf=Confirmation(tls_spki=core.tls_spki, sign_pk=core.sign_pk, hpke_pk=core.hpke_pk),
        revocation_epoch=context.revocation_epoch,
        evidence_sha256=claims.evidence_sha256,
        mock=claims.mock,
    )


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """The key that issues node certificates, and its own certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, name: str, *, now: datetime, lifetime: timedelta) -> CertificateAuthority:
        """Make a self-signed authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @property
    def der(self) -> bytes:
        """The authority's certificate, DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        *,
        names: list[x509.GeneralName],
        not_before: datetime,
        not_after: datetime,
        result: bytes | None = None,
        server: bool,
    ) -> bytes:
        """Return a leaf certificate, PEM.

        Args:
            public_key: Whose possession was proved.
            names: SPIFFE id and, for a server, its DNS name.
            not_before: Start of validity; backdated here.
            not_after: End of validity.
            result: The Attestation Result to carry, or None for who is not attested.
            server: Whether it may answer TLS connections.
        """
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before - BACKDATE)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        if result is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(RESULT_EXTENSION, result), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def issue_certificate(
    authority: CertificateAuthority,
    result: AttestationResult,
    *,
    csr: bytes,
    result_key: Ed25519PrivateKey,
    dns_name: str | None,
) -> tuple[bytes, bytes]:
    """Sign the result, then a certificate that carries it and ends with it.

    Args:
        authority: Of the service.
        result: Built by `build_result`.
        csr: DER; only its key counts, and the verifier has compared that with the evidence.
        result_key: The key that the root pins.
        dns_name: For a node in the server role; None for any other.

    Returns:
        The result as a JWT, and the certificate as PEM.
    """
    token = sign_result(result, result_key)
    key = x509.load_der_x509_csr(csr).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedEvidenceError("the certificate request has another kind of key, expected P-256")
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(spiffe_id(result.trust_domain, result.node, result.role, result.boot))
    ]
    if dns_name is not None:
        names.append(x509.DNSName(dns_name))
    certificate = authority.issue(
        key,
        names=names,
        not_before=datetime.fromtimestamp(result.iat, UTC),
        not_after=datetime.fromtimestamp(result.exp, UTC),
        result=token,
        server=dns_name is not None,
    )
    return token, certificate


def spiffe_id(trust_domain: str, node: str, role: Role, boot: bytes) -> str:
    """How a node's certificate names it."""
    return f"spiffe://{trust_domain}/site/{node}/{role}/{boot.hex()}"


def admin_spiffe_id(trust_domain: str, name: str) -> str:
    """How an administrator's certificate names them."""
    return f"spiffe://{trust_domain}/admin/{name}"


def result_in(certificate: x509.Certificate, result_key: bytes) -> AttestationResult:
    """Return the Attestation Result that a certificate carries, verified under the pinned key.

    Raises:
        UnattestedPeerError: It carries none.
        PolicyError: The one it carries does not verify.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(RESULT_EXTENSION).value
    except x509.ExtensionNotFound as error:
        raise UnattestedPeerError(
            "the certificate carries no Attestation Result",
            hint="certificates for this port come from the attestation service, after attestation",
        ) from error
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise UnattestedPeerError("the certificate's Attestation Result is not of the expected form")
    return verify_result(extension.value, result_key)


def issued_by(certificate: x509.Certificate, authority_der: bytes) -> bool:
    """Whether the authority (DER) itself signed this certificate."""
    try:
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(authority_der))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
