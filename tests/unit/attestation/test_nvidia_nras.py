import json
from base64 import b64encode, urlsafe_b64encode
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import (
    AttestationError,
    BindingMismatchError,
    EndorsementError,
    MalformedEvidenceError,
    SignatureError,
)
from attestation.nvidia_gpu.nras import ISSUER, MAX_DEVICES, MAX_TOKEN_SIZE, appraise_token, parse_keys, verify_token
from tests.fakes.lab_nvidia import NONCE
from tests.fakes.lab_x509 import NOW, certificate, ec_key

KEY = ec_key()
KEYS = {"kid-1": KEY.public_key()}
TIME = int(NOW.timestamp())
COMMON = {"iss": ISSUER, "eat_nonce": NONCE.hex(), "iat": TIME - 60, "nbf": TIME - 60, "exp": TIME + 3540}
OVERALL = COMMON | {"sub": "NVIDIA-PLATFORM-ATTESTATION", "x-nvidia-ver": "3.0", "x-nvidia-overall-att-result": True}
GOOD_CHAIN = {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}
DEVICE = COMMON | {
    "measres": "success",
    "secboot": True,
    "dbgstat": "disabled",
    "x-nvidia-gpu-attestation-report-nonce-match": True,
    "x-nvidia-gpu-attestation-report-signature-verified": True,
    "x-nvidia-gpu-driver-rim-signature-verified": True,
    "x-nvidia-gpu-attestation-report-cert-chain": GOOD_CHAIN,
    "x-nvidia-attestation-warning": None,
}


def encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(claims: dict, *, key=KEY, **header) -> str:
    """Return a compact JWS; a header of None is left out."""
    chosen = {name: value for name, value in ({"kid": "kid-1", "alg": "ES384"} | header).items() if value is not None}
    message = f"{encode(json.dumps(chosen).encode())}.{encode(json.dumps(claims).encode())}"
    r, s = decode_dss_signature(key.sign(message.encode(), ec.ECDSA(SHA384())))
    return f"{message}.{encode(r.to_bytes(48, 'big') + s.to_bytes(48, 'big'))}"


def submods(devices: dict[str, str]) -> dict:
    return {name: ["DIGEST", ["SHA-256", sha256(jwt.encode()).hexdigest()]] for name, jwt in devices.items()}


def token(*, overall: dict | None = None, device: dict | None = None, signer=KEY, header: dict | None = None) -> bytes:
    """Return a detached token about one GPU; `overall` and `device` change or, with None, drop claims."""
    devices = {"GPU-0": sign(but(DEVICE, device))}
    signed = sign(but(OVERALL | {"submods": submods(devices)}, overall), key=signer, **(header or {}))
    return detached(signed, devices)


def but(claims: dict, changes: dict | None) -> dict:
    return {name: value for name, value in (claims | (changes or {})).items() if value != "absent"}


def detached(overall: str, devices: dict[str, str]) -> bytes:
    return json.dumps([["JWT", overall], devices]).encode()


def check(raw: bytes, *, keys=KEYS, nonce=NONCE, now=NOW, issuer=ISSUER):
    return verify_token(raw, keys=keys, nonce=nonce, now=now, issuer=issuer)


def test_good_token_gives_the_claims_of_every_device():
    claims = check(token())
    assert (claims.overall["x-nvidia-ver"], claims.devices) == ("3.0", {"GPU-0": DEVICE})
    assert claims.expires_at == TIME + 3540
    assert appraise_token(claims) == ()


def test_token_ends_when_the_first_of_its_parts_does():
    assert check(token(device={"exp": TIME + 5})).expires_at == TIME + 5


def test_nonce_may_be_written_in_capitals():
    assert check(token(overall={"eat_nonce": NONCE.hex().upper()}))


# --- signatures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256"}, {"alg": None}, {"alg": "es384"}, {"crit": ["exp"]}]
)
def test_algorithm_other_than_es384_is_rejected(header):
    with pytest.raises(SignatureError, match="expected ES384"):
        check(token(header=header))


def test_token_with_algorithm_none_and_no_signature_is_rejected():
    head, payload, _ = json.loads(token(header={"alg": "none"}))[0][1].split(".")
    with pytest.raises(SignatureError, match="algorithm 'none'"):
        check(detached(f"{head}.{payload}.", {}))


@pytest.mark.parametrize("header", [{"kid": "kid-2"}, {"kid": None}, {"kid": 1}])
def test_key_that_is_not_pinned_is_rejected(header):
    with pytest.raises(SignatureError, match="expected one of 1 pinned keys"):
        check(token(header=header))


def test_key_in_the_header_is_not_used():
    stranger = ec_key()
    der = certificate("x", "x", key=stranger, signer=stranger)
    with pytest.raises(SignatureError, match="does not verify with key kid-1"):
        check(token(signer=stranger, header={"x5c": [b64encode(der).decode()]}))


def test_overall_or_device_token_signed_by_a_stranger_is_rejected():
    with pytest.raises(SignatureError, match="signature of the overall token"):
        check(token(signer=ec_key()))
    devices = {"GPU-0": sign(DEVICE, key=ec_key())}
    with pytest.raises(SignatureError, match="signature of the token of GPU-0"):
        check(detached(sign(OVERALL | {"submods": submods(devices)}), devices))


def test_signature_of_another_size_is_rejected():
    signed = json.loads(token())[0][1]
    for cut in (signed[:-4], signed[: signed.rindex(".") + 1]):
        with pytest.raises(SignatureError, match=r"signature of (93|0) bytes, expected 96"):
            check(detached(cut, {}))


# --- issuer, time, nonce -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["overall", "device"])
@pytest.mark.parametrize("value", ["https://nras.attestation.nvidia.com.evil.org", "absent", ["x"]])
def test_token_of_another_issuer_is_rejected(part, value):
    with pytest.raises(EndorsementError, match="is issued by"):
        check(token(**{part: {"iss": value}}))


def test_token_about_another_subject_is_rejected():
    with pytest.raises(EndorsementError, match="has subject"):
        check(token(overall={"sub": "SOMETHING"}))


@pytest.mark.parametrize("part", ["overall", "device"])
@pytest.mark.parametrize("claims", [{"exp": TIME}, {"nbf": TIME + 1}])
def test_token_that_expired_or_does_not_hold_yet_is_rejected(part, claims):
    with pytest.raises(EndorsementError, match="holds from"):
        check(token(**{part: claims}))


def test_token_holds_from_its_first_second_to_before_its_last():
    raw = token()
    assert check(raw, now=NOW - timedelta(seconds=60))
    assert check(raw, now=NOW + timedelta(seconds=3539))


@pytest.mark.parametrize("part", ["overall", "device"])
@pytest.mark.parametrize("claims", [{"exp": "absent"}, {"nbf": "absent"}, {"exp": True}, {"nbf": "0"}])
def test_token_without_times_is_malformed(part, claims):
    with pytest.raises(MalformedEvidenceError, match="no times"):
        check(token(**{part: claims}))


@pytest.mark.parametrize("part", ["overall", "device"])
@pytest.mark.parametrize("value", ["00" * 32, "absent", "", "\u00e4", [NONCE.hex()]])
def test_token_for_another_session_is_rejected(part, value):
    with pytest.raises(BindingMismatchError, match="has nonce"):
        check(token(**{part: {"eat_nonce": value}}))


# --- which belong together ---------------------------------------------------------------------------------------------


def test_device_token_that_the_overall_token_does_not_sign_is_rejected():
    overall, devices = json.loads(token())
    for changed in ({}, {"GPU-1": devices["GPU-0"]}, devices | {"GPU-1": devices["GPU-0"]}, {"GPU-0": sign(DEVICE)}):
        with pytest.raises(SignatureError, match="signs digests of"):
            check(detached(overall[1], changed))


def test_token_about_no_device_at_all_is_rejected():
    for value in ({}, "absent", []):
        with pytest.raises(SignatureError, match="signs digests of"):
            check(detached(sign(but(OVERALL, {"submods": value})), {}))


def test_digest_by_another_algorithm_is_rejected():
    devices = {"GPU-0": sign(DEVICE)}
    weak = json.loads(json.dumps(submods(devices)).replace("SHA-256", "SHA-1"))
    with pytest.raises(SignatureError, match="signs digests of"):
        check(detached(sign(OVERALL | {"submods": weak}), devices))


# --- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"overall": {"x-nvidia-overall-att-result": False}}, "nras.overall.x-nvidia-overall-att-result"),
        ({"overall": {"x-nvidia-overall-att-result": "absent"}}, "nras.overall.x-nvidia-overall-att-result"),
        ({"overall": {"x-nvidia-overall-att-result": 1}}, "nras.overall.x-nvidia-overall-att-result"),
        ({"device": {"measres": "fail"}}, "nras.GPU-0.measres"),
        ({"device": {"measres": "absent"}}, "nras.GPU-0.measres"),
        ({"device": {"secboot": False}}, "nras.GPU-0.secboot"),
        ({"device": {"secboot": "true"}}, "nras.GPU-0.secboot"),
        ({"device": {"dbgstat": "enabled"}}, "nras.GPU-0.dbgstat"),
        *(
            ({"device": {f"x-nvidia-gpu-{claim}": value}}, f"nras.GPU-0.x-nvidia-gpu-{claim}")
            for claim in ("attestation-report-nonce-match", "attestation-report-signature-verified")
            for value in (False, "absent")
        ),
        (
            {"device": {"x-nvidia-gpu-driver-rim-signature-verified": False}},
            "nras.GPU-0.x-nvidia-gpu-driver-rim-signature-verified",
        ),
        ({"device": {"x-nvidia-gpu-something-new": False}}, "nras.GPU-0.x-nvidia-gpu-something-new"),
        (
            {"device": {"chain": GOOD_CHAIN | {"x-nvidia-cert-ocsp-status": "revoked"}}},
            "nras.GPU-0.chain.x-nvidia-cert-ocsp-status",
        ),
        ({"device": {"chain": {"x-nvidia-cert-ocsp-status": "good"}}}, "nras.GPU-0.chain.x-nvidia-cert-status"),
    ],
)
def test_check_that_nvidia_did_not_see_pass_is_found(changes, field):
    findings = appraise_token(check(token(**changes)))
    assert [(finding.field, finding.status) for finding in findings] == [(field, "contraindicated")]


def test_warning_of_the_service_is_passed_on():
    findings = appraise_token(check(token(device={"x-nvidia-attestation-warning": "old driver"})))
    assert [(finding.found, finding.status) for finding in findings] == [("old driver", "warning")]


def test_switch_is_asked_for_the_claims_of_switches():
    claims = check(token())
    switch = {name.replace("-gpu-", "-switch-"): value for name, value in DEVICE.items()}
    assert appraise_token(replace(claims, devices={"SWITCH-0": switch})) == ()
    assert len(appraise_token(replace(claims, devices={"SWITCH-0": DEVICE}))) == 2


# --- the bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not strict JSON"),
        (b"{}", "no detached token"),
        (b'[["JWT", "a.b.c"]]', "no detached token"),
        (b'[["JWT", "a.b.c"], {}, {}]', "no detached token"),
        (b'[["EAT", "a.b.c"], {}]', "no detached token"),
        (b'[["JWT", "a.b.c"], {"GPU-0": 1}]', "no detached token"),
        (b'[["JWT", "a.b.c"], {"GPU-0": "a.b.c", "GPU-0": "a.b.c"}]', "appears twice"),
        (b'[["JWT", "a.b"], {}]', "2 parts"),
        (b'[["JWT", "a.b.c.d"], {}]', "4 parts"),
        (b'[["JWT", "\\ud800.b.c"], {}]', "not ASCII"),
        (b'[["JWT", "e30=.b.c"], {}]', "base64url without padding"),
        (b'[["JWT", "a.b.c"], {}]', "base64url without padding"),
        (b'[["JWT", "W10.b.c"], {}]', "is no JSON object"),
        (detached("x", {f"GPU-{number}": "x" for number in range(MAX_DEVICES + 1)}), "about 17 devices"),
        (bytes(MAX_TOKEN_SIZE + 1), f"expected at most {MAX_TOKEN_SIZE}"),
    ],
)
def test_bytes_that_are_no_detached_token_are_malformed(raw, message):
    with pytest.raises(MalformedEvidenceError, match=message):
        check(raw)


@settings(max_examples=60, deadline=None)
@given(st.integers(0), st.integers(0, 255))
def test_edited_token_raises_nothing_but_attestation_errors(position, value):
    raw = bytearray(RAW)
    raw[position % len(raw)] = value
    with suppress(AttestationError):
        assert check(bytes(raw)).devices == {"GPU-0": DEVICE}


RAW = token()


# --- keys --------------------------------------------------------------------------------------------------------------


def jwk(key=KEY, **changes) -> dict:
    numbers = key.public_key().public_numbers()
    x, y = (encode(number.to_bytes(48, "big")) for number in (numbers.x, numbers.y))
    entry = {"kid": "kid-1", "kty": "EC", "crv": "P-384", "alg": "ES384", "x": x, "y": y}
    return but(entry, changes)


def x5c(key=KEY) -> list[str]:
    return [b64encode(certificate("x", "x", key=key, signer=KEY)).decode()]


def jwks(*entries: object) -> bytes:
    return json.dumps({"keys": entries}).encode()


@pytest.mark.parametrize(
    "entry", [jwk(), jwk(x5c=x5c()), jwk(x="absent", y="absent", x5c=x5c()), jwk(crv="absent", alg="absent", use="sig")]
)
def test_key_is_read_from_coordinates_or_a_certificate(entry):
    assert parse_keys(jwks(entry)) == KEYS


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", "is no JSON object"),
        (b"{}", "has no keys"),
        (jwks(), "has no keys"),
        (jwks(1), "key id None"),
        (jwks(jwk(kid="absent")), "key id None"),
        (jwks(jwk(), jwk()), "key id 'kid-1' twice"),
        (jwks(jwk(kty="RSA")), "not an EC key"),
        (jwks(jwk(crv="P-256")), "not an EC key"),
        (jwks(jwk(alg="ES256")), "not an EC key"),
        (jwks(jwk(x=encode(bytes(48)))), "not a point"),
        (jwks(jwk(y="absent")), "not a point"),
        (jwks(jwk(x="*")), "base64url"),
        (jwks(jwk(x="absent", y="absent")), "has 0 keys"),
        (jwks(jwk(x5c=x5c(ec_key()))), "has 2 keys that differ"),
        (jwks(jwk(x5c=x5c(ec_key(ec.SECP256R1())))), "not on P-384"),
        (jwks(jwk(x5c=[])), "no certificates in x5c"),
        (jwks(jwk(x5c=["*"])), "not base64"),
        (jwks(jwk(x5c=["\u00e4"])), "not base64"),
        (jwks(jwk(x5c=["AAAA"])), "does not decode"),
    ],
)
def test_key_set_that_is_ambiguous_or_for_something_else_is_malformed(raw, message):
    with pytest.raises(MalformedEvidenceError, match=message):
        parse_keys(raw)
