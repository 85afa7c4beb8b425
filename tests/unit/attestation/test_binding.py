"""What report data holds: pinned as bytes, because two implementations must agree on it."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.binding import (
    core_hash,
    device_digest,
    device_nonce,
    peer_nonces_digest,
    report_data,
    require_equal,
    service_report_data,
)
from attestation.errors import BindingMismatchError
from attestation.evidence import DeviceEvidence

DEVICE = DeviceEvidence(device_class="gpu", vendor="nvidia", report=b"report", chain=b"chain")
OTHER = replace(DEVICE, report=b"other")


def test_report_data_is_the_digest_that_the_protocol_names():
    core = hashlib.sha384(b"cloister-v1 core\0\0\0\0\x04core").digest()
    assert core_hash(b"core") == core
    device = b"\0\0\0\x03gpu" + hashlib.sha384(b"report").digest() + hashlib.sha384(b"chain").digest()
    devices = hashlib.sha384(b"cloister-v1 device-evidence\0\0\x01" + device).digest()
    assert device_digest([DEVICE]) == devices
    expected = hashlib.sha512(b"cloister-v1 report-data\0\0\0\0\x03snp" + core + devices).digest()
    assert report_data("snp", b"core", [DEVICE]) == expected
    nonce = hashlib.sha256(b"cloister-v1 device-nonce\0" + core + b"\0\x01\0\x02").digest()
    assert device_nonce(core, 1, 2) == nonce


def test_report_data_of_the_service_is_of_another_domain():
    core = hashlib.sha384(b"cloister-v1 service-core\0\0\0\0\x04core").digest()
    expected = hashlib.sha512(b"cloister-v1 service-report-data\0\0\0\0\x03snp" + core).digest()
    assert service_report_data("snp", b"core") == expected


def test_every_part_of_the_evidence_changes_the_report_data():
    parts = [
        ("snp", b"core", [DEVICE]),
        ("tdx", b"core", [DEVICE]),
        ("snp", b"cor", [DEVICE]),
        ("snp", b"core", []),
        ("snp", b"core", [DEVICE, DEVICE]),
        ("snp", b"core", [OTHER]),
        ("snp", b"core", [replace(DEVICE, chain=b"other")]),
        ("snp", b"core", [replace(DEVICE, device_class="switch")]),
        ("snp", b"core", [DEVICE, OTHER]),
        ("snp", b"core", [OTHER, DEVICE]),
    ]
    assert len({report_data(*part) for part in parts}) == len(parts)


def test_every_device_of_every_count_has_a_nonce_of_its_own():
    places = [(index, count) for count in range(1, 17) for index in range(count)]
    assert len({device_nonce(bytes(48), *place) for place in places}) == len(places)


nonces = st.lists(st.binary(min_size=32, max_size=32), max_size=4)


@given(nonces)
def test_digest_of_nonces_depends_on_what_they_are_and_not_on_their_order(given_nonces):
    assert peer_nonces_digest(given_nonces) == peer_nonces_digest(reversed(given_nonces))
    assert peer_nonces_digest(given_nonces) != peer_nonces_digest([*given_nonces, bytes(32)])


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_only_equal_bytes_are_equal(found, expected):
    if found == expected:
        require_equal("it", found, expected)
    else:
        with pytest.raises(BindingMismatchError, match="it is "):
            require_equal("it", found, expected)
