from dataclasses import replace

import pytest

from attestation.errors import AppraisalError, BindingMismatchError
from attestation.findings import Finding
from attestation.snp.appraise import SnpExpectations, appraise, verify_binding
from attestation.snp.tcb import Tcb
from attestation.snp.verify import verify
from tests.fakes.lab_snp import CHIP_ID, CSP, LabReport, anchors, endorsements
from tests.fakes.lab_x509 import NOW

NOTHING = SnpExpectations(measurements=None, host_data=None, min_tcb=None, chip_ids=None)
FLOOR = Tcb(bootloader=4, snp=0x18, microcode=0xDB)
STRICT = SnpExpectations(
    measurements=frozenset({b"\x4d" * 48}),
    host_data=b"\x48" * 32,
    min_tcb=FLOOR,
    chip_ids=frozenset({CHIP_ID}),
    products=frozenset({"Milan"}),
    id_key_digest=bytes(48),
    author_key_digest=bytes(48),
    min_guest_svn=3,
    launch_mitigations=0x0B,
    current_mitigations=0x0B,
)


def claims(*, product="Milan", kind="vcek", **changes):
    report = LabReport(product=product, key_info=1 << 2 if kind == "vlek" else 0, **changes).encode()
    return verify(report, endorsements(product, kind), anchors=anchors(product), now=NOW)


def fields(found: tuple[Finding, ...], *, status="contraindicated") -> list[str]:
    return [finding.field for finding in found if finding.status == status]


def test_good_guest_has_no_findings_even_when_everything_is_asked():
    assert appraise(claims(), STRICT) == ()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"policy": 0x30000 | 1 << 19}, "snp.policy.debug"),
        ({"policy": 0x30000 | 1 << 18}, "snp.policy.migrate_ma"),
        ({"report_id_ma": b"\x0a" * 32}, "snp.policy.migrate_ma"),
        ({"vmpl": 1}, "snp.vmpl"),
        ({"vmpl": 0xFFFFFFFF}, "snp.vmpl"),
        ({"version": 2}, "snp.report_version"),
        ({"platform_info": 0x05}, "snp.platform.alias_check_complete"),
    ],
)
def test_defaults_refuse_what_no_policy_should_have_to_name(change, field):
    assert fields(appraise(claims(**change), NOTHING)) == [field]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"measurement": b"\x4e" * 48}, ["snp.measurement"]),
        ({"host_data": b"\x49" * 32}, ["snp.host_data"]),
        ({"id_key_digest": b"\1" * 48}, ["snp.id_key_digest"]),
        ({"author_key_digest": b"\1" * 48, "key_info": 1}, ["snp.author_key_digest"]),
        ({"guest_svn": 2}, ["snp.guest_svn"]),
        ({"launch_tcb": "04000000000018da"}, ["snp.launch_tcb"]),
        ({"launch_tcb": "04000000000017db"}, ["snp.launch_tcb"]),
        ({"launch_mitigations": 0x03}, ["snp.launch_mitigations"]),
        ({"current_mitigations": 0x03}, ["snp.current_mitigations"]),
        ({"version": 4}, ["snp.launch_mitigations", "snp.current_mitigations"]),
    ],
)
def test_guest_that_is_not_what_the_policy_asks_is_found(change, found):
    key_info = change.pop("key_info", 0)
    report = LabReport(key_info=key_info, **change).encode()
    verified = verify(report, endorsements(), anchors=anchors(), now=NOW)
    assert fields(appraise(verified, STRICT)) == found


def test_floor_above_the_platform_is_found_in_each_tcb():
    floor = replace(STRICT, min_tcb=Tcb(snp=0x18, microcode=0xDC))
    assert fields(appraise(claims(), floor)) == ["snp.reported_tcb", "snp.committed_tcb", "snp.launch_tcb"]


def test_committed_tcb_may_satisfy_a_floor_that_reported_does_not():
    verified = claims(committed_tcb="04000000000018dd", current_tcb="04000000000018dd", launch_tcb="04000000000018dd")
    asked = replace(STRICT, min_tcb=Tcb(microcode=0xDC))
    assert fields(appraise(verified, asked)) == ["snp.reported_tcb"]


def test_floor_in_the_older_layout_is_found_on_turin():
    verified = claims(product="Turin")
    assert "snp.reported_tcb" in fields(appraise(verified, replace(NOTHING, min_tcb=Tcb())))
    assert appraise(verified, replace(NOTHING, min_tcb=Tcb(fmc=1, snp=4))) == ()


def test_smt_is_found_only_where_the_policy_forbids_it():
    forbidding = replace(NOTHING, allow_smt=False)
    assert fields(appraise(claims(), forbidding)) == ["snp.platform.smt"]
    assert appraise(claims(platform_info=0x24), forbidding) == ()
    assert appraise(claims(), NOTHING) == ()


def test_alias_check_is_not_asked_where_the_policy_gives_it_up():
    assert appraise(claims(platform_info=0x05), replace(NOTHING, alias_check_complete=False)) == ()


@pytest.mark.parametrize(
    ("platform", "policy", "found"),
    [
        (0x35, 1 << 24, []),
        (0x35, 0, ["snp.platform.ciphertext_hiding_dram"]),
        (0x25, 1 << 24, ["snp.platform.ciphertext_hiding_dram"]),
    ],
    ids=["both", "platform-only", "policy-only"],
)
def test_ciphertext_hiding_must_be_on_and_in_the_guests_policy(platform, policy, found):
    verified = claims(platform_info=platform, policy=0x30000 | policy)
    assert fields(appraise(verified, replace(NOTHING, ciphertext_hiding=True))) == found


def test_vlek_is_found_unless_the_policy_lists_it_and_the_provider():
    verified = claims(kind="vlek", chip_id=bytes(64))
    both = frozenset({"vcek", "vlek"})
    assert fields(appraise(verified, NOTHING)) == ["snp.signing_key"]
    assert fields(appraise(verified, replace(NOTHING, signing_keys=both))) == ["snp.csp_id"]
    assert appraise(verified, replace(NOTHING, signing_keys=both, vlek_csps=frozenset({CSP}))) == ()


def test_masked_chip_id_never_matches_even_a_list_that_holds_zeros():
    verified = claims(kind="vlek", chip_id=bytes(64))
    asked = replace(
        NOTHING,
        signing_keys=frozenset({"vlek"}),
        vlek_csps=frozenset({CSP}),
        chip_ids=frozenset({bytes(64)}),
    )
    assert fields(appraise(verified, asked)) == ["snp.chip_id"]


def test_empty_sets_accept_nothing():
    empty = replace(
        NOTHING, measurements=frozenset(), chip_ids=frozenset(), products=frozenset(), signing_keys=frozenset()
    )
    expected = ["snp.measurement", "snp.product", "snp.signing_key", "snp.chip_id"]
    assert fields(appraise(claims(), empty)) == expected


def test_chip_that_is_not_enrolled_is_found():
    asked = replace(NOTHING, chip_ids=frozenset({CHIP_ID[::-1]}))
    assert fields(appraise(claims(), asked)) == ["snp.chip_id"]


def test_undocumented_platform_bit_is_a_warning_that_comes_last():
    found = appraise(claims(platform_info=0x65, vmpl=1), NOTHING)
    assert [(finding.field, finding.status) for finding in found] == [
        ("snp.vmpl", "contraindicated"),
        ("snp.platform.reserved_bit_6", "warning"),
    ]


def test_every_finding_says_what_to_do():
    found = appraise(claims(policy=0x30000 | 1 << 19 | 1 << 18, vmpl=2, version=2, platform_info=0x41), STRICT)
    assert len(found) >= 6
    assert all(finding.repair and finding.found != finding.expected for finding in found)


def test_appraisal_error_lists_every_finding_worst_first_with_the_repair_of_the_worst():
    found = appraise(claims(platform_info=0x65, vmpl=1), NOTHING)
    error = AppraisalError("site alpha", findings=found[::-1])
    assert error.findings == found
    expected = "site alpha: snp.vmpl is 1, expected 0; snp.platform.reserved_bit_6 is on, expected off"
    assert str(error) == expected
    assert error.hint == "ask for the report at VMPL 0"


def test_report_made_for_this_session_is_bound():
    verify_binding(claims(), bytes(range(64)))


@pytest.mark.parametrize("other", [bytes(64), bytes(range(63)), b""])
def test_report_made_for_another_session_is_rejected(other):
    with pytest.raises(BindingMismatchError, match="report data is 0001"):
        verify_binding(claims(), other)
