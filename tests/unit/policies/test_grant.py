"""Which machines may act as a node, and for how long."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from policies.documents import Envelope
from policies.errors import DocumentSignatureError
from policies.grant import KIND, MAX_LIFETIME, Grant, HardwareId
from tests.fakes.trust_domain import NOW, domain, signing_key

CHIP = HardwareId(kind="snp-chip-id", value=b"\x01" * 64)


def opened(**changes):
    keys = [signing_key("north").public_key().public_bytes_raw()]
    return Envelope.parse(domain().grant("hospital-a", **changes)).open(Grant, KIND, keys)


def test_grant_allows_only_the_hardware_it_names_and_only_as_what_it_is():
    grant = opened(hardware=(CHIP,))
    assert grant.allows("snp-chip-id", CHIP.value)
    assert not grant.allows("gpu-ueid", CHIP.value)
    assert not grant.allows("snp-chip-id", b"\x02" * 64)


def test_grant_that_another_organisation_signed_does_not_open():
    with pytest.raises(DocumentSignatureError):
        opened(signer="east")


@pytest.mark.parametrize("size", [8, 32, 64])
def test_masked_hardware_id_matches_nothing_and_cannot_be_granted(size):
    with pytest.raises(ValidationError, match="all-zero hardware id"):
        HardwareId(kind="snp-chip-id", value=bytes(size))


@pytest.mark.parametrize("value", [b"\x01" * 7, b"\x01" * 65])
def test_hardware_id_of_another_size_cannot_be_granted(value):
    with pytest.raises(ValidationError, match="value"):
        HardwareId(kind="snp-chip-id", value=value)


def test_grant_lasts_90_days_at_most():
    assert opened(expires_at=NOW + MAX_LIFETIME).expires_at == NOW + timedelta(days=90)
    with pytest.raises(ValidationError, match="at most 90 days are allowed"):
        opened(expires_at=NOW + MAX_LIFETIME + timedelta(microseconds=1))


@pytest.mark.parametrize(
    "change",
    [
        {"hardware": ()},
        {"hardware": (CHIP,) * 257},
        {"images": frozenset()},
        {"images": frozenset(number.to_bytes(48, "big") for number in range(65))},
        {"disk_epoch": -1},
    ],
)
def test_grant_of_nothing_or_of_too_much_cannot_be_made(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        opened(**change)
