from dataclasses import replace

import pytest

from attestation.errors import BindingMismatchError
from attestation.tdx.appraise import TdxExpectations, appraise, verify_binding
from attestation.tdx.verify import verify
from tests.fakes.lab_tdx import PPID, LabQuote, anchors, collateral
from tests.fakes.lab_x509 import NOW

CLAIMS = verify(LabQuote(version=5, extended=True).encode(), collateral(), anchors=anchors(), now=NOW)
ANYTHING = TdxExpectations(mr_tds=None, mr_config_id=None, ppids=None, min_tcb_evaluation_data_number=0)
EXACTLY = TdxExpectations(
    mr_tds=frozenset({b"\x4d" * 48}),
    mr_config_id=b"\xc1" * 48,
    ppids=frozenset({PPID}),
    min_tcb_evaluation_data_number=18,
    rtmr0=frozenset({b"\xa0" * 48}),
    rtmr1=frozenset({b"\xa1" * 48}),
    rtmr2=frozenset({b"\xa2" * 48}),
    rtmr3=frozenset({b"\xa3" * 48}),
    mr_owner=b"\x01" * 48,
    mr_owner_config=b"\x02" * 48,
    mr_seams=frozenset({b"\x5e" * 48}),
    xfams=frozenset({0x602E7}),
    attributes=frozenset({"sept_ve_disable"}),
    denied_advisories=frozenset({"INTEL-SA-1"}),
    allow_smt=False,
)


def report(**changes):
    return replace(CLAIMS, report=replace(CLAIMS.report, **changes))


def tcb(**changes):
    return replace(CLAIMS, tcb=replace(CLAIMS.tcb, **changes))


def found(claims=CLAIMS, asked=ANYTHING):
    return [(finding.field, finding.status) for finding in appraise(claims, asked)]


def test_good_trust_domain_has_no_findings():
    assert appraise(CLAIMS, ANYTHING) == appraise(CLAIMS, EXACTLY) == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"attributes": frozenset({"sept_ve_disable", "debug"})}, "td_attributes.debug"),
        ({"attributes": frozenset({"sept_ve_disable", "migratable"})}, "td_attributes.migratable"),
        ({"attributes": frozenset({"sept_ve_disable", "perfmon"})}, "td_attributes.perfmon"),
        ({"attributes": frozenset({"sept_ve_disable", "pks"})}, "td_attributes.pks"),
        ({"attributes": frozenset()}, "td_attributes.sept_ve_disable"),
        ({"xfam": 0x602E6}, "xfam"),
        ({"xfam": 0x602E5}, "xfam"),
        ({"xfam": 0x602E7 | 1 << 4}, "xfam"),
        ({"xfam": 0x602E7 | 1 << 63}, "xfam"),
        ({"mr_service_td": b"\1" + bytes(47)}, "mr_service_td"),
        ({"mr_signer_seam": bytes(47) + b"\1"}, "tdx_module"),
        ({"seam_attributes": bytes(7) + b"\1"}, "tdx_module"),
        ({"tee_tcb_svn_2": bytes((7, 1, 3)) + bytes(13)}, "tee_tcb_svn_2"),
        ({"tee_tcb_svn_2": bytes((255, 0, 255)) + bytes(13)}, "tee_tcb_svn_2"),
    ],
)
def test_trust_domain_that_a_policy_cannot_want_is_contraindicated(changes, field):
    assert found(report(**changes)) == [(f"tdx.{field}", "contraindicated")]


def test_trust_domain_of_tdx_1_0_has_no_service_and_no_second_svn_to_appraise():
    assert found(report(mr_service_td=None, tee_tcb_svn_2=None)) == []


def test_newer_module_than_at_launch_is_no_rollback():
    assert found(report(tee_tcb_svn_2=bytes((8, 1, 4)) + bytes(13))) == []


@pytest.mark.parametrize("names", [frozenset(), frozenset({"perfmon", "debug", "migratable"})])
def test_policy_that_forbids_other_attributes_still_forbids_debug_and_migration(names):
    claims = report(attributes=frozenset({"sept_ve_disable", "debug", "migratable"}))
    fields = [field for field, _ in found(claims, replace(ANYTHING, forbidden_attributes=names))]
    assert fields == ["tdx.td_attributes.debug", "tdx.td_attributes.migratable"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mr_td": bytes(48)}, "mr_td"),
        ({"mr_config_id": bytes(48)}, "mr_config_id"),
        ({"mr_owner": bytes(48)}, "mr_owner"),
        ({"mr_owner_config": bytes(48)}, "mr_owner_config"),
        ({"mr_seam": bytes(48)}, "mr_seam"),
        ({"xfam": 0x600E7}, "xfam"),
        ({"attributes": frozenset({"sept_ve_disable", "kl"})}, "td_attributes"),
    ],
)
def test_value_that_the_policy_does_not_list_is_contraindicated(changes, field):
    assert found(report(**changes), EXACTLY) == [(f"tdx.{field}", "contraindicated")]
    assert found(report(**changes)) == []


@pytest.mark.parametrize("index", range(4))
def test_each_rtmr_is_compared_with_its_own_values(index):
    rtmrs = [*CLAIMS.report.rtmrs]
    rtmrs[index] = bytes(48)
    assert found(report(rtmrs=tuple(rtmrs)), EXACTLY) == [(f"tdx.rtmr{index}", "contraindicated")]


@pytest.mark.parametrize("field", ["mr_tds", "ppids", "rtmr0", "mr_seams", "xfams", "statuses"])
def test_empty_set_accepts_nothing(field):
    assert found(asked=replace(ANYTHING, **{field: frozenset()}))


@pytest.mark.parametrize(
    ("claims", "changes", "text"),
    [
        (CLAIMS, {"mr_tds": frozenset()}, f"tdx.mr_td is {'4d' * 48}, expected none at all"),
        (CLAIMS, {"mr_tds": frozenset({b"\2" * 2, b"\1" * 2})}, f"tdx.mr_td is {'4d' * 48}, expected 0101 or 0202"),
        (CLAIMS, {"statuses": frozenset()}, "tdx.tcb_status is UpToDate, expected none at all"),
        (tcb(status="OutOfDate"), {}, "tdx.tcb_status is OutOfDate, expected UpToDate"),
        (CLAIMS, {"xfams": frozenset()}, "tdx.xfam is 0x602e7, expected none at all"),
        (CLAIMS, {"xfams": frozenset({7, 3})}, "tdx.xfam is 0x602e7, expected 0x3 or 0x7"),
        (CLAIMS, {"attributes": frozenset()}, "tdx.td_attributes is sept_ve_disable, expected none"),
        (CLAIMS, {"attributes": frozenset({"lass", "kl"})}, "tdx.td_attributes is sept_ve_disable, expected kl, lass"),
    ],
)
def test_finding_says_what_was_found_and_what_was_expected(claims, changes, text):
    assert str(appraise(claims, replace(ANYTHING, **changes))[0]) == text


@pytest.mark.parametrize("field", ["status", "current_status"])
@pytest.mark.parametrize("status", ["SWHardeningNeeded", "ConfigurationNeeded", "OutOfDate", "Revoked"])
def test_status_that_the_policy_does_not_list_is_contraindicated(field, status):
    name = {"status": "tcb_status", "current_status": "current_tcb_status"}[field]
    assert found(tcb(**{field: status})) == [(f"tdx.{name}", "contraindicated")]


def test_status_that_the_policy_lists_is_accepted_with_a_warning():
    asked = replace(ANYTHING, statuses=frozenset({"UpToDate", "SWHardeningNeeded"}))
    assert found(tcb(status="SWHardeningNeeded"), asked) == [("tdx.tcb_status", "warning")]


def test_denied_advisory_is_contraindicated_under_a_status_that_is_accepted():
    asked = replace(EXACTLY, statuses=frozenset({"UpToDate", "SWHardeningNeeded"}))
    claims = tcb(status="SWHardeningNeeded", advisory_ids=frozenset({"INTEL-SA-1", "INTEL-SA-2"}))
    findings = appraise(claims, asked)
    assert [(one.field, one.found) for one in findings] == [
        ("tdx.advisory_ids", "INTEL-SA-1"),
        ("tdx.tcb_status", "SWHardeningNeeded (INTEL-SA-1, INTEL-SA-2)"),
    ]


def test_older_evaluation_than_the_policy_asks_is_contraindicated():
    assert found(tcb(evaluation_data_number=17), EXACTLY) == [("tdx.tcb_evaluation_data_number", "contraindicated")]


def test_processor_that_is_not_enrolled_is_contraindicated():
    claims = replace(CLAIMS, platform=replace(CLAIMS.platform, ppid=bytes(16)))
    assert found(claims, EXACTLY) == [("tdx.ppid", "contraindicated")]


@pytest.mark.parametrize(
    ("attribute", "field", "allow"),
    [
        ("smt_enabled", "smt", "allow_smt"),
        ("dynamic_platform", "dynamic_platform", "allow_dynamic_platform"),
        ("cached_keys", "cached_keys", "allow_cached_keys"),
    ],
)
@pytest.mark.parametrize(("value", "refused"), [("True", True), ("Undefined", True), ("False", False)])
def test_platform_flag_that_the_policy_forbids_must_be_certified_off(attribute, field, allow, value, refused):
    claims = replace(CLAIMS, platform=replace(CLAIMS.platform, **{attribute: value}))
    expected = [(f"tdx.platform.{field}", "contraindicated")] if refused else []
    assert found(claims, replace(ANYTHING, **{allow: False})) == expected
    assert found(claims) == []


def test_quote_of_this_session_is_bound():
    verify_binding(CLAIMS, bytes(range(64)))


@pytest.mark.parametrize("expected", [bytes(64), bytes(range(63)), bytes(range(1, 65))])
def test_quote_of_another_session_is_rejected(expected):
    with pytest.raises(BindingMismatchError, match="report data is"):
        verify_binding(CLAIMS, expected)
