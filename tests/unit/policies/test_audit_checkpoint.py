"""Checkpoints, cosignatures and notes follow C2SP to the byte, and nothing looser is read."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.audit.checkpoint import Checkpoint, SignedCheckpoint, encode_cosignature, parse_cosignature
from policies.audit.note import ED25519, Note, SignatureLine, note_key_id
from policies.documents import raw_public_key
from policies.errors import MalformedRecordError, RecordTamperedError

KEY, OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32)), Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
PUBLIC = raw_public_key(KEY)
HEAD = Checkpoint(origin="demo.mock/server", size=12, root=bytes(range(32)))
SIGNED = HEAD.sign(KEY)
RAW = SIGNED.encode()

# The example of Go's golang.org/x/mod/sumdb/note, whose verifier key is PeterNeumann+c74f20a3+ARpc2Qc...
NEUMANN_KEY = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
NEUMANN_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()


def test_published_note_is_read_and_its_signature_holds():
    note = Note.parse(NEUMANN_NOTE)
    line = note.lines[0]
    assert line.key_id == note_key_id("PeterNeumann", ED25519, NEUMANN_KEY) == bytes.fromhex("c74f20a3")
    Ed25519PublicKey.from_public_bytes(NEUMANN_KEY).verify(line.signature, note.text)
    assert note.encode() == NEUMANN_NOTE


def test_checkpoint_is_the_three_lines_of_the_specification():
    assert HEAD.body == b"demo.mock/server\n12\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert RAW.startswith(HEAD.body + b"\n" + "— demo.mock/server ".encode())


def test_signed_checkpoint_is_read_back_and_verified():
    assert SignedCheckpoint.parse(RAW) == SIGNED
    assert SIGNED.verify(origin="demo.mock/server", key=PUBLIC) == HEAD


def test_cosignature_signs_the_time_and_the_body():
    line = HEAD.cosign(name="demo.mock/site-a", key=OTHER, seconds=1679315147)
    message = b"cosignature/v1\ntime 1679315147\n" + HEAD.body
    OTHER.public_key().verify(line.signature[8:], message)
    assert line.signature[:8] == (1679315147).to_bytes(8, "big")
    verified = HEAD.verify_cosignature(line, [PUBLIC, raw_public_key(OTHER)])
    assert (verified.seconds, verified.witness, verified.key) == (1679315147, "demo.mock/site-a", raw_public_key(OTHER))


def test_checkpoint_of_another_log_is_refused():
    with pytest.raises(RecordTamperedError, match=r"demo\.mock/service"):
        SIGNED.verify(origin="demo.mock/service", key=PUBLIC)


def test_checkpoint_signed_by_another_key_is_refused():
    with pytest.raises(RecordTamperedError, match="names the key"):
        SIGNED.verify(origin="demo.mock/server", key=raw_public_key(OTHER))


def test_checkpoint_with_a_forged_signature_is_refused():
    line = SignatureLine(name=HEAD.origin, key_id=SIGNED.signature.key_id, signature=OTHER.sign(HEAD.body))
    with pytest.raises(RecordTamperedError, match="does not hold"):
        SignedCheckpoint(checkpoint=HEAD, signature=line).verify(origin=HEAD.origin, key=PUBLIC)


@pytest.mark.parametrize("change", ["key", "time", "head", "short", "far"])
def test_cosignature_over_something_else_is_refused(change):
    line = HEAD.cosign(name="w", key=OTHER, seconds=5)
    keys, head, signature = [raw_public_key(OTHER)], HEAD, line.signature
    if change == "key":
        keys = [PUBLIC]
    elif change == "time":
        signature = (6).to_bytes(8, "big") + signature[8:]
    elif change == "head":
        head = Checkpoint(origin=HEAD.origin, size=13, root=HEAD.root)
    elif change == "short":
        signature = signature[:-1]
    else:
        signature = b"\xff" * 8 + signature[8:]
    with pytest.raises(RecordTamperedError):
        head.verify_cosignature(SignatureLine(name="w", key_id=line.key_id, signature=signature), keys)


def test_log_signature_is_no_cosignature():
    with pytest.raises(RecordTamperedError, match="names the key"):
        HEAD.verify_cosignature(SIGNED.signature, [PUBLIC])


@pytest.mark.parametrize(
    "raw",
    [
        RAW[:-1],
        RAW + b"\n",
        RAW + b"x",
        RAW.replace(b"\n12\n", b"\n012\n"),
        RAW.replace(b"\n12\n", b"\n+12\n"),
        RAW.replace(b"\n12\n", b"\n12 \n"),
        RAW.replace(b"\n12\n", b"\n12\nmore\n"),
        RAW.replace(b"\n12\n", b"\n12\r\n"),
        RAW.replace(b"Hh8=\n\n", b"Hh9=\n\n"),  # the same 32 bytes, written another way
        RAW.replace(b"Hh8=\n\n", b"Hg==\n\n"),
        RAW.replace(b"demo.mock/server\n12", b"demo mock/server\n12"),
        RAW.replace(b"demo.mock/server\n12", b"\xff\n12"),
        RAW.replace("— ".encode(), b"- "),
        RAW.replace("— demo.mock/server".encode(), "— demo.mock/service".encode()),
        RAW.replace(b"\n\n", b"\n"),
        HEAD.body + b"\n",
        b"",
        RAW.replace(b"\n12\n", b"\n\x0012\n"),
        HEAD.body + b"\n" + "— demo.mock/server AAAA=BBB\n".encode(),
    ],
)
def test_checkpoint_that_is_not_canonical_is_refused(raw):
    with pytest.raises(MalformedRecordError):
        SignedCheckpoint.parse(raw)


def test_note_with_too_many_lines_is_refused():
    with pytest.raises(MalformedRecordError, match="expected 1 to"):
        Note.parse(HEAD.body + b"\n" + SIGNED.signature.encode().encode() * 257)


@given(
    st.binary(max_size=300)
    | st.builds(lambda at, byte: RAW[:at] + byte + RAW[at + 1 :], st.integers(0, 150), st.binary(max_size=3))
)
@settings(max_examples=150)
def test_parsing_raises_nothing_but_malformed_and_is_canonical(raw):
    try:
        signed = SignedCheckpoint.parse(raw)
    except MalformedRecordError:
        return
    assert signed.encode() == raw


def test_stored_cosignature_is_read_back():
    line = HEAD.cosign(name="w", key=OTHER, seconds=5)
    assert parse_cosignature(encode_cosignature(12, line)) == (12, line)


@pytest.mark.parametrize(
    "entry", [b"", b"12", b"12\n", b"01\n\xe2\x80\x94 w AAAAAAAA\n", b"\xff\n", b"x\n\xe2\x80\x94 w AAAAAAAA\n"]
)
def test_stored_cosignature_of_another_form_is_refused(entry):
    with pytest.raises(MalformedRecordError):
        parse_cosignature(entry)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "ä"])
def test_key_name_with_a_space_or_plus_is_refused(name):
    with pytest.raises(MalformedRecordError, match="key name"):
        note_key_id(name, ED25519, PUBLIC)


def test_note_with_a_control_character_is_refused():
    with pytest.raises(MalformedRecordError, match="control"):
        Note.parse(b"a\x1bb\n\n" + SIGNED.signature.encode().encode())


@pytest.mark.parametrize("origin", ["", "server", "demo.mock/", "demo.mock/a/b", "demo mock/server", "Demo/server"])
def test_origin_of_another_form_is_refused(origin):
    with pytest.raises(MalformedRecordError, match="origin"):
        Checkpoint.parse(HEAD.body.replace(b"demo.mock/server", origin.encode()))
