"""What a node says about itself: every field is there, and of its size."""

import json

import pytest

from attestation.errors import MalformedEvidenceError
from attestation.verifier import parse_core
from tests.fakes.trust_domain import TRUST_DOMAIN

NODE = "hospital-a"
BYTES = {
    **dict.fromkeys(("boot", "cid"), 16),
    **dict.fromkeys(("nonce", "crand", "service_ca", "tls_spki", "csr_sha256", "sign_pk", "root", "roster"), 32),
    **dict.fromkeys(("site_policy", "grant", "peer_nonces", "audit_root"), 32),
    "image": 48,
    "hpke_pk": 1216,
}
CORE = {
    "v": 1,
    "td": TRUST_DOMAIN,
    "node": NODE,
    "role": "site",
    "tee": "snp",
    "hpke_suite": "MLKEM768_X25519/HKDF_SHA256/AES_256_GCM",
    "purpose": "issue",
    "prev_jti": None,
    "n_devices": 16,
    "audit_size": 0,
    **{name: "00" * size for name, size in BYTES.items()},
}


def test_core_that_follows_the_format_is_read():
    assert parse_core(json.dumps(CORE).encode()).node == NODE


@pytest.mark.parametrize("field", CORE)
def test_field_of_the_core_that_is_left_out_is_malformed(field):
    rest = {name: value for name, value in CORE.items() if name != field}
    with pytest.raises(MalformedEvidenceError, match=f"{field}: field required"):
        parse_core(json.dumps(rest).encode())


@pytest.mark.parametrize("field", BYTES)
@pytest.mark.parametrize("change", [lambda value: value[:-2], lambda value: value + "00"], ids=["shorter", "longer"])
def test_bytes_of_the_core_have_their_size(field, change):
    with pytest.raises(MalformedEvidenceError, match=f"{field}: data should have"):
        parse_core(json.dumps(CORE | {field: change(CORE[field])}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"hpke_suite": "X25519"},
        {"purpose": "train"},
        {"n_devices": 17},
        {"n_devices": -1},
        {"audit_size": -1},
    ],
)
def test_core_of_another_version_or_suite_is_malformed(change):
    with pytest.raises(MalformedEvidenceError, match=next(iter(change))):
        parse_core(json.dumps(CORE | change).encode())
