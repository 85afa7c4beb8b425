from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attestation.errors import MalformedEvidenceError
from attestation.snp.report import HOST_VMPL, SnpReport
from attestation.snp.tcb import Tcb
from tests.fakes.lab_snp import CHIP_ID, LabReport

GOOD = LabReport().encode()


def test_report_gives_every_field_at_its_offset():
    report = SnpReport.parse(LabReport(author_key_digest=b"\xaa" * 48, key_info=0b00111).encode())
    assert (report.version, report.guest_svn, report.vmpl) == (5, 3, 0)
    assert (report.policy.abi_major, report.policy.smt_allowed, report.policy.debug) == (0, True, False)
    assert (report.family_id, report.image_id) == (b"\xfa" * 16, b"\x1a" * 16)
    assert (report.report_data, report.measurement) == (bytes(range(64)), b"\x4d" * 48)
    assert (report.host_data, report.id_key_digest) == (b"\x48" * 32, bytes(48))
    assert (report.author_key_enabled, report.mask_chip_key, report.signing_key) == (True, True, "vlek")
    assert report.author_key_digest == b"\xaa" * 48
    assert (report.report_id, report.report_id_ma, report.chip_id) == (b"\x1d" * 32, b"\xff" * 32, CHIP_ID)
    assert (report.product, report.reported_tcb) == ("Milan", Tcb(bootloader=4, snp=0x18, microcode=0xDB))
    assert (str(report.current_version), str(report.committed_version)) == ("1.55.29", "1.54.28")
    assert (report.launch_mitigations, report.current_mitigations) == (0x0B, 0x0B)
    assert report.platform_info.smt_enabled
    assert report.platform_info.alias_check_complete
    assert report.signed == LabReport(author_key_digest=b"\xaa" * 48, key_info=0b00111).body()


def test_tcbs_are_read_each_at_its_own_offset():
    report = SnpReport.parse(
        LabReport(
            current_tcb="04000000000018dd",
            reported_tcb="04000000000018da",
            committed_tcb="04000000000018dc",
            launch_tcb="04000000000018db",
        ).encode()
    )
    found = (report.current_tcb, report.reported_tcb, report.committed_tcb, report.launch_tcb)
    assert [tcb.microcode for tcb in found] == [0xDD, 0xDA, 0xDC, 0xDB]


@pytest.mark.parametrize("version", [3, 4])
def test_version_3_and_4_have_a_cpuid_and_no_mitigation_vectors(version):
    report = SnpReport.parse(LabReport(version=version).encode())
    assert (report.product, report.launch_mitigations, report.current_mitigations) == ("Milan", None, None)


def test_version_2_has_no_product():
    assert SnpReport.parse(LabReport(version=2).encode()).product is None


def test_turin_report_is_read_in_its_own_layout():
    report = SnpReport.parse(LabReport(product="Turin").encode())
    assert report.reported_tcb == Tcb(fmc=1, bootloader=1, tee=1, snp=4, microcode=0x51)


@pytest.mark.parametrize("size", [0, 1183, 1185, 1312])
def test_report_of_another_size_is_malformed(size):
    with pytest.raises(MalformedEvidenceError, match=f"report has {size} bytes, expected 1184"):
        SnpReport.parse((GOOD + bytes(128))[:size])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "report version is 1,"),
        ({"version": 6}, "report version is 6,"),
        ({"version": 65538}, "report version is 65538,"),
        ({"algorithm": 0}, "signature algorithm is 0,"),
        ({"algorithm": 2}, "signature algorithm is 2,"),
        ({"vmpl": 4}, "VMPL is 4,"),
        ({"key_info": 1 << 5}, "key info is 0x20,"),
        ({"key_info": 2 << 2}, "key info is 0x8,"),
        ({"policy": 0x10000}, "policy is 0x10000,"),
        ({"policy": 0x30000 | 1 << 26}, "policy is 0x4030000,"),
        ({"platform_info": 1 << 8}, "platform info is 0x100,"),
        ({"author_key_digest": b"\1" * 48}, "author key digest is set,"),
        ({"patches": {0x188: b"\x17\x01"}}, "CPUID family 0x17 model 0x1 is unknown"),
        ({"patches": {0x189: b"\x20"}}, "CPUID family 0x19 model 0x20 is unknown"),
        ({"patches": {0x188: b"\x1a\x12"}}, "CPUID family 0x1a model 0x12 is unknown"),
        ({"current_tcb": "04000100000018db"}, "TCB version 04000100000018db has reserved bytes set"),
        ({"product": "Turin", "launch_tcb": "0101010400010051"}, "TCB version 0101010400010051 has reserved"),
        ({"patches": {0x2A0 + 48: b"\1"}}, "signature r is longer"),
        ({"patches": {0x2E8 + 71: b"\1"}}, "signature s is longer"),
    ],
)
def test_report_with_a_wrong_field_is_malformed(change, message):
    with pytest.raises(MalformedEvidenceError, match=message):
        SnpReport.parse(LabReport(**change).encode())


@pytest.mark.parametrize(
    ("version", "offset"),
    [
        *[(version, offset) for version in (2, 3, 4, 5) for offset in (0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF)],
        *[(version, offset) for version in (2, 3, 4, 5) for offset in (0x208, 0x29F, 0x330, 0x49F)],
        *[(version, offset) for version in (2, 3, 4) for offset in (0x1F8, 0x207)],
        *[(2, offset) for offset in (0x188, 0x189, 0x18A)],
    ],
)
def test_report_with_a_reserved_byte_set_is_malformed(version, offset):
    raw = LabReport(version=version, patches={offset: b"\1"}).encode()
    with pytest.raises(MalformedEvidenceError, match="reserved bytes"):
        SnpReport.parse(raw)


def test_report_asked_for_by_the_host_is_read():
    assert SnpReport.parse(LabReport(vmpl=HOST_VMPL).encode()).vmpl == HOST_VMPL


def test_undocumented_platform_bit_6_is_read_as_a_flag():
    assert SnpReport.parse(LabReport(platform_info=0x65).encode()).platform_info.reserved_bit_6


@pytest.mark.parametrize(
    ("bit", "flag"),
    [
        (0, "smt_enabled"),
        (1, "tsme_enabled"),
        (2, "ecc_enabled"),
        (3, "rapl_disabled"),
        (4, "ciphertext_hiding_dram"),
        (5, "alias_check_complete"),
        (6, "reserved_bit_6"),
        (7, "tio_enabled"),
    ],
)
def test_each_platform_bit_is_one_flag(bit, flag):
    platform = SnpReport.parse(LabReport(platform_info=1 << bit).encode()).platform_info
    assert [name for name in platform.__slots__ if getattr(platform, name)] == [flag]


@pytest.mark.parametrize(
    ("bit", "flag"),
    [
        (16, "smt_allowed"),
        (18, "migrate_ma"),
        (19, "debug"),
        (20, "single_socket"),
        (21, "cxl_allowed"),
        (22, "mem_aes_256_xts"),
        (23, "rapl_disabled"),
        (24, "ciphertext_hiding_dram"),
        (25, "page_swap_disabled"),
    ],
)
def test_each_policy_bit_is_one_flag(bit, flag):
    policy = SnpReport.parse(LabReport(policy=1 << 17 | 1 << bit).encode()).policy
    assert [name for name in policy.__slots__ if getattr(policy, name)] == [flag]


@pytest.mark.parametrize(
    ("cpuid", "product"),
    [("1900", "Milan"), ("190f", "Milan"), ("1910", "Genoa"), ("19a0", "Genoa"), ("1a00", "Turin"), ("1a11", "Turin")],
)
def test_cpuid_names_the_product_line(cpuid, product):
    raw = LabReport(product=product, patches={0x188: bytes.fromhex(cpuid)}).encode()
    assert SnpReport.parse(raw).product == product


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64) | st.binary(min_size=1184, max_size=1184))
@example(b"")
def test_parse_of_any_bytes_raises_nothing_but_malformed(raw):
    with suppress(MalformedEvidenceError):
        SnpReport.parse(raw)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1184 * 8 - 1), st.integers(1, 1184))
def test_parse_of_an_edited_report_raises_nothing_but_malformed(bit, size):
    raw = bytearray(GOOD)
    raw[bit // 8] ^= 1 << bit % 8
    with suppress(MalformedEvidenceError):
        SnpReport.parse(bytes(raw[:size]) if size % 4 == 0 else bytes(raw))
