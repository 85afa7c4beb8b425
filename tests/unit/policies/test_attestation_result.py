"""What the Verifier signs about a node, and what everybody else reads."""

import base64
import json
from datetime import timedelta
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.attestation_result import (
    MAX_BYTES,
    ORDER,
    Confirmation,
    Submodule,
    TrustVector,
    sign_result,
    verify_result,
    worst,
)
from policies.documents import key_id, raw_public_key
from policies.errors import DocumentExpiredError, DocumentSignatureError, MalformedDocumentError
from tests.fakes.drafts import CLAIMS, ISSUED
from tests.fakes.drafts import draft_part as part
from tests.fakes.drafts import draft_result as result
from tests.fakes.trust_domain import NOW, signing_key

KEY = signing_key("result")
PUBLIC = raw_public_key(KEY)


@cache
def token():
    return sign_result(result(), KEY)


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def jwt(header, payload, key=KEY):
    signed = b64(header) + b"." + b64(payload)
    return signed + b"." + b64(key.sign(signed))


HEADER = b'{"alg":"EdDSA","kid":"%b","typ":"ear+jwt"}' % key_id(PUBLIC).encode()

# --- the token -------------------------------------------------------------------------------------------------------


def test_result_travels_unchanged_as_a_jwt_with_a_fixed_header():
    assert verify_result(token(), PUBLIC) == result()
    assert base64.urlsafe_b64decode(token().split(b".")[0] + b"==") == HEADER
    assert jwt(HEADER, result().encode()) == token()


@settings(max_examples=300)
@given(bit=st.integers(0, len(token()) * 8 - 1))
def test_token_with_a_flipped_bit_never_verifies(bit):
    raw = bytearray(token())
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedDocumentError, DocumentSignatureError)):
        verify_result(bytes(raw), PUBLIC)


@given(st.binary(max_size=60) | st.lists(st.binary(max_size=9).map(b64), min_size=3, max_size=3).map(b".".join))
def test_reading_a_token_raises_nothing_but_malformed_or_signature(raw):
    with pytest.raises((MalformedDocumentError, DocumentSignatureError)):
        verify_result(raw, PUBLIC)


def test_token_of_another_key_is_refused():
    with pytest.raises(DocumentSignatureError, match="expected EdDSA by key"):
        verify_result(sign_result(result(), signing_key("other")), PUBLIC)


def test_token_that_another_key_signed_under_the_name_of_this_one_is_refused():
    with pytest.raises(DocumentSignatureError, match="does not hold"):
        verify_result(jwt(HEADER, result().encode(), signing_key("other")), PUBLIC)


@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace(b"EdDSA", b"none"),
        HEADER.replace(b"EdDSA", b"HS256"),
        HEADER.replace(b"ear+jwt", b"JWT"),
        HEADER[:-1] + b',"jku":"https://attacker.example"}',
        HEADER.replace(b",", b", "),
    ],
)
def test_header_that_says_anything_else_is_refused_even_if_it_is_signed(header):
    with pytest.raises(DocumentSignatureError, match="expected EdDSA"):
        verify_result(jwt(header, result().encode()), PUBLIC)


def test_algorithm_that_the_header_names_is_never_used():
    key = generate_private_key(SECP256R1())
    signed = b64(HEADER.replace(b"EdDSA", b"ES256")) + b"." + b64(result().encode())
    with pytest.raises(DocumentSignatureError):
        verify_result(signed + b"." + b64(key.sign(signed, ECDSA(SHA256()))), PUBLIC)


@pytest.mark.parametrize("change", [lambda t: t + b".", lambda t: t.rsplit(b".", 1)[0], lambda t: t + b".x"])
def test_token_of_another_number_of_parts_is_malformed(change):
    with pytest.raises(MalformedDocumentError, match="parts, expected 3"):
        verify_result(change(token()), PUBLIC)


@pytest.mark.parametrize("suffix", [b"=", b"==", b"\n", b" "])
def test_base64url_that_is_not_canonical_is_malformed(suffix):
    with pytest.raises(MalformedDocumentError, match="base64url"):
        verify_result(token() + suffix, PUBLIC)


def test_other_alphabet_of_base64_is_malformed():
    header, payload, signature = token().split(b".")
    raw = base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)).replace(
        b"release-1", b"release-\xc3\xbf\xc3\xbe?>"
    )
    standard = base64.b64encode(raw).rstrip(b"=")
    assert b"/" in standard or b"+" in standard
    with pytest.raises(MalformedDocumentError, match="not canonical"):
        verify_result(b".".join((header, standard, signature)), PUBLIC)


def test_token_larger_than_8_kib_is_not_read():
    advisories = tuple("x" * 500 for _ in range(20))
    large = sign_result(result(submods={"cpu0": part().model_copy(update={"advisories": advisories})}), KEY)
    assert len(large) > MAX_BYTES
    with pytest.raises(MalformedDocumentError, match=f"at most {MAX_BYTES} are read"):
        verify_result(large, PUBLIC)


def test_signed_payload_that_is_no_result_is_malformed():
    with pytest.raises(MalformedDocumentError, match="AttestationResult"):
        verify_result(jwt(HEADER, b"{}"), PUBLIC)


def test_signed_payload_of_another_profile_is_malformed():
    payload = json.dumps(json.loads(result().encode()) | {"eat_profile": "tag:cloister,2026:ear/2"}).encode()
    with pytest.raises(MalformedDocumentError, match="eat_profile"):
        verify_result(jwt(HEADER, payload), PUBLIC)


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "contraindicated"}, "not the worst of the submodules"),
        ({"submods": {"cpu0": part(), "gpu0": part("contraindicated")}}, "not the worst of the submodules"),
        ({"status": "affirming", "submods": {"cpu0": part("affirming")}}, "mock evidence is never affirming"),
        ({"trust_domain": "cloister.example"}, "does not end in .mock"),
        ({"exp": ISSUED}, "expires before it is issued"),
        ({"submods": {}}, "submods"),
        ({"jti": "0" * 31}, "jti"),
        ({"boot": bytes(15)}, "boot"),
        ({"boot": bytes(17)}, "boot"),
        ({"revocation_epoch": -1}, "revocation_epoch"),
        ({"submods": {f"gpu{index}": part() for index in range(18)}}, "submods"),
        ({"eat_nonce": bytes(31)}, "eat_nonce"),
        ({"eat_nonce": bytes(33)}, "eat_nonce"),
        ({"purpose": "train"}, "purpose"),
    ],
)
def test_result_that_contradicts_itself_cannot_be_made(change, said):
    with pytest.raises(ValidationError, match=said):
        result(**change)


@pytest.mark.parametrize("size", [1215, 1217])
def test_confirmed_key_has_its_size(size):
    with pytest.raises(ValidationError, match="hpke_pk"):
        Confirmation(tls_spki=bytes(32), sign_pk=bytes(32), hpke_pk=bytes(size))


def test_component_has_at_most_64_advisories():
    with pytest.raises(ValidationError, match="advisories"):
        Submodule(**(dict(part()) | {"advisories": ("x",) * 65}))


def test_genuine_evidence_may_be_affirming_in_any_trust_domain():
    affirming = {"status": "affirming", "submods": {"cpu0": part("affirming")}, "mock": False}
    assert result(**affirming, trust_domain="cloister.example").status == "affirming"


statuses = st.lists(st.sampled_from(ORDER), max_size=6)


@given(statuses, st.sampled_from(ORDER))
def test_worst_is_one_of_them_and_no_more_evidence_makes_it_better(some, more):
    before, after = worst(tuple(some)), worst((*some, more))
    assert before in (*some, "none")
    assert not some or ORDER.index(after) >= ORDER.index(before)
    assert ORDER.index(after) >= ORDER.index(more)


def test_worst_of_nothing_is_none():
    assert worst(()) == "none"


@given(st.lists(st.sampled_from(ORDER), min_size=5, max_size=5))
def test_trust_vector_is_as_good_as_its_worst_appraised_claim(values):
    vector = TrustVector(**dict(zip(CLAIMS, values, strict=True)))
    assert vector.status == worst(tuple(value for value in values if value != "none"))


@pytest.mark.parametrize("seconds", [-300, 0, 1799.999])
def test_result_is_current_from_issue_less_skew_until_it_expires(seconds):
    result().require_current(NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(("seconds", "said"), [(-300.001, "was issued at"), (1800, "expired at")])
def test_result_that_is_not_current_is_refused(seconds, said):
    with pytest.raises(DocumentExpiredError, match=said):
        result().require_current(NOW + timedelta(seconds=seconds))
