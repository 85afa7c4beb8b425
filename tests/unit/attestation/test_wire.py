"""Sizes and shape of what travels as evidence."""

import contextlib
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import evidence, wire
from attestation.errors import MalformedEvidenceError
from attestation.evidence import CpuEvidence, DeviceEvidence, Evidence
from attestation.service import attestation_pb2 as pb
from attestation.wire import decode_attestation, decode_cpu, encode_attestation, encode_cpu
from policies import init_data

CPU = CpuEvidence(kind="snp", report=b"report", endorsements=b"table")
GPU = DeviceEvidence(device_class="gpu", vendor="nvidia", report=b"r", chain=b"c")


def message(*, devices=(GPU,), cpu=CPU, **parts):
    usual = {"core": b"core", "init_data": b"init", "grant": b"grant", "csr": b"csr"}
    return encode_attestation(evidence=Evidence(cpu=cpu, devices=tuple(devices)), **(usual | parts))


def changed(change):
    parsed = pb.Attestation.FromString(message())
    change(parsed)
    return parsed.SerializeToString()


def test_attestation_travels_unchanged_and_is_named_by_its_bytes():
    raw = message(devices=(GPU, GPU))
    received = decode_attestation(raw)
    assert received.evidence == Evidence(cpu=CPU, devices=(GPU, GPU))
    assert (received.core, received.init_data, received.grant, received.csr) == (b"core", b"init", b"grant", b"csr")
    assert (received.raw, received.sha256) == (raw, hashlib.sha256(raw).digest())


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_decoding_bytes_raises_nothing_but_malformed(raw):
    with pytest.raises(MalformedEvidenceError):
        decode_attestation(raw)


@settings(max_examples=200)
@given(bit=st.integers(0, len(message()) * 8 - 1))
def test_decoding_flipped_bits_raises_nothing_but_malformed(bit):
    raw = bytearray(message())
    raw[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(MalformedEvidenceError):
        assert decode_attestation(bytes(raw)).raw == raw


@pytest.mark.parametrize(
    ("part", "most"),
    [
        ("core", wire.MAX_CORE_BYTES),
        ("init_data", init_data.MAX_BYTES),
        ("grant", wire.MAX_GRANT_BYTES),
        ("csr", wire.MAX_CSR_BYTES),
    ],
)
def test_part_that_is_absent_or_too_large_is_malformed(part, most):
    decode_attestation(message(**{part: b"x" * most}))
    for size in (0, most + 1):
        with pytest.raises(MalformedEvidenceError, match=f"{part} has {size} bytes, expected 1 to {most}"):
            decode_attestation(message(**{part: b"x" * size}))


def test_attestation_that_is_too_large_is_not_parsed(monkeypatch):
    monkeypatch.setattr(wire, "MAX_ATTESTATION_BYTES", len(message()))
    decode_attestation(message())
    with pytest.raises(MalformedEvidenceError, match="attestation has"):
        decode_attestation(message(csr=b"csr1"))


def _unknown_at_the_top(parsed):
    parsed.MergeFromString(b"\xfa\x01\x01x")


def _unknown_in_the_cpu(parsed):
    parsed.cpu.MergeFromString(b"\xfa\x01\x01x")


def _unknown_in_a_device(parsed):
    parsed.devices[0].MergeFromString(b"\xfa\x01\x01x")


@pytest.mark.parametrize("change", [_unknown_at_the_top, _unknown_in_the_cpu, _unknown_in_a_device])
def test_field_that_this_version_does_not_know_is_malformed(change):
    with pytest.raises(MalformedEvidenceError, match="unknown fields"):
        decode_attestation(changed(change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.cpu, "kind", "sgx"), "kind of TEE is 'sgx'"),
        (lambda m: m.ClearField("cpu"), "kind of TEE is ''"),
        (lambda m: setattr(m.devices[0], "device_class", "cpu"), "device class is 'cpu'"),
        (lambda m: setattr(m.devices[0], "vendor", "acme"), "device vendor is 'acme'"),
    ],
)
def test_kind_that_is_not_known_is_malformed(change, said):
    with pytest.raises(MalformedEvidenceError, match=said):
        decode_attestation(changed(change))


PEM = b"-----BEGIN CERTIFICATE-----"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"cpu": CpuEvidence(kind="snp", report=b"r", endorsements=bytes(evidence.MAX_CPU_BYTES))}, "CPU evidence has"),
        ({"devices": [GPU] * 17}, "evidence of 17 devices"),
        (
            {"devices": [DeviceEvidence(device_class="gpu", vendor="nvidia", report=bytes(1 << 17), chain=b"c")]},
            "gpu evidence has",
        ),
        (
            {"devices": [DeviceEvidence(device_class="gpu", vendor="nvidia", report=b"r", chain=PEM * 9)]},
            "gpu chain has 9 certificates",
        ),
    ],
)
def test_evidence_that_is_too_large_is_malformed(parts, said):
    with pytest.raises(MalformedEvidenceError, match=said):
        decode_attestation(message(**parts))


def test_sixteen_devices_are_read():
    assert len(decode_attestation(message(devices=[GPU] * 16)).evidence.devices) == 16


def test_cpu_evidence_travels_by_itself_and_within_its_size():
    assert decode_cpu(encode_cpu(CPU)) == CPU
    with pytest.raises(MalformedEvidenceError, match="CPU evidence has"):
        decode_cpu(pb.CpuEvidence(kind="snp", report=bytes(evidence.MAX_CPU_BYTES + 1)))
