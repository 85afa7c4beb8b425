"""A Relying Party checks for itself: the service's word is one part of it, and never enough."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from attestation.admission import admit, require_own_nonce
from attestation.binding import peer_nonces_digest
from attestation.errors import AppraisalError, BindingMismatchError, MalformedEvidenceError, UnattestedPeerError
from attestation.issue import CertificateAuthority, spiffe_id
from attestation.keys import BootKeys
from attestation.trust_anchors import TrustAnchors
from policies.attestation_result import sign_result, verify_result
from policies.documents import raw_public_key
from policies.errors import DocumentExpiredError, DocumentSignatureError
from tests.fakes.attestation_service import service
from tests.fakes.trust_domain import (
    ENTRY,
    NOW,
    TRUST_DOMAIN,
    TrustDomain,
    boot_keys,
    domain,
    draft_reference_values,
    keyring,
    signed,
    signing_key,
)

NODE = "hospital-a"
NONCES = (b"\x01" * 32, b"\x02" * 32)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the genuine `hospital-a` shows; its evidence holds two nonces."""
    with service(tmp_path_factory.mktemp("admission")) as running:
        yield running.shown(NODE, core={"peer_nonces": peer_nonces_digest(NONCES)})


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """What `hospital-b` shows."""
    with service(tmp_path_factory.mktemp("admission-other")) as running:
        yield running.shown("hospital-b")


def check(shown, *, node=NODE, role="site", trust=None, accept_mock=True, now=NOW):
    return admit(shown, node=node, role=role, trust=trust or domain().trust, accept_mock=accept_mock, now=now)


def result_of(shown):
    return verify_result(shown.result, raw_public_key(keyring().result))


def reissued(shown, *, token=None, keys=None, authority=None, result_key=None, **changes):
    """Let a service that was taken over say something else of the same evidence, and certify it."""
    result = result_of(shown).model_copy(update=changes)
    signed_result = token or sign_result(result, result_key or keyring().result)
    certificate = (authority or keyring().authority).issue(
        (keys or boot_keys(NODE)).tls.public_key(),
        names=[x509.UniformResourceIdentifier(spiffe_id(TRUST_DOMAIN, result.node, result.role, result.boot))],
        not_before=NOW,
        not_after=NOW + timedelta(minutes=30),
        result=signed_result,
        server=False,
    )
    return replace(shown, result=signed_result, certificate=certificate)


def test_genuine_node_is_admitted_with_its_organisation(shown):
    admitted = check(shown)
    assert (admitted.organisation, admitted.result) == ("north", result_of(shown))
    assert admitted.certificate_pem == shown.certificate
    assert check(reissued(shown)).claims == admitted.claims


# --- the result ------------------------------------------------------------------------------------------------------


def test_result_that_another_key_signed_is_refused(shown):
    with pytest.raises(DocumentSignatureError):
        check(reissued(shown, result_key=signing_key("other")))


@pytest.mark.parametrize("minutes", [-6, 30])
def test_result_that_is_not_current_is_refused(shown, minutes):
    with pytest.raises(DocumentExpiredError):
        check(shown, now=NOW + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"node": "hospital-b"}, "node of the result is hospital-b"),
        ({"role": "server"}, "role of the result is server"),
    ],
)
def test_result_about_somebody_else_is_refused(shown, change, said):
    with pytest.raises(UnattestedPeerError, match=said):
        check(reissued(shown, **change))


@pytest.mark.parametrize(("who", "said"), [({"node": "hospital-b"}, "node is"), ({"role": "server"}, "role is")])
def test_node_is_not_admitted_as_another(shown, who, said):
    with pytest.raises(UnattestedPeerError, match=f"^{said}"):
        check(shown, **who)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evidence_sha256": bytes(32)}, "evidence of the result"),
        ({"boot": bytes(16)}, "boot of the result"),
    ],
)
def test_result_of_other_evidence_is_refused(shown, change, said):
    with pytest.raises(BindingMismatchError, match=said):
        check(reissued(shown, **change))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tls_spki", bytes(32), "TLS key of the result"),
        ("sign_pk", bytes(32), "signing key of the result"),
        ("hpke_pk", bytes(1216), "HPKE key of the result"),
    ],
)
def test_result_that_confirms_a_key_which_the_evidence_does_not_bind_is_refused(shown, field, value, said):
    cnf = result_of(shown).cnf.model_copy(update={field: value})
    with pytest.raises(BindingMismatchError, match=said):
        check(reissued(shown, cnf=cnf))


# --- the evidence ----------------------------------------------------------------------------------------------------


def test_evidence_that_is_malformed_is_refused(shown):
    with pytest.raises(MalformedEvidenceError):
        check(replace(shown, attestation=b""))


def test_evidence_of_another_node_is_refused(shown, other):
    with pytest.raises(UnattestedPeerError, match="node is hospital-b"):
        check(replace(shown, attestation=other.attestation))


def test_evidence_is_verified_again_and_not_taken_on_the_services_word(shown):
    altered = shown.attestation.replace(b'"v":1', b'"v":1 ')
    with pytest.raises(MalformedEvidenceError):
        check(replace(shown, attestation=altered))


def test_node_is_appraised_by_its_readers_own_reference_values(shown):
    entry = ENTRY.model_copy(update={"snp": ENTRY.snp.model_copy(update={"snp": 0xFF})})
    stricter = TrustDomain(reference_values=signed(draft_reference_values(entries=(entry,)), "reference-values"))
    with pytest.raises(AppraisalError, match="hospital-a is not what the reference values expect"):
        check(shown, trust=stricter.trust)


def test_genuine_evidence_is_admitted_by_who_does_not_accept_a_mock(shown):
    anchors = TrustAnchors(tuple(replace(anchor, mock=False) for anchor in domain().trust.anchors.anchors))
    admitted = check(shown, trust=replace(domain().trust, anchors=anchors), accept_mock=False)
    assert not admitted.claims.mock


def test_mock_evidence_is_refused_by_who_does_not_accept_it(shown):
    with pytest.raises(UnattestedPeerError, match="hospital-a has mock evidence"):
        check(shown, accept_mock=False)


# --- the certificate -------------------------------------------------------------------------------------------------


def test_certificate_that_cannot_be_read_is_refused(shown):
    with pytest.raises(UnattestedPeerError, match="cannot be read"):
        check(replace(shown, certificate=b"no certificate"))


def test_certificate_of_another_authority_is_refused(shown):
    stranger = CertificateAuthority.create("node authority", now=NOW, lifetime=timedelta(days=1))
    with pytest.raises(UnattestedPeerError, match="was not issued by the authority that the root pins"):
        check(reissued(shown, authority=stranger))


def test_certificate_that_carries_another_result_is_refused(shown):
    with pytest.raises(UnattestedPeerError, match="carries another result than the one shown"):
        check(replace(shown, certificate=reissued(shown, jti="1" * 32).certificate))


def test_certificate_for_another_key_is_refused(shown):
    with pytest.raises(BindingMismatchError, match="key of the certificate"):
        check(replace(shown, certificate=reissued(shown, keys=BootKeys.generate()).certificate))


# --- freshness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", NONCES)
def test_evidence_that_holds_the_readers_own_nonce_is_fresh(shown, own):
    require_own_nonce(check(shown), NONCES, own=own)


def test_evidence_without_the_readers_own_nonce_may_be_old(shown):
    with pytest.raises(BindingMismatchError, match="does not hold this reader's nonce"):
        require_own_nonce(check(shown), NONCES, own=b"\x03" * 32)


@pytest.mark.parametrize("nonces", [(), NONCES[:1], (*NONCES, b"\x03" * 32)])
def test_list_of_nonces_that_is_not_the_one_in_the_evidence_is_refused(shown, nonces):
    with pytest.raises(BindingMismatchError, match="digest of the peers' nonces"):
        require_own_nonce(check(shown), nonces, own=NONCES[0])
