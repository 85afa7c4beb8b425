"""Strict JSON, and the envelopes that sign it."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from policies.documents import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    Document,
    Ed25519Key,
    Envelope,
    Name,
    Sha256,
    Sha384,
    Versioned,
    check_strict_json,
    key_id,
    payload_type_of,
    raw_public_key,
)
from policies.errors import DocumentExpiredError, DocumentSignatureError, MalformedDocumentError
from tests.fakes.trust_domain import signing_key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEYS = [signing_key(name) for name in ("east", "north", "west")]
PUBLIC = [raw_public_key(key) for key in KEYS]


class Inner(Document):
    kind: Literal["a", "b"]
    count: int = Field(ge=0)


class Sample(Document):
    name: Name
    digest: Sha256
    words: tuple[str, ...]
    inner: dict[Name, Inner]
    note: str | None


SAMPLE = Sample(name="one", digest=b"\x01" * 32, words=("x",), inner={"i": Inner(kind="a", count=1)}, note=None)
RAW = SAMPLE.encode()
ENVELOPE = Envelope.sign(SAMPLE, "sample", KEYS[:2])

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
samples = st.builds(
    Sample,
    name=names,
    digest=st.binary(min_size=32, max_size=32),
    words=st.lists(st.text(st.characters(codec="utf-8"), max_size=10), max_size=3).map(tuple),
    inner=st.dictionaries(
        names, st.builds(Inner, kind=st.sampled_from("ab"), count=st.integers(0, 1 << 70)), max_size=3
    ),
    note=st.none() | st.text(st.characters(codec="utf-8"), max_size=10),
)


# --- documents -------------------------------------------------------------------------------------------------------


@given(samples)
def test_document_travels_unchanged(document):
    assert Sample.parse(document.encode()) == document


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_parsing_bytes_raises_nothing_but_malformed(raw):
    with pytest.raises(MalformedDocumentError):
        Sample.parse(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_parsing_json_raises_nothing_but_malformed(value):
    with pytest.raises(MalformedDocumentError):
        Sample.parse(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"extra": 1}, "extra"),
        ({"name": None}, "name"),
        ({"name": "With Space"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": 1}, "name"),
        ({"digest": "00" * 31}, "digest"),
        ({"digest": "zz" * 32}, "digest"),
        ({"words": "x"}, "words"),
        ({"inner": {"i": {"kind": "c", "count": 1}}}, "inner.i.kind"),
        ({"inner": {"i": {"kind": "a", "count": "1"}}}, "inner.i.count"),
        ({"inner": {"i": {"kind": "a", "count": True}}}, "inner.i.count"),
    ],
)
def test_field_that_is_not_as_it_must_be_is_named(change, named):
    with pytest.raises(MalformedDocumentError, match=named):
        Sample.parse(json.dumps(json.loads(RAW) | change).encode())


@pytest.mark.parametrize("field", json.loads(RAW))
def test_field_that_is_left_out_is_not_assumed(field):
    rest = {name: value for name, value in json.loads(RAW).items() if name != field}
    with pytest.raises(MalformedDocumentError, match=f"{field}: field required"):
        Sample.parse(json.dumps(rest).encode())


class Digests(Document):
    sha256: Sha256
    sha384: Sha384
    key: Ed25519Key


SIZES = {"sha256": 32, "sha384": 48, "key": 32}


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("longer", [-1, 1])
def test_digest_or_key_of_another_size_is_malformed(field, longer):
    sizes = {name: size + longer * (name == field) for name, size in SIZES.items()}
    with pytest.raises(MalformedDocumentError, match=f"{field}: data should have at"):
        Digests.parse(json.dumps({name: "00" * size for name, size in sizes.items()}).encode())


def test_what_was_found_is_said_of_a_value_and_not_of_a_whole_object():
    with pytest.raises(MalformedDocumentError, match="found 'With Space'"):
        Sample.parse(json.dumps(json.loads(RAW) | {"name": "With Space"}).encode())
    with pytest.raises(MalformedDocumentError) as caught:
        Sample.parse(json.dumps(json.loads(RAW) | {"name": {"private": 1}}).encode())
    assert "private" not in caught.value.message


def test_value_that_is_no_object_is_named_as_the_document():
    with pytest.raises(MalformedDocumentError, match="Sample: document: input should be an object"):
        Sample.parse(b"[]")


def test_document_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        SAMPLE.name = "two"


@pytest.mark.parametrize("number", ["1.0", "1e3", "NaN", "Infinity", "-Infinity", "0.5"])
def test_number_that_is_no_integer_is_refused(number):
    with pytest.raises(MalformedDocumentError, match="expected an integer or text"):
        check_strict_json(b'{"a": %b}' % number.encode())


def test_key_that_appears_twice_is_refused_at_any_depth():
    with pytest.raises(MalformedDocumentError, match="'a' appears twice"):
        check_strict_json(b'{"x": [{"a": 1, "a": 1}]}')


@pytest.mark.parametrize("raw", [b"", b"{", b"{} x", b"\xff", b"\xef\xbb\xbf{}", b"[" * 100_000, b"1" * 5000])
def test_bytes_that_are_no_json_are_malformed(raw):
    with pytest.raises(MalformedDocumentError, match="not strict JSON"):
        check_strict_json(raw)


def test_document_is_read_up_to_its_largest_size():
    padding = b" " * (MAX_DOCUMENT_BYTES - len(RAW))
    assert Sample.parse(RAW + padding) == SAMPLE
    with pytest.raises(MalformedDocumentError, match=f"at most {MAX_DOCUMENT_BYTES} are read"):
        Sample.parse(RAW + padding + b" ")


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded(opening, closing):
    def nested(depth):
        return opening * depth + b"1" + closing * depth

    check_strict_json(nested(MAX_DEPTH - 1))
    with pytest.raises(MalformedDocumentError, match="nested deeper"):
        check_strict_json(nested(MAX_DEPTH))


# --- envelopes -------------------------------------------------------------------------------------------------------


def test_envelope_travels_unchanged_and_opens_to_the_very_bytes_that_were_signed():
    travelled = Envelope.parse(ENVELOPE.encode())
    assert travelled == ENVELOPE
    assert travelled.verify("sample", PUBLIC, threshold=2) == RAW
    assert travelled.open(Sample, "sample", PUBLIC, threshold=2) == SAMPLE


def test_signed_bytes_are_those_of_dsse():
    """https://github.com/secure-systems-lab/dsse/blob/master/protocol.md: PAE(type, body)."""
    kind = b"application/vnd.cloister.sample+json"
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(RAW), RAW)
    KEYS[0].public_key().verify(ENVELOPE.signatures[0][1], message)


@pytest.mark.parametrize(
    ("keys", "threshold"),
    [
        (PUBLIC[2:], 1),
        (PUBLIC[1:], 2),
        (PUBLIC, 3),
        (PUBLIC, 0),
        ([], 1),
    ],
)
def test_too_few_valid_signatures_open_nothing(keys, threshold):
    with pytest.raises(DocumentSignatureError):
        ENVELOPE.verify("sample", keys, threshold=threshold)


def test_document_is_parsed_only_once_enough_keys_have_signed_it():
    with pytest.raises(DocumentSignatureError, match="2 valid signatures of the 3 keys"):
        ENVELOPE.open(Sample, "sample", PUBLIC, threshold=3)
    with pytest.raises(DocumentSignatureError, match="0 valid signatures"):
        Envelope.sign(SAMPLE, "sample", KEYS[:1]).open(Inner, "sample", PUBLIC[1:])


def test_one_key_that_signs_twice_counts_once():
    twice = Envelope.sign(SAMPLE, "sample", [KEYS[0], KEYS[0]])
    assert len(twice.signatures) == 2
    with pytest.raises(DocumentSignatureError, match="1 valid signatures"):
        twice.verify("sample", PUBLIC, threshold=2)


def test_signature_under_the_name_of_another_key_does_not_count():
    stolen = Envelope(
        payload_type=ENVELOPE.payload_type,
        payload=RAW,
        signatures=((key_id(PUBLIC[2]), ENVELOPE.signatures[0][1]),),
    )
    with pytest.raises(DocumentSignatureError, match="0 valid signatures"):
        stolen.verify("sample", PUBLIC)


def test_document_of_one_kind_never_opens_as_another():
    with pytest.raises(DocumentSignatureError, match=r"found a document of type .*sample"):
        ENVELOPE.verify("other", PUBLIC)
    renamed = Envelope(payload_type=payload_type_of("other"), payload=RAW, signatures=ENVELOPE.signatures)
    with pytest.raises(DocumentSignatureError, match="0 valid signatures"):
        renamed.verify("other", PUBLIC)


@settings(max_examples=150)
@given(bit=st.integers(0, len(ENVELOPE.encode()) * 8 - 1))
def test_envelope_with_a_flipped_bit_never_opens_with_all_its_signatures(bit):
    raw = bytearray(ENVELOPE.encode())
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedDocumentError, DocumentSignatureError)):
        Envelope.parse(bytes(raw)).verify("sample", PUBLIC, threshold=2)


@given(st.binary(max_size=40))
def test_parsing_an_envelope_raises_nothing_but_malformed(raw):
    with pytest.raises(MalformedDocumentError):
        Envelope.parse(raw)


@given(st.text(st.characters(codec="utf-8"), max_size=8))
def test_payload_that_is_any_text_is_read_as_canonical_base64_or_malformed(text):
    wire = json.loads(ENVELOPE.encode()) | {"payload": text}
    try:
        payload = Envelope.parse(json.dumps(wire).encode()).payload
    except MalformedDocumentError:
        return
    assert base64.b64encode(payload).decode() == text


@pytest.mark.parametrize("text", ["YQ", "YR==", "YQ==\n", "Y Q==", "YQ=", "é", "_-8="])
def test_base64_that_is_not_canonical_is_malformed(text):
    for wire in ({"payload": text}, {"signatures": [{"keyid": "x", "sig": text}]}):
        with pytest.raises(MalformedDocumentError, match="base64"):
            Envelope.parse(json.dumps(json.loads(ENVELOPE.encode()) | wire).encode())


@pytest.mark.parametrize("count", [0, 65])
def test_envelope_has_one_to_64_signatures(count):
    wire = json.loads(ENVELOPE.encode()) | {"signatures": [{"keyid": "x", "sig": ""}] * count}
    with pytest.raises(MalformedDocumentError, match="signatures"):
        Envelope.parse(json.dumps(wire).encode())


# --- versions and validity -------------------------------------------------------------------------------------------


def version(**changes):
    fields = {"version": 1, "previous": None, "issued_at": NOW, "expires_at": NOW + timedelta(days=1)}
    return Versioned(**(fields | changes))


@pytest.mark.parametrize("offset", [timedelta(minutes=-5), timedelta(), timedelta(days=1, microseconds=-1)])
def test_document_is_in_force_from_issue_less_skew_until_expiry(offset):
    version().require_in_force(NOW + offset)


@pytest.mark.parametrize(
    ("offset", "said"),
    [(timedelta(minutes=-5, microseconds=-1), "is in force from"), (timedelta(days=1), "expired at")],
)
def test_document_that_is_not_in_force_is_refused(offset, said):
    with pytest.raises(DocumentExpiredError, match=said):
        version().require_in_force(NOW + offset)


@pytest.mark.parametrize(
    "change", [{"version": 0}, {"previous": "00"}, {"issued_at": 1}, {"issued_at": "2026-01-02T03:04:05"}]
)
def test_version_that_is_malformed_is_refused(change):
    with pytest.raises(MalformedDocumentError, match=next(iter(change))):
        Versioned.parse(json.dumps(json.loads(version().encode()) | change).encode())
