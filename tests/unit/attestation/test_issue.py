"""Result first, certificate second; both end together, and neither names what was not verified."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.appraisal import appraise
from attestation.errors import AppraisalError, MalformedEvidenceError, UnattestedPeerError
from attestation.issue import (
    BACKDATE,
    RESULT_EXTENSION,
    CertificateAuthority,
    IssuingContext,
    admin_spiffe_id,
    build_result,
    issue_certificate,
    issued_by,
    result_in,
    spiffe_id,
)
from attestation.verifier import verify_attestation
from policies.attestation_result import verify_result
from policies.documents import raw_public_key
from policies.errors import DocumentSignatureError
from tests.fakes.drafts import draft_result
from tests.fakes.trust_domain import (
    NOW,
    TRUST_DOMAIN,
    admin_authority,
    boot_keys,
    domain,
    draft_reference_values,
    keyring,
    signing_key,
)

RESULT_KEY = raw_public_key(keyring().result)
CONTEXT = IssuingContext(
    issuer=f"attestation.{TRUST_DOMAIN}", now=NOW, lifetime=timedelta(minutes=30), revocation_epoch=7
)


def issue(*, dns_name=None, csr=None, **changes):
    result = draft_result(**changes)
    token, pem = issue_certificate(
        keyring().authority,
        result,
        csr=csr or boot_keys("hospital-a").csr(),
        result_key=keyring().result,
        dns_name=dns_name,
    )
    return token, x509.load_pem_x509_certificate(pem)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind).value


# --- the result ------------------------------------------------------------------------------------------------------


def test_result_says_what_was_verified():
    claims = verify_attestation(domain().attestation("hospital-a"), trust=domain().trust, now=NOW)
    appraisal = appraise(claims, domain().trust.reference_values)
    result = build_result(claims, appraisal, CONTEXT, jti="a" * 32, purpose="release")
    core, issued = claims.core, int(NOW.timestamp())
    assert (result.iat, result.exp, result.revocation_epoch, result.jti) == (issued, issued + 1800, 7, "a" * 32)
    assert (result.node, result.role, result.tier, result.organisation) == ("hospital-a", "site", "attested", "north")
    assert (result.eat_nonce, result.boot, result.trust_domain) == (core.nonce, core.boot, TRUST_DOMAIN)
    assert (result.cnf.tls_spki, result.cnf.sign_pk, result.cnf.hpke_pk) == (core.tls_spki, core.sign_pk, core.hpke_pk)
    assert (result.image, result.evidence_sha256) == (claims.cpu.report.measurement, claims.evidence_sha256)
    assert (result.status, result.mock, result.purpose, result.reference) == ("warning", True, "release", "release-1")


def test_no_result_is_built_about_a_node_that_is_not_what_is_expected():
    claims = verify_attestation(domain().attestation("hospital-a"), trust=domain().trust, now=NOW)
    entry = draft_reference_values().entries[0].model_copy(update={"image": bytes(48)})
    appraisal = appraise(claims, draft_reference_values(entries=(entry,)))
    with pytest.raises(AppraisalError, match="hospital-a is not what the reference values expect") as caught:
        build_result(claims, appraisal, CONTEXT, jti="a" * 32, purpose="issue")
    assert caught.value.findings == appraisal.findings


# --- the certificate -------------------------------------------------------------------------------------------------


def test_certificate_carries_the_result_and_ends_with_it():
    token, certificate = issue()
    assert verify_result(token, RESULT_KEY) == draft_result()
    assert result_in(certificate, RESULT_KEY) == draft_result()
    assert certificate.not_valid_after_utc == datetime.fromtimestamp(draft_result().exp, UTC)
    assert certificate.not_valid_before_utc == NOW - BACKDATE
    assert issued_by(certificate, keyring().authority.der)
    assert certificate.public_key() == boot_keys("hospital-a").tls.public_key()


def test_certificate_names_the_node_of_the_result_whatever_its_request_says():
    key = boot_keys("hospital-a").tls
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("server.example")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    _, certificate = issue(csr=csr)
    expected = [x509.UniformResourceIdentifier(spiffe_id(TRUST_DOMAIN, "hospital-a", "site", bytes(16)))]
    assert list(extension(certificate, x509.SubjectAlternativeName)) == expected
    assert list(certificate.subject) == []


@pytest.mark.parametrize(
    ("dns_name", "usages"),
    [
        (None, [ExtendedKeyUsageOID.CLIENT_AUTH]),
        ("server.server.test", [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
    ],
)
def test_only_who_has_a_dns_name_may_answer_connections(dns_name, usages):
    _, certificate = issue(dns_name=dns_name)
    names = extension(certificate, x509.SubjectAlternativeName).get_values_for_type(x509.DNSName)
    assert names == ([dns_name] if dns_name else [])
    assert list(extension(certificate, x509.ExtendedKeyUsage)) == usages


def test_leaf_may_sign_data_and_no_certificates():
    _, certificate = issue()
    assert not extension(certificate, x509.BasicConstraints).ca
    usage = extension(certificate, x509.KeyUsage)
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)


def test_authority_may_sign_leaves_and_nothing_else():
    certificate = keyring().authority.certificate
    assert extension(certificate, x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(certificate, x509.KeyUsage)
    assert (usage.digital_signature, usage.key_cert_sign) == (False, True)


def test_request_for_a_key_of_another_kind_is_malformed():
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = request.sign(signing_key("other"), None).public_bytes(Encoding.DER)
    with pytest.raises(MalformedEvidenceError, match="expected P-256"):
        issue(csr=csr)


# --- reading it ------------------------------------------------------------------------------------------------------


def test_certificate_without_a_result_is_of_nobody_who_attested():
    pem = admin_authority().issue(
        boot_keys("admin").tls.public_key(),
        names=[x509.UniformResourceIdentifier(admin_spiffe_id(TRUST_DOMAIN, "admin"))],
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
        server=False,
    )
    with pytest.raises(UnattestedPeerError, match="carries no Attestation Result"):
        result_in(x509.load_pem_x509_certificate(pem), RESULT_KEY)


def test_result_that_another_key_signed_is_refused():
    _, certificate = issue()
    with pytest.raises(DocumentSignatureError):
        result_in(certificate, raw_public_key(signing_key("other")))


def test_certificate_was_issued_by_who_signed_it_alone():
    _, certificate = issue()
    same_name = CertificateAuthority.create("node authority", now=NOW, lifetime=timedelta(days=1))
    assert not issued_by(certificate, same_name.der)
    assert not issued_by(certificate, admin_authority().der)


SHA256_WITH_ECDSA = bytes.fromhex("2a8648ce3d040302")


@pytest.mark.parametrize("last", [0x7F, 0x04])
def test_certificate_with_another_signature_algorithm_was_not_issued_by_the_authority(last):
    _, certificate = issue()
    der = certificate.public_bytes(Encoding.DER).replace(SHA256_WITH_ECDSA, SHA256_WITH_ECDSA[:-1] + bytes([last]))
    assert not issued_by(x509.load_der_x509_certificate(der), keyring().authority.der)


P256 = bytes.fromhex("2a8648ce3d030107")


def x25519_authority():
    """An authority with the right name, and a key that signs nothing."""
    authority = keyring().authority
    return (
        x509.CertificateBuilder()
        .subject_name(authority.certificate.subject)
        .issuer_name(authority.certificate.subject)
        .public_key(X25519PrivateKey.generate().public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(authority.key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


@pytest.mark.parametrize(
    "authority",
    [b"no certificate", keyring().authority.der.replace(P256, P256[:-1] + b"\x7f"), x25519_authority()],
    ids=["no certificate", "unknown curve", "X25519"],
)
def test_authority_whose_key_signs_nothing_has_issued_nothing(authority):
    _, certificate = issue()
    assert not issued_by(certificate, authority)


def test_extension_has_the_number_that_readers_look_for():
    _, certificate = issue()
    assert certificate.extensions.get_extension_for_oid(RESULT_EXTENSION).critical is False


def test_keys_of_a_boot_are_p256():
    assert isinstance(boot_keys("hospital-a").tls.curve, ec.SECP256R1)
