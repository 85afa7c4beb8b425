import struct
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import EndorsementError, MalformedEvidenceError
from attestation.snp.certificate_table import MAX_TABLE_SIZE, CertificateTable
from tests.fakes.lab_snp import endorsements
from tests.fakes.lab_x509 import pem

ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes
VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes


def table(*entries: tuple[bytes, int, int], body: bytes = b"", end: bytes = bytes(24)) -> bytes:
    return b"".join(guid + struct.pack("<II", offset, length) for guid, offset, length in entries) + end + body


def test_table_gives_certificates_by_guid():
    found = CertificateTable.parse(table((VCEK, 72, 2), (ARK, 74, 3), body=b"vcark"))
    assert found == CertificateTable(vcek=b"vc", ark=b"ark")


def test_root_in_pem_is_turned_into_der():
    root = endorsements().root
    text = pem(root)
    assert CertificateTable.parse(table((ARK, 48, len(text)), body=text)).ark == root


def test_pem_with_two_certificates_is_malformed():
    text = pem(endorsements().root, endorsements().root)
    with pytest.raises(MalformedEvidenceError, match="2 certificates as ark, expected one"):
        CertificateTable.parse(table((ARK, 48, len(text)), body=text))


def test_entry_of_another_guid_is_passed_over():
    assert CertificateTable.parse(table((uuid4().bytes, 48, 2), body=b"xy")) == CertificateTable()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no terminator"),
        (table((ARK, 24, 1), end=b""), "no terminator"),
        (table((ARK, 48, 1), body=b"a", end=bytes(23))[:47], "no terminator"),
        (table(*((uuid4().bytes, 0, 0) for _ in range(17))), "no terminator"),
        (table((ARK, 72, 1), (ARK, 73, 1), body=b"ab"), "twice"),
        (table((ARK, 48, 2), body=b"a"), "entry is at 48 with 2 bytes, expected between 48 and 49"),
        (table((ARK, 0xFFFFFFF0, 0x20), body=b""), "entry is at 4294967280"),
        (table((ARK, 47, 1), body=b"a"), "entry is at 47"),
        (table((ARK, 48, 0)), "with 0 bytes"),
        (table((ARK, 72, 3), (VCEK, 74, 2), body=b"abcd"), "entry is at 74"),
        (table((ARK, 48, 1), body=b"ab"), "1 bytes that belong to no entry"),
        (table((ARK, 49, 1), body=b"ab"), "1 bytes that belong to no entry"),
        (table() + bytes(MAX_TABLE_SIZE), "expected at most 65536"),
    ],
)
def test_table_that_does_not_hold_together_is_malformed(raw, message):
    with pytest.raises(MalformedEvidenceError, match=message):
        CertificateTable.parse(raw)


def test_table_may_be_padded_with_zeros():
    assert CertificateTable.parse(table((ARK, 52, 1), body=b"\0\0\0\0a" + bytes(100))).ark == b"a"


DERS = st.binary().map(lambda content: b"\x30" + content)  # what starts otherwise may be taken for PEM


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("ark", "ask", "vcek", "vlek", "crl"), DERS)))
def test_encoded_table_is_read_back(entries):
    expected = CertificateTable(**entries)
    assert CertificateTable.parse(expected.encode()) == expected


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 47), st.integers(0, 255))
def test_parse_of_any_bytes_raises_nothing_but_malformed(raw, position, value):
    edited = bytearray(table((ARK, 48, 5), body=b"certs"))
    edited[position] = value
    for candidate in (raw, bytes(edited)):
        with suppress(MalformedEvidenceError):
            CertificateTable.parse(candidate)


@pytest.mark.parametrize("kind", ["vcek", "vlek"])
def test_complete_table_gives_endorsements(kind):
    good = endorsements("Milan", kind)
    given_ = CertificateTable(ark=good.root, ask=good.intermediate, **{kind: good.vek})
    assert given_.endorsements() == good


@pytest.mark.parametrize("missing", ["ark", "ask", "vcek"])
def test_table_without_a_certificate_gives_no_endorsements(missing):
    entries = {"ark": b"a", "ask": b"b", "vcek": b"c"}
    del entries[missing]
    with pytest.raises(EndorsementError, match="expected ark, ask and one of vcek and vlek"):
        CertificateTable(**entries).endorsements()


def test_table_with_both_kinds_of_vek_gives_no_endorsements():
    with pytest.raises(EndorsementError, match="a VCEK and a VLEK, expected one"):
        CertificateTable(ark=b"a", ask=b"b", vcek=b"c", vlek=b"d").endorsements()
