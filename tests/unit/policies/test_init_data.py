"""What a guest is launched with, and the digest of it."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import MalformedDocumentError
from policies.init_data import MAX_BYTES, init_data_digest, parse_init_data
from tests.fakes.trust_domain import TRUST_DOMAIN, domain


def test_init_data_travels_unchanged():
    raw = domain().init_data("hospital-a")
    parsed = parse_init_data(raw)
    assert (parsed.node, parsed.role, parsed.trust_domain) == ("hospital-a", "site", TRUST_DOMAIN)
    assert parsed.encode() == raw


def test_init_data_is_read_up_to_its_largest_size():
    raw = domain().init_data("hospital-a")
    padding = b" " * (MAX_BYTES - len(raw))
    parse_init_data(raw + padding)
    with pytest.raises(MalformedDocumentError, match=f"at most {MAX_BYTES} are allowed"):
        parse_init_data(raw + padding + b" ")


@given(st.binary(max_size=40))
def test_parsing_init_data_raises_nothing_but_malformed(raw):
    with pytest.raises(MalformedDocumentError):
        parse_init_data(raw)


@pytest.mark.parametrize(
    "change",
    [{"root_sha256": bytes(31)}, {"organisation_key": bytes(31)}, {"organisation_key": bytes(33)}, {"role": "admin"}],
)
def test_field_of_another_size_or_kind_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        domain().init_data("hospital-a", **change)


def test_digest_is_sha256_over_the_domain_string_and_the_length():
    raw = b"init"
    assert init_data_digest(raw) == hashlib.sha256(b"cloister-v1 init-data\0" + b"\0\0\0\x04init").digest()
