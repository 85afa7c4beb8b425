"""Who is calling, read from the certificate of each call."""

import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.channel.caller import Administrator, AttestedPeer, CallerPolicy, identify
from attestation.errors import ReattestError, UnattestedPeerError
from attestation.issue import CertificateAuthority, admin_spiffe_id, spiffe_id
from attestation.keys import BootKeys
from policies.attestation_result import Confirmation, sign_result
from policies.errors import DocumentExpiredError, DocumentSignatureError
from tests.fakes.drafts import draft_part, draft_result
from tests.fakes.trust_domain import NOW, TRUST_DOMAIN, admin_authority, boot_keys, domain, keyring, signing_key

KEYS = boot_keys("hospital-a")
HOUR = timedelta(hours=1)
CONFIRMED = Confirmation(tls_spki=KEYS.tls_spki, sign_pk=KEYS.sign_pk, hpke_pk=KEYS.sealing.public)
NODE_URI = spiffe_id(TRUST_DOMAIN, "hospital-a", "site", bytes(16))


def token_of(*, result_key=None, **changes):
    return sign_result(draft_result(**({"cnf": CONFIRMED} | changes)), result_key or keyring().result)


def issue(*, authority=None, uris=(NODE_URI,), names=None, token=None, keys=KEYS, until=NOW + HOUR):
    """Issue what the service might: genuine, but for what is said otherwise."""
    return (authority or keyring().authority).issue(
        keys.tls.public_key(),
        names=[x509.UniformResourceIdentifier(uri) for uri in uris] if names is None else names,
        not_before=NOW,
        not_after=until,
        result=token if token is not None else token_of(),
        server=False,
    )


def administrator(uri, **how):
    pem = admin_authority().issue(
        KEYS.tls.public_key(),
        names=[x509.UniformResourceIdentifier(uri)],
        not_before=NOW,
        not_after=NOW + HOUR,
        server=False,
    )
    return call(pem, **how)


def call(pem, *, accept_mock=True, epoch=0, now=NOW):
    policy = CallerPolicy(root=domain().trust.root, revocation_epoch=lambda: epoch, accept_mock=accept_mock)
    return identify(pem, policy, now=now)


def test_node_is_known_by_the_result_in_its_certificate():
    peer = call(issue())
    assert isinstance(peer, AttestedPeer)
    assert (peer.name, peer.tls_spki) == ("hospital-a", KEYS.tls_spki)
    assert peer.result == draft_result(cnf=CONFIRMED)


def test_administrator_is_known_by_name():
    assert administrator(admin_spiffe_id(TRUST_DOMAIN, "admin")) == Administrator(name="admin")


# --- time ------------------------------------------------------------------------------------------------------------


def test_certificate_that_has_ended_is_refused():
    pem = issue(until=NOW + timedelta(minutes=1))
    assert call(pem, now=NOW + timedelta(seconds=59))
    with pytest.raises(ReattestError, match="the certificate ended at"):
        call(pem, now=NOW + timedelta(minutes=1))


def test_certificate_of_an_administrator_ends_too():
    with pytest.raises(ReattestError, match="the certificate ended at"):
        administrator(admin_spiffe_id(TRUST_DOMAIN, "admin"), now=NOW + HOUR)


def test_certificate_that_outlives_its_result_is_refused():
    with pytest.raises(DocumentExpiredError, match="expired at"):
        call(issue(), now=NOW + timedelta(minutes=31))


def test_result_of_an_earlier_revocation_epoch_must_be_renewed():
    assert call(issue(token=token_of(revocation_epoch=3)), epoch=3)
    with pytest.raises(ReattestError, match="earlier revocation epoch"):
        call(issue(token=token_of(revocation_epoch=2)), epoch=3)


# --- issuers ---------------------------------------------------------------------------------------------------------


def test_certificate_of_another_authority_is_refused():
    stranger = CertificateAuthority.create("node authority", now=NOW, lifetime=HOUR)
    with pytest.raises(UnattestedPeerError, match="was not issued by the attestation service"):
        call(issue(authority=stranger))


def test_authority_of_administrators_cannot_issue_a_node():
    with pytest.raises(UnattestedPeerError, match=r"may issue .*/admin/NAME only"):
        call(issue(authority=admin_authority()))


def test_authority_of_nodes_cannot_issue_an_administrator():
    with pytest.raises(UnattestedPeerError, match=r"the certificate names .*/admin/admin, its Attestation Result"):
        call(issue(uris=[admin_spiffe_id(TRUST_DOMAIN, "admin")]))


def test_result_that_another_key_signed_is_refused():
    with pytest.raises(DocumentSignatureError):
        call(issue(token=token_of(result_key=signing_key("other"))))


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uris", [(NODE_URI, NODE_URI), (NODE_URI, admin_spiffe_id(TRUST_DOMAIN, "admin"))])
def test_certificate_with_more_than_one_name_is_refused(uris):
    with pytest.raises(UnattestedPeerError, match="carries 2 SPIFFE ids, expected 1"):
        call(issue(uris=uris))


def test_certificate_with_a_dns_name_alone_is_refused():
    with pytest.raises(UnattestedPeerError, match="carries 0 SPIFFE ids"):
        call(issue(names=[x509.DNSName("hospital-a.example")]))


def test_certificate_without_any_name_is_refused():
    with pytest.raises(UnattestedPeerError, match="carries 0 SPIFFE ids"):
        call(admin_authority().certificate.public_bytes(Encoding.PEM))


@pytest.mark.parametrize(
    "uri",
    [
        spiffe_id(TRUST_DOMAIN, "hospital-b", "site", bytes(16)),
        spiffe_id(TRUST_DOMAIN, "hospital-a", "server", bytes(16)),
        spiffe_id(TRUST_DOMAIN, "hospital-a", "site", b"\x01" * 16),
        spiffe_id("other.cloister.mock", "hospital-a", "site", bytes(16)),
        NODE_URI + "/",
    ],
)
def test_certificate_that_names_somebody_else_than_its_result_is_refused(uri):
    with pytest.raises(UnattestedPeerError, match="its Attestation Result"):
        call(issue(uris=[uri]))


@pytest.mark.parametrize(
    "uri",
    [
        admin_spiffe_id(TRUST_DOMAIN, ""),
        admin_spiffe_id(TRUST_DOMAIN, "a/b"),
        admin_spiffe_id("other.cloister.mock", "admin"),
        admin_spiffe_id(TRUST_DOMAIN.replace("test", "best"), "admin"),
        f"spiffe://{TRUST_DOMAIN}/admin",
    ],
)
def test_administrator_of_another_form_of_name_is_refused(uri):
    with pytest.raises(UnattestedPeerError, match="may issue"):
        administrator(uri)


# --- keys and evidence -----------------------------------------------------------------------------------------------


def test_certificate_for_another_key_than_the_result_confirms_is_refused():
    with pytest.raises(UnattestedPeerError, match="is not the one that its Attestation Result confirms"):
        call(issue(keys=BootKeys.generate()))


def test_key_of_another_kind_is_refused_even_if_the_result_confirms_it():
    key = signing_key("tls").public_key()
    spki = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    pem = keyring().authority.issue(
        key,
        names=[x509.UniformResourceIdentifier(NODE_URI)],
        not_before=NOW,
        not_after=NOW + HOUR,
        result=token_of(cnf=CONFIRMED.model_copy(update={"tls_spki": spki})),
        server=False,
    )
    with pytest.raises(UnattestedPeerError, match="is not the one that its Attestation Result confirms"):
        call(pem)


def test_mock_evidence_is_refused_where_it_is_not_accepted():
    with pytest.raises(UnattestedPeerError, match="hospital-a has mock evidence"):
        call(issue(), accept_mock=False)


def test_genuine_evidence_is_accepted_where_mock_is_not():
    genuine = {"mock": False, "status": "affirming", "submods": {"cpu0": draft_part("affirming")}}
    assert call(issue(token=token_of(**genuine)), accept_mock=False).name == "hospital-a"
