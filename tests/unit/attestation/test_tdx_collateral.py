import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import EndorsementError, MalformedEvidenceError
from attestation.tdx.collateral import MAX_COLLATERAL_SIZE, TdxCollateral
from tests.fakes.lab_tdx import collateral, frame, qe_identity, tcb_info
from tests.fakes.lab_x509 import NOW

GOOD = collateral()
PARTS = json.loads(frame(GOOD))


def test_collateral_in_the_frame_of_pccs_gives_its_parts():
    assert TdxCollateral.parse(frame(GOOD)) == GOOD


@pytest.mark.parametrize("part", PARTS)
def test_frame_without_a_part_is_rejected(part):
    with pytest.raises(MalformedEvidenceError, match=f"{part}: field required"):
        TdxCollateral.parse(frame(GOOD, **{part: None}))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (frame(GOOD, extra="part"), "extra"),
        (frame(GOOD, tcb_info={"id": "TDX"}), "tcb_info: input should be a valid string"),
        (frame(GOOD, pck_crl="0"), "pck_crl: string should match"),
        (frame(GOOD, root_ca_crl="zz"), "root_ca_crl: string should match"),
        (frame(GOOD, tcb_info_signature="00" * 63), "tcb_info_signature: string should match"),
        (frame(GOOD, qe_identity_signature="00" * 65), "qe_identity_signature: string should match"),
        (frame(GOOD)[:-1] + b',"tcb_info":"{}"}', "appears twice"),
        (b"[]", "should be an object"),
        (b"{", "not strict JSON"),
        (b" " * (MAX_COLLATERAL_SIZE + 1), f"at most {MAX_COLLATERAL_SIZE} are read"),
    ],
)
def test_frame_that_breaks_the_format_is_rejected(raw, reason):
    with pytest.raises(MalformedEvidenceError, match=reason):
        TdxCollateral.parse(raw)


@pytest.mark.parametrize("day", [datetime(2026, 5, 15, tzinfo=UTC), NOW, datetime(2026, 6, 15, tzinfo=UTC)])
def test_collateral_is_in_force_from_its_issue_to_its_next_update(day):
    GOOD.check_in_force(day)


@pytest.mark.parametrize(
    "outside", [datetime(2026, 5, 15, tzinfo=UTC) - timedelta(seconds=1), NOW + timedelta(days=15)]
)
@pytest.mark.parametrize("part", ["tcb", "qe"])
def test_either_body_outside_of_its_time_is_named(part, outside):
    wide = {"issueDate": "2020-01-01T00:00:00Z", "nextUpdate": "2030-01-01T00:00:00Z"}
    other = {"qe": qe_identity(**wide)} if part == "tcb" else {"tcb": tcb_info(**wide)}
    with pytest.raises(EndorsementError, match="TCB info holds" if part == "tcb" else "QE identity holds"):
        collateral(**other).check_in_force(outside)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "issuedate: field required|issueDate: field required"),
        (tcb_info(issueDate="2026-05-15T00:00:00"), "timezone"),
        (tcb_info()[:-1] + ',"nextUpdate":"2036-01-01T00:00:00Z"}', "appears twice"),
        ("nothing", "not strict JSON"),
    ],
)
def test_body_without_readable_times_is_rejected(text, reason):
    with pytest.raises(MalformedEvidenceError, match=reason):
        collateral(tcb=text).check_in_force(NOW)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8), lambda deep: st.lists(deep, max_size=3), max_leaves=4
)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(sorted(PARTS)), JSON).map(lambda d: json.dumps(d).encode())
)
def test_collateral_parser_raises_nothing_but_malformed_evidence(raw):
    with suppress(MalformedEvidenceError):
        TdxCollateral.parse(raw)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.dictionaries(st.sampled_from(["issueDate", "nextUpdate"]), JSON).map(json.dumps))
def test_dates_of_a_hostile_body_are_malformed_or_out_of_force(text):
    with suppress(MalformedEvidenceError, EndorsementError):
        collateral(tcb=text).check_in_force(NOW)
