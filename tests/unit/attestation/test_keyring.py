"""The keys that outlive a boot: made once, never made anew over what is left of them."""

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from attestation.channel.credentials import key_pem
from attestation.service.keyring import load_or_create
from policies.errors import StateError
from tests.fakes.trust_domain import NOW, keyring, signing_key

PARTS = ("authority.pem", "authority.key", "result.key", "log.key", "master.key")
SECRETS = PARTS[1:]
P256 = bytes.fromhex("2a8648ce3d030107")


def load(folder):
    return load_or_create(folder / "state", name="test", now=NOW)


def fingerprint(keys):
    return keys.authority.der, keys.result.private_bytes_raw(), keys.log.private_bytes_raw(), keys.master


def test_keys_are_made_once_and_loaded_again(tmp_path):
    first = load(tmp_path)
    assert fingerprint(load(tmp_path)) == fingerprint(first)
    assert fingerprint(load(tmp_path / "other")) != fingerprint(first)
    assert {path.name for path in (tmp_path / "state").iterdir()} == set(PARTS)


def test_nobody_else_can_read_the_keys(tmp_path):
    load(tmp_path)
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert all((tmp_path / "state" / part).stat().st_mode & 0o077 == 0 for part in PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_made_anew_where_something_was_lost(tmp_path, part):
    load(tmp_path)
    (tmp_path / "state" / part).unlink()
    with pytest.raises(StateError, match=f"lacks {part}"):
        load(tmp_path)


@pytest.mark.parametrize("part", SECRETS)
def test_secret_that_others_can_read_is_refused(tmp_path, part):
    load(tmp_path)
    (tmp_path / "state" / part).chmod(0o640)
    with pytest.raises(StateError, match=f"{part} can be read by others"):
        load(tmp_path)


@pytest.mark.parametrize("part", SECRETS[1:])
@pytest.mark.parametrize("size", [0, 31, 33])
def test_secret_of_another_size_is_refused(tmp_path, part, size):
    load(tmp_path)
    (tmp_path / "state" / part).write_bytes(bytes(size))
    with pytest.raises(StateError, match=f"{part} has {size} bytes, expected 32"):
        load(tmp_path)


def key_on_an_unknown_curve():
    key = generate_private_key(SECP256R1())
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).replace(P256, P256[:-1] + b"\x7f")
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("authority.pem", b"no PEM"),
        ("authority.key", b"no PEM"),
        ("authority.key", key_on_an_unknown_curve()),
    ],
    ids=["certificate", "key", "key on an unknown curve"],
)
def test_authority_that_cannot_be_read_is_refused(tmp_path, part, content):
    load(tmp_path)
    (tmp_path / "state" / part).write_bytes(content)
    with pytest.raises(StateError, match=r"the authority in .* cannot be read"):
        load(tmp_path)


def test_authority_key_of_another_kind_is_refused(tmp_path):
    load(tmp_path)
    pem = signing_key("other").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "state" / "authority.key").write_bytes(pem)
    with pytest.raises(StateError, match="expected P-256"):
        load(tmp_path)


def test_authority_key_of_another_certificate_is_refused(tmp_path):
    load(tmp_path)
    (tmp_path / "state" / "authority.key").write_bytes(key_pem(generate_private_key(SECP256R1())))
    with pytest.raises(StateError, match="is not the key of"):
        load(tmp_path)


@given(st.binary(min_size=32, max_size=32))
def test_wrapped_key_unwraps_to_itself_and_shows_nothing(key):
    wrapped = keyring().wrap(key, key_id="digits-1", version=1)
    assert keyring().unwrap(wrapped, key_id="digits-1", version=1) == key
    assert wrapped != keyring().wrap(key, key_id="digits-1", version=1)


@pytest.mark.parametrize("asked", [{"key_id": "digits-2", "version": 1}, {"key_id": "digits-1", "version": 2}])
def test_wrapped_key_is_not_taken_for_one_of_another_name_or_version(asked):
    wrapped = keyring().wrap(bytes(32), key_id="digits-1", version=1)
    with pytest.raises(StateError, match="cannot be unwrapped"):
        keyring().unwrap(wrapped, **asked)


def test_wrapped_key_of_another_service_is_refused(tmp_path):
    wrapped = load(tmp_path).wrap(bytes(32), key_id="digits-1", version=1)
    with pytest.raises(StateError, match="cannot be unwrapped"):
        keyring().unwrap(wrapped, key_id="digits-1", version=1)
