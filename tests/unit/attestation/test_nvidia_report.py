from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import MalformedEvidenceError
from attestation.nvidia_gpu.report import MAX_REPORT_SIZE, GpuReport
from tests.fakes.lab_nvidia import FWID, NONCE, SWITCH, LabReport, block, measurement, opaque_field

GOOD = LabReport()
RAW = GOOD.encode()
VALUE = measurement(1)


def test_report_of_a_gpu_gives_every_field():
    report = GpuReport.parse(RAW)
    assert report.nonce == NONCE
    assert report.measurements == {index: measurement(index) for index in range(1, 65)}
    assert (report.driver_version, report.vbios_version) == ("580.95.05", "96.00.9f.00.01")
    assert (report.fwid, report.feature) == (FWID, "spt")
    assert (report.nvdec0_enabled, report.protected_pcie) == (False, False)
    assert report.opaque[34] == b"\x01\x00"
    assert report.signed == GOOD.signed()
    assert report.r.to_bytes(48, "big") + report.s.to_bytes(48, "big") == RAW[-96:]


def test_report_of_a_switch_has_no_driver_and_a_textual_vbios_version():
    report = GpuReport.parse(SWITCH.encode())
    assert (report.driver_version, report.vbios_version) == (None, "96.10.55.00.01")
    assert (report.fwid, report.feature, report.nvdec0_enabled, report.protected_pcie) == (None, None, None, None)
    assert len(report.measurements) == 31


@pytest.mark.parametrize(("flag", "feature"), [(0, "spt"), (1, "mpt"), (2, "ppcie")])
def test_feature_flag_is_read(flag, feature):
    assert GpuReport.parse(GOOD.with_fields(_36=bytes((flag, 0))).encode()).feature == feature


def test_opaque_field_that_is_not_known_is_kept():
    assert GpuReport.parse(GOOD.with_fields(_40=b"new").encode()).opaque[40] == b"new"


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_each_kind_of_digest_is_a_measurement(kind):
    assert GpuReport.parse(GOOD.but(blocks=(block(1, VALUE, kind=kind),)).encode()).measurements == {1: VALUE}


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (GOOD.but(request=bytes.fromhex("12e001ff")), "request starts with 12e001ff"),
        (GOOD.but(request=bytes.fromhex("118401ff")), "request starts with 118401ff"),
        (GOOD.but(request=bytes.fromhex("11e000ff")), "request starts with 11e000ff"),
        (GOOD.but(request=bytes.fromhex("11e00101")), "request starts with 11e00101"),
        (GOOD.but(slot=b"\1"), "certificate slot starts with 01"),
        (GOOD.but(response=bytes.fromhex("12600000")), "response starts with 12600000"),
        (GOOD.but(response=bytes.fromhex("117f0000")), "response starts with 117f0000"),
        (GOOD.but(response=bytes.fromhex("11600001")), "response starts with 11600001"),
        (GOOD.but(block_count=63), "64 measurements, expected 63"),
        (GOOD.but(block_count=65), "64 measurements, expected 65"),
        (GOOD.but(blocks=()), "0 measurements"),
        (GOOD.but(record_length=0xFFFFFF), "measurement record has"),
        (GOOD.but(record_length=55), "opaque"),
        (GOOD.but(blocks=(block(1, VALUE), block(1, VALUE))), "measurement 1 is zero or comes twice"),
        (GOOD.but(blocks=(block(0, VALUE),)), "measurement 0 is zero"),
        (GOOD.but(blocks=(block(1, VALUE, specification=2),)), "specification 2 and type 1"),
        (GOOD.but(blocks=(block(1, VALUE, kind=4),)), "specification 1 and type 4"),
        (GOOD.but(blocks=(block(1, VALUE, kind=0x81),)), "type 129"),
        (GOOD.but(blocks=(block(1, VALUE[:32]),)), "32 bytes in a block of 35"),
        (GOOD.but(blocks=(block(1, VALUE, size=50),)), "48 bytes in a block of 50"),
        (GOOD.but(blocks=(block(1, VALUE)[:-1],)), "measurement 1 has 47 bytes left"),
        (GOOD.but(opaque_length=0xFFFF), "opaque data has"),
        (GOOD.but(more_opaque=opaque_field(3, b"900.00\0")), "opaque field 3 is invalid or comes twice"),
        (GOOD.but(more_opaque=opaque_field(255, b"")), "opaque field 255 is invalid"),
        (GOOD.but(more_opaque=b"\x28"), "opaque type has 1 bytes left"),
        (GOOD.but(more_opaque=b"\x28\0\x02\0x"), "opaque field 40 has 1 bytes left"),
        (GOOD.with_fields(_36=b"\x09\0"), "feature flag is 9"),
        (GOOD.with_fields(_36=b"\0"), "opaque field 36 has 1 bytes, expected 2"),
        (GOOD.with_fields(_20=FWID[:32]), "opaque field 20 has 32 bytes, expected 48"),
        (GOOD.with_fields(_11=b"\0"), "opaque field 11 is 00"),
        (GOOD.with_fields(_21=b"\1"), "opaque field 21 is 01"),
        (GOOD.with_fields(_6=None), "no VBIOS version"),
        (GOOD.with_fields(_6=b"\0\0"), "VBIOS version is 0000"),
        (GOOD.with_fields(_3=b"\xff580\0"), "driver version is"),
        (GOOD.with_fields(_3=b"580\n\0"), "driver version is"),
        (GOOD.with_fields(_3=b"580\x000"), "driver version is"),
        (GOOD.with_fields(_3=b"\0"), "driver version is 00"),
    ],
)
def test_report_that_does_not_follow_the_format_is_malformed(report, message):
    with pytest.raises(MalformedEvidenceError, match=message):
        GpuReport.parse(report.encode())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "request has 0 bytes left"),
        (RAW[:37], "response has 0 bytes left"),
        (RAW[37:], "request starts with 11600000"),
        (RAW[:-1], "signature has 95 bytes left"),
        (RAW + b"\0", "1 bytes behind its end"),
        (RAW + bytes(MAX_REPORT_SIZE), "expected at most 131072"),
    ],
)
def test_report_of_a_wrong_length_is_malformed(raw, message):
    with pytest.raises(MalformedEvidenceError, match=message):
        GpuReport.parse(raw)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_parse_of_any_bytes_raises_nothing_but_malformed(raw, with_request):
    with suppress(MalformedEvidenceError):
        GpuReport.parse(RAW[:41] + raw if with_request else raw)


@settings(max_examples=150, deadline=None)
@given(st.integers(0), st.integers(0, 255), st.integers(0, len(RAW)))
def test_parse_of_an_edited_report_raises_nothing_but_malformed(position, value, size):
    raw = bytearray(RAW)
    raw[position % len(raw)] = value
    with suppress(MalformedEvidenceError):
        GpuReport.parse(bytes(raw))
    with suppress(MalformedEvidenceError):
        GpuReport.parse(bytes(raw[:size]))
