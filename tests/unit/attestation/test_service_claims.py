"""Nothing is sent to a service that has not proved itself: one attribute is changed, and it has not."""

import json
from datetime import timedelta
from functools import cache

import pytest
from cryptography import x509

from attestation.binding import report_data, service_report_data
from attestation.core import HPKE_SUITE, ServiceCore, ServiceInitData
from attestation.errors import AppraisalError, BindingMismatchError, MalformedEvidenceError, SignatureError
from attestation.issue import CertificateAuthority
from attestation.keys import BootKeys, certificate_spki_sha256
from attestation.mock_tee.machines import POLICY, POLICY_DEBUG
from attestation.service_claims import appraise_pinned, verify_service
from attestation.trust_anchors import GENUINE
from policies.documents import raw_public_key
from policies.init_data import init_data_digest
from tests.fakes.trust_domain import (
    NOW,
    SERVICE_IMAGE,
    TRUST_DOMAIN,
    boot_keys,
    domain,
    draft_root,
    keyring,
    signing_key,
    start,
)

NONCE = b"\x04" * 32
P256 = bytes.fromhex("2a8648ce3d030107")
KEYS = boot_keys("attestation")
LAUNCHED = ServiceInitData(
    trust_domain=TRUST_DOMAIN,
    role="attestation-service",
    organisation_keys=(raw_public_key(signing_key("north")),),
    threshold=1,
)


def leaf(*, authority=None, keys=KEYS):
    return (authority or keyring().authority).issue(
        keys.tls.public_key(),
        names=[x509.DNSName(f"attestation.{TRUST_DOMAIN}")],
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
        server=True,
    )


@cache
def leaf_of_the_service():
    return leaf()


def parts(*, core=None, machine=None, raw_core=None):
    """What the genuine service shows, but for what its core or machine says otherwise."""
    launched = LAUNCHED.encode()
    fields = {
        "v": 1,
        "td": TRUST_DOMAIN,
        "tee": "snp",
        "boot": KEYS.boot,
        "client_nonce": NONCE,
        "tls_spki": KEYS.tls_spki,
        "ca_spki": certificate_spki_sha256(keyring().authority.certificate),
        "result_key": raw_public_key(keyring().result),
        "log_key": raw_public_key(keyring().log),
        "hpke_suite": HPKE_SUITE,
        "hpke_pk": KEYS.sealing.public,
        "image": SERVICE_IMAGE,
    }
    encoded = raw_core or ServiceCore(**(fields | (core or {}))).encode()
    usual = {"chip": "service", "measurement": SERVICE_IMAGE, "host_data": init_data_digest(launched)}
    attester = start(**(usual | (machine or {})))
    return {
        "core": encoded,
        "cpu": attester.collect_cpu(service_report_data("snp", encoded)),
        "init_data": launched,
        "tls_certificate": leaf_of_the_service(),
        "ca_certificate": keyring().authority.der,
    }


def verify(shown=None, *, nonce=NONCE, anchors=None, **changes):
    anchors = anchors or domain().trust.anchors
    return verify_service(**((shown or parts()) | changes), nonce=nonce, anchors=anchors, now=NOW)


def test_genuine_service_is_the_one_that_the_root_names():
    claims = verify()
    assert claims.core.hpke_pk == KEYS.sealing.public
    assert claims.launched_for == LAUNCHED
    assert (claims.tls_certificate, claims.ca_certificate) == (leaf_of_the_service(), keyring().authority.der)
    appraise_pinned(claims, domain().trust.root)


@pytest.mark.parametrize(
    "change",
    [
        {"core": b"{}"},
        {"init_data": b"{}"},
        {"tls_certificate": b"no certificate"},
        {"ca_certificate": b"no certificate"},
        {"ca_certificate": keyring().authority.der.replace(P256, P256[:-1] + b"\x7f")},
    ],
)
def test_part_that_cannot_be_read_is_malformed(change):
    with pytest.raises(MalformedEvidenceError, match="the service's evidence"):
        verify(**change)


def test_vendor_that_is_not_pinned_is_refused():
    with pytest.raises(SignatureError, match="pinned amd roots"):
        verify(anchors=GENUINE)


def test_evidence_for_another_nonce_is_refused():
    with pytest.raises(BindingMismatchError, match="the service's nonce"):
        verify(nonce=b"\x05" * 32)


def test_core_that_the_report_does_not_bind_is_refused():
    with pytest.raises(BindingMismatchError, match="the service's report data"):
        verify(core=parts(core={"result_key": bytes(32)})["core"])


def test_report_over_a_nodes_report_data_is_not_taken_for_one_of_the_service():
    shown = parts()
    machine = start(chip="service", measurement=SERVICE_IMAGE, host_data=init_data_digest(LAUNCHED.encode()))
    with pytest.raises(BindingMismatchError, match="the service's report data"):
        verify(shown, cpu=machine.collect_cpu(report_data("snp", shown["core"], ())))


def test_other_init_data_than_it_was_launched_with_is_refused():
    other = LAUNCHED.model_copy(update={"threshold": 2}).encode()
    with pytest.raises(BindingMismatchError, match="the service's HOST_DATA"):
        verify(init_data=other)


@pytest.mark.parametrize(
    ("core", "said"),
    [
        ({"image": bytes(48)}, "the service's image"),
        ({"tls_spki": bytes(32)}, "the service's TLS key"),
        ({"ca_spki": bytes(32)}, "the service's node authority"),
    ],
)
def test_core_that_names_something_else_than_is_shown_is_refused(core, said):
    with pytest.raises(BindingMismatchError, match=said):
        verify(parts(core=core))


def test_certificate_that_its_own_authority_did_not_issue_is_refused():
    stranger = CertificateAuthority.create("node authority", now=NOW, lifetime=timedelta(days=1))
    with pytest.raises(SignatureError, match="was not issued by its own authority"):
        verify(tls_certificate=leaf(authority=stranger))


def test_certificate_for_another_key_is_refused():
    with pytest.raises(BindingMismatchError, match="the service's TLS key"):
        verify(tls_certificate=leaf(keys=BootKeys.generate()))


@pytest.mark.parametrize("field", ["boot", "client_nonce", "hpke_pk", "tls_spki", "ca_spki", "result_key", "log_key"])
@pytest.mark.parametrize("change", [lambda value: value[:-2], lambda value: value + "00"], ids=["shorter", "longer"])
def test_bytes_of_the_core_have_their_size(field, change):
    core = json.loads(parts()["core"])
    with pytest.raises(MalformedEvidenceError, match=f"{field}: data should have"):
        verify(core=json.dumps(core | {field: change(core[field])}).encode())


@pytest.mark.parametrize(
    "change",
    [{"organisation_keys": []}, {"organisation_keys": ["00" * 32] * 257}, {"threshold": 0}, {"role": "server"}],
)
def test_service_that_was_launched_for_nobody_is_malformed(change):
    launched = json.loads(LAUNCHED.encode())
    with pytest.raises(MalformedEvidenceError, match=next(iter(change))):
        verify(init_data=json.dumps(launched | change).encode())


# --- against the root ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ca_certificate": b"another"}, "node authority"),
        ({"result_key": bytes(32)}, "result key"),
        ({"log_key": bytes(32)}, "log key"),
    ],
)
def test_service_with_other_keys_than_the_root_pins_is_refused(change, said):
    pinned = draft_root().service.model_copy(update=change)
    with pytest.raises(BindingMismatchError, match=f"the service's {said}"):
        appraise_pinned(verify(), draft_root(service=pinned))


@pytest.mark.parametrize(
    ("machine", "core", "field"),
    [
        ({"measurement": bytes(48)}, {"image": bytes(48)}, "measurement"),
        ({"policy": POLICY | POLICY_DEBUG}, {}, "debug"),
    ],
)
def test_service_on_another_image_or_an_open_machine_is_refused(machine, core, field):
    claims = verify(parts(machine=machine, core=core))
    with pytest.raises(AppraisalError, match=field):
        appraise_pinned(claims, domain().trust.root)
