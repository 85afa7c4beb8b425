import hashlib
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, EndorsementError, MalformedEvidenceError, SignatureError
from attestation.nvidia_gpu.chain import MAX_CHAIN_SIZE, verify_chain
from tests.fakes.lab_nvidia import (
    BLACKWELL_OID,
    FWID,
    FWID_ELEMENT,
    HOPPER_FWID,
    HOPPER_OID,
    NAMES,
    SWITCH_NAMES,
    anchors,
    blackwell_fwid,
    chain,
    good_chain,
    good_pem,
    keys,
)
from tests.fakes.lab_x509 import CA, NOW, certificate, ec_key, load_rsa_key, pem, usage

RSA = load_rsa_key("snp_ask")
NOT_CA = x509.BasicConstraints(ca=False, path_length=None)


def check(ders: tuple[bytes, ...], *, now=NOW):
    """Verify a chain under its own root, pinned."""
    return verify_chain(pem(*ders), anchors=anchors(root=ders[-1]), now=now)


def test_chain_of_a_gpu_says_device_key_and_firmware():
    claims = check(good_chain())
    assert (claims.device_class, claims.hwmodel, claims.fwid, claims.anchor.mock) == ("gpu", "GH100", FWID, True)
    assert claims.public_key == keys()[0].public_key()


def test_chain_of_a_switch_says_so():
    claims = check(chain(names=SWITCH_NAMES))
    assert (claims.device_class, claims.hwmodel) == ("switch", "LS_10")


def test_ueid_is_the_digest_of_the_boot_rom_key_whatever_the_firmware():
    spki = keys()[1].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    other_firmware = chain(changes={0: {"key": ec_key()}})
    assert check(good_chain()).ueid == check(other_firmware).ueid == hashlib.sha256(spki).digest()


def test_blackwell_counts_the_first_of_two_firmware_ids():
    assert check(chain(fwid={BLACKWELL_OID: blackwell_fwid()})).fwid == FWID


def test_leaf_without_a_firmware_id_has_none():
    assert check(chain(fwid={})).fwid is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x30\x81",
        b"\x30\x82\x00\x00",
        b"\x31" + HOPPER_FWID[1:],
        HOPPER_FWID + b"\0",
        HOPPER_FWID[:-1],
        b"\x30\x82" + FWID_ELEMENT * 2 + b"\x02\x02\x01\x01",
        b"\x30\x03\x02\x01\x01",
        b"\x30\x02\x02\x05",
        blackwell_fwid(b"\x02\x01\x01"),
        HOPPER_FWID.replace(b"\x04\x02\x02\x04", b"\x04\x02\x01\x04"),
    ],
)
def test_firmware_id_that_does_not_decode_is_rejected(value):
    with pytest.raises(EndorsementError, match="leaf has a firmware id"):
        check(chain(fwid={HOPPER_OID: value}))


def test_leaf_with_both_kinds_of_firmware_id_is_rejected():
    with pytest.raises(EndorsementError, match="both kinds of firmware id"):
        check(chain(fwid={HOPPER_OID: HOPPER_FWID, BLACKWELL_OID: blackwell_fwid()}))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_chain_with_a_certificate_missing_is_rejected(count):
    ders = good_chain()
    with pytest.raises(SignatureError, match=f"chain has {count} certificates, expected 5"):
        check((*ders[: count - 1], ders[-1]))


def test_chain_with_a_certificate_too_many_is_rejected():
    extra = certificate(NAMES[0], NAMES[0], key=ec_key(), signer=keys()[0], key_usage=usage(sign=True))
    with pytest.raises(SignatureError, match="chain has 6 certificates"):
        check((extra, *good_chain()))


def test_chain_that_is_too_large_is_rejected():
    with pytest.raises(SignatureError, match=f"expected at most {MAX_CHAIN_SIZE}"):
        verify_chain(bytes(MAX_CHAIN_SIZE + 1), anchors=anchors(), now=NOW)


def test_chain_that_is_not_pem_is_malformed():
    with pytest.raises(MalformedEvidenceError):
        verify_chain(b"nonsense", anchors=anchors(), now=NOW)


def test_look_alike_root_is_rejected():
    root = certificate(NAMES[4], NAMES[4], key=keys()[4], signer=keys()[4], ca=CA, serial=99)
    with pytest.raises(SignatureError, match="root certificate has SHA-256"):
        verify_chain(pem(*good_chain()[:4], root), anchors=anchors(), now=NOW)


def test_chain_in_another_order_is_rejected():
    with pytest.raises(SignatureError, match="root certificate has SHA-256"):
        verify_chain(pem(*good_chain()[::-1]), anchors=anchors(), now=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"ca": CA},
        {"key_usage": usage(certify=True)},
        {"key_usage": usage(sign=True, certify=True)},
        {"key_usage": None},
    ],
    ids=["authority", "may-not-sign", "may-certify", "no-usage"],
)
def test_leaf_that_is_not_a_signing_end_entity_is_rejected(changes):
    with pytest.raises(SignatureError, match="expected a firmware key"):
        check(chain(changes={0: changes}))


@pytest.mark.parametrize("name", ["GH100 A01 GSP BROM", "FMC LF", "GH100 A01 GSP FMC LF x", ""])
def test_leaf_with_another_role_is_rejected(name):
    with pytest.raises(SignatureError, match="expected a firmware key"):
        check(chain(names=(name or "?", *NAMES[1:])))


def test_leaf_of_an_unknown_kind_of_device_is_rejected():
    with pytest.raises(EndorsementError, match="leaf is of a BF3"):
        check(chain(names=("BF3 A01 GSP FMC LF", *NAMES[1:])))


@pytest.mark.parametrize("key", [ec_key(ec.SECP256R1()), RSA], ids=["p256", "rsa"])
def test_leaf_with_a_key_that_is_not_on_p384_is_rejected(key):
    with pytest.raises(SignatureError, match="leaf key is not on P-384"):
        check(chain(changes={0: {"key": key}}))


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_issuer_that_is_not_an_authority_is_rejected(place):
    with pytest.raises(SignatureError, match="expected basicConstraints CA:TRUE"):
        check(chain(changes={place: {"ca": NOT_CA}}))


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_certificate_signed_by_a_stranger_is_rejected(place):
    with pytest.raises(SignatureError, match="does not verify with the key of"):
        check(chain(changes={place: {"signer": ec_key()}}))


def test_certificate_signed_with_another_digest_is_rejected():
    with pytest.raises(SignatureError, match="does not verify with the key of"):
        check(chain(changes={1: {"digest": SHA256()}}))


@pytest.mark.parametrize("key", [ec_key(ec.SECP256R1()), RSA], ids=["p256", "rsa"])
def test_issuer_with_a_key_that_is_not_on_p384_is_rejected(key):
    with pytest.raises(SignatureError, match="does not verify with the key of"):
        check(chain(changes={1: {"key": key}, 0: {"signer": key}}))


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_certificate_that_expired_is_rejected(place):
    old = datetime(2025, 1, 1, tzinfo=UTC)
    with pytest.raises(SignatureError, match="certificate has expired"):
        check(chain(changes={place: {"not_after": old}}))


def test_chain_before_its_validity_is_rejected():
    with pytest.raises(SignatureError, match="not yet valid"):
        check(good_chain(), now=datetime(2023, 1, 1, tzinfo=UTC))


def test_path_longer_than_an_issuer_allows_is_rejected():
    none_below = x509.BasicConstraints(ca=True, path_length=0)
    with pytest.raises(SignatureError, match="path length"):
        check(chain(changes={3: {"ca": none_below}}))


def test_issuer_that_may_not_sign_certificates_is_rejected():
    with pytest.raises(SignatureError, match="certificate path fails"):
        check(chain(changes={2: {"key_usage": usage(sign=True)}}))


@settings(max_examples=60, deadline=None)
@given(st.integers(0), st.integers(0, 255))
def test_edited_chain_raises_nothing_but_attestation_errors(position, value):
    raw = bytearray(good_pem())
    raw[position % len(raw)] = value
    with suppress(AttestationError):
        verify_chain(bytes(raw), anchors=anchors(), now=NOW)
