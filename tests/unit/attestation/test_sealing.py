"""What is sealed to one boot, for one purpose, opens nowhere else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.core import HPKE_PUBLIC_BYTES
from attestation.errors import MalformedEvidenceError, SignatureError
from attestation.release_context import deposit_info, release_info
from attestation.sealing import SealingKey, seal_to
from tests.fakes.drafts import draft_result as result

KEY = SealingKey.generate()
SEALED = seal_to(KEY.public, b"secret", info=b"info")


def test_sealed_secret_opens_with_its_key_and_context():
    assert KEY.open(SEALED, info=b"info") == b"secret"
    assert len(KEY.public) == HPKE_PUBLIC_BYTES


def test_sealed_secret_does_not_open_with_another_key():
    with pytest.raises(SignatureError):
        SealingKey.generate().open(SEALED, info=b"info")


def test_half_of_the_key_is_not_enough():
    other = SealingKey.generate()
    for half in (SealingKey(KEY.mlkem, other.x25519), SealingKey(other.mlkem, KEY.x25519)):
        with pytest.raises(SignatureError):
            half.open(SEALED, info=b"info")


def test_sealed_secret_does_not_open_in_another_context():
    with pytest.raises(SignatureError):
        KEY.open(SEALED, info=b"other")


@settings(max_examples=50)
@given(bit=st.integers(0, len(SEALED) * 8 - 1))
def test_sealed_secret_with_a_flipped_bit_does_not_open(bit):
    raw = bytearray(SEALED)
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        KEY.open(bytes(raw), info=b"info")


def test_sealed_secret_with_a_point_of_small_order_does_not_open():
    mlkem_ciphertext = 1088
    raw = SEALED[:mlkem_ciphertext] + bytes(32) + SEALED[mlkem_ciphertext + 32 :]
    with pytest.raises(SignatureError):
        KEY.open(raw, info=b"info")


@given(st.binary(max_size=60))
def test_opening_bytes_raises_nothing_but_a_signature_error(raw):
    with pytest.raises(SignatureError):
        KEY.open(raw, info=b"info")


@pytest.mark.parametrize("size", [0, HPKE_PUBLIC_BYTES - 1, HPKE_PUBLIC_BYTES + 1])
def test_public_key_of_another_size_is_malformed(size):
    with pytest.raises(MalformedEvidenceError, match=f"HPKE key has {size} bytes"):
        seal_to(bytes(size), b"secret", info=b"info")


@pytest.mark.parametrize("public", [b"\xff" * HPKE_PUBLIC_BYTES, KEY.public[:-32] + bytes(32)])
def test_bytes_that_are_no_public_key_are_malformed(public):
    with pytest.raises(MalformedEvidenceError, match="not a MLKEM768_X25519 public key"):
        seal_to(public, b"secret", info=b"info")


RELEASE = {
    "key_id": "digits-1",
    "version": 1,
    "job_sha256": b"\x01" * 32,
    "policy_sha256": b"\x02" * 32,
    "release_id": b"\x03" * 16,
}


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": "digits-2"},
        {"version": 2},
        {"job_sha256": bytes(32)},
        {"policy_sha256": bytes(32)},
        {"release_id": bytes(16)},
    ],
)
def test_context_of_a_release_names_everything_it_is_for(change):
    assert release_info(result(), **(RELEASE | change)) != release_info(result(), **RELEASE)


@pytest.mark.parametrize(
    "change",
    [{"trust_domain": "b.mock"}, {"node": "hospital-b"}, {"role": "server"}, {"boot": b"\x01" * 16}, {"jti": "1" * 32}],
)
def test_context_of_a_release_names_whom_it_is_for(change):
    assert release_info(result(**change), **RELEASE) != release_info(result(), **RELEASE)


def test_context_of_a_deposit_names_everything_it_is_for():
    contexts = {
        deposit_info("a.mock", "key", bytes(32)),
        deposit_info("b.mock", "key", bytes(32)),
        deposit_info("a.mock", "other", bytes(32)),
        deposit_info("a.mock", "key", b"\x01" * 32),
        deposit_info("a.mockk", "ey", bytes(32)),
    }
    assert len(contexts) == 5
