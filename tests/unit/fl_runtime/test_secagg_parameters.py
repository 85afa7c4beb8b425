"""Parameters and cohorts: what is refused before a round begins."""

from __future__ import annotations

import hashlib

import pytest

from fl_runtime.secure_aggregation import Cohort, Limits, Parameters, RoundContext, Segment, threshold_for
from fl_runtime.secure_aggregation.errors import (
    BelowThresholdError,
    OutOfOrderError,
    ParametersRefusedError,
    PeerRefusedError,
)
from tests.fakes.secagg_round import member, names, segments

PARAMETERS = Parameters.for_sites(4, segments=segments(), weight_cap=1000)
LIMITS = Limits(
    max_sites=4, max_words=10, max_clip_micros=4_000_000, max_weight_cap=1000, min_survivors=3, min_organisations=3
)


def changed(**fields: object) -> Parameters:
    return Parameters(**{**{name: getattr(PARAMETERS, name) for name in Parameters.model_fields}, **fields})


@pytest.mark.parametrize(("sites", "threshold"), [(4, 3), (5, 4), (6, 5), (7, 5), (9, 7), (200, 134)])
def test_threshold_is_two_thirds_and_one(sites, threshold):
    assert threshold_for(sites) == threshold


@pytest.mark.parametrize("threshold", [-1, 0, 1, 2, 5])
def test_threshold_below_the_formula_or_above_the_cohort_is_refused(threshold):
    with pytest.raises(ParametersRefusedError, match=f"threshold is {threshold}, expected 3 to 4"):
        changed(threshold=threshold)


@pytest.mark.parametrize("n_max", [1, 2, 3, 201])
def test_cohort_too_small_for_masks_is_refused_in_words(n_max):
    with pytest.raises(ParametersRefusedError, match=f"n_max is {n_max}") as caught:
        changed(n_max=n_max, threshold=3)
    assert "tee" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_survivors": 5}, "exceeds n_max"),
        ({"min_organisations": 5}, "exceeds n_max"),
        ({"weight_cap": PARAMETERS.full_scale + 1}, "weight_cap"),
        ({"segments": segments() + segments()}, "one name"),
    ],
)
def test_parameters_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ParametersRefusedError, match=message):
        changed(**fields)


def test_full_scale_leaves_room_for_every_site():
    for bits in (32, 64):
        for sites in (4, 5, 7, 200):
            full = Parameters.for_sites(sites, segments=segments(), weight_cap=1, ring_bits=bits).full_scale
            assert sites * full <= 2 ** (bits - 1) - 1 < sites * (full + 1)


def test_parameters_come_back_from_their_bytes():
    assert Parameters.parse(PARAMETERS.encode()) == PARAMETERS


@pytest.mark.parametrize(
    "replacement",
    [
        (b'"threshold":3', b'"threshold":1'),
        (b'"threshold":3', b'"threshold":3.0'),
        (b'"threshold":3,', b""),
        (b"{", b'{"x":1,', 1),
    ],
)
def test_bytes_that_lower_drop_or_add_a_field_are_refused(replacement):
    with pytest.raises(ParametersRefusedError):
        Parameters.parse(PARAMETERS.encode().replace(*replacement))


def test_digest_changes_with_every_field():
    variants = [
        changed(n_max=5, threshold=4),
        changed(ring_bits=64),
        changed(threshold=4),
        changed(min_survivors=4),
        changed(min_organisations=4),
        changed(weight_cap=999),
        changed(segments=segments(7)),
    ]
    assert len({p.digest() for p in [PARAMETERS, *variants]}) == len(variants) + 1


def test_vector_has_one_weight_for_each_kind_that_occurs():
    only_samples = Parameters.for_sites(4, segments=segments()[:1], weight_cap=1)
    assert (PARAMETERS.words, only_samples.words) == (6 + 1 + 2 + 1, 6 + 1)
    assert [kind for kind, _ in PARAMETERS.layout] == ["samples", "one"]


def test_parameters_within_a_sites_policy_pass():
    PARAMETERS.check_against(LIMITS)


@pytest.mark.parametrize(
    ("limit", "value", "word"),
    [
        ("max_words", 9, "words"),
        ("max_clip_micros", 3_999_999, "clip_micros"),
        ("max_weight_cap", 999, "weight_cap"),
        ("min_survivors", 4, "min_survivors"),
        ("min_organisations", 4, "min_organisations"),
    ],
)
def test_parameters_beyond_one_limit_of_a_sites_policy_are_refused(limit, value, word):
    with pytest.raises(ParametersRefusedError, match=word):
        PARAMETERS.check_against(LIMITS.model_copy(update={limit: value}))


def test_more_sites_than_a_policy_allows_are_refused():
    with pytest.raises(ParametersRefusedError, match="n_max is 5, at most 4"):
        changed(n_max=5, threshold=4).check_against(LIMITS)


# --- cohorts ---------------------------------------------------------------------------------------------------------


def cohort(*organisations: str) -> Cohort:
    return Cohort.of(member(s, organisation=o) for s, o in zip(names(len(organisations)), organisations, strict=True))


def test_cohort_is_the_same_whatever_order_it_is_given_in():
    members = [member(site) for site in names(4)]
    assert Cohort.of(members) == Cohort.of(reversed(members))


def test_cohort_digest_changes_with_site_organisation_key_and_boot():
    base = [member(site) for site in names(4)]
    variants = [
        [*base[1:], member("other")],
        [*base[1:], member(base[0].site, organisation="other")],
        [*base[1:], member(base[0].site, boot=1)],
        base[1:],
    ]
    assert len({Cohort.of(m).digest() for m in [base, *variants]}) == len(variants) + 1


def test_two_members_with_one_name_or_one_key_are_refused():
    a, b = member("a"), member("b")
    for twin in (member("a", boot=1), type(a)(site="c", organisation="c", sign_pk=a.sign_pk, boot=a.boot)):
        with pytest.raises(ParametersRefusedError, match="share a site name or a signing key"):
            Cohort.of([a, b, twin])


@pytest.mark.parametrize("change", [{"boot": b"short"}, {"sign_pk": b"short"}])
def test_member_with_a_field_of_the_wrong_size_is_refused(change):
    a = member("a")
    fields = {"site": a.site, "organisation": a.organisation, "sign_pk": a.sign_pk, "boot": a.boot, **change}
    with pytest.raises(ParametersRefusedError, match="expected 32 and 16"):
        Cohort.of([type(a)(**fields)])


@pytest.mark.parametrize("count", [3, 5])
def test_cohort_of_a_size_that_the_parameters_do_not_fit_is_refused(count):
    with pytest.raises(ParametersRefusedError, match=f"{count} sites, expected 4 to 4"):
        cohort(*names(count)).require_fit(PARAMETERS)


def test_cohort_below_the_threshold_of_a_larger_job_is_refused():
    with pytest.raises(BelowThresholdError, match="4 of 4 sites are left, expected at least 5"):
        cohort(*"abcd").require_fit(changed(n_max=7, threshold=5))


def test_too_few_survivors_name_who_is_missing():
    with pytest.raises(BelowThresholdError, match="2 of 4 sites") as caught:
        cohort(*"abcd").require_quorum({0, 2}, PARAMETERS)
    assert caught.value.missing == ("site-001", "site-003")
    assert caught.value.retryable


def test_minimum_of_survivors_counts_beside_the_threshold():
    with pytest.raises(BelowThresholdError, match="3 of 4 sites are left, expected at least 4"):
        cohort(*"abcd").require_quorum({0, 1, 2}, changed(min_survivors=4))


def test_two_sites_of_one_organisation_and_a_third_are_too_few_to_hide_the_third():
    with pytest.raises(BelowThresholdError, match="2 organisations are left, expected at least 3"):
        cohort("a", "a", "b", "c").require_quorum({0, 1, 2}, PARAMETERS)
    cohort("a", "a", "b", "c").require_quorum({0, 1, 2, 3}, PARAMETERS)


def test_minimum_of_organisations_of_the_job_counts():
    with pytest.raises(BelowThresholdError, match="3 organisations are left, expected at least 4"):
        cohort("a", "a", "b", "c").require_quorum({0, 1, 2, 3}, changed(min_organisations=4))


def test_threshold_counts_in_organisations_as_well():
    agreed = Parameters.for_sites(9, segments=segments(), weight_cap=1)
    whole = cohort("a", "a", "a", "a", "b", "c", "d", "e", "f")  # 6 organisations: at least 5
    with pytest.raises(BelowThresholdError, match="4 organisations are left, expected at least 5"):
        whole.require_quorum({0, 1, 2, 3, 4, 5, 6}, agreed)


def test_organisation_that_owns_all_but_one_survivor_is_refused():
    lopsided = cohort("a", "a", "a", "b", "c")
    whole = Parameters.for_sites(5, segments=segments(), weight_cap=1)
    lopsided.require_quorum(range(5), whole)
    with pytest.raises(BelowThresholdError, match="a owns 4 of the 5"):
        cohort("a", "a", "a", "a", "b").require_quorum(range(5), whole.model_copy(update={"min_organisations": 2}))


def test_agreement_needs_t_sites_and_t_organisations():
    people = cohort("a", "a", "b", "c")
    people.require_agreement({0, 2, 3}, PARAMETERS)
    with pytest.raises(BelowThresholdError, match="2 sites of 2 organisations"):
        people.require_agreement({2, 3}, PARAMETERS)
    with pytest.raises(BelowThresholdError, match="3 sites of 2 organisations") as caught:
        people.require_agreement({0, 1, 2}, PARAMETERS)
    assert caught.value.missing == ("site-003",)


def test_site_outside_the_cohort_is_refused_by_name():
    with pytest.raises(PeerRefusedError, match="'invented'"):
        cohort(*"abcd").index("invented")
    with pytest.raises(PeerRefusedError) as caught:
        cohort(*"abcd").indices(["site-000", "invented"])
    assert caught.value.sites == ("invented",)


# --- contexts --------------------------------------------------------------------------------------------------------

CONTEXT = RoundContext(
    job="job-1",
    round=7,
    attempt=2,
    model_hash=bytes([1]) * 32,
    cohort_digest=bytes([2]) * 32,
    params_digest=bytes([3]) * 32,
    vector_length=1000,
)


def test_pair_context_is_the_one_written_down():
    # Worked out apart, with hashlib: SHA-256("cloister-v1 pair-context\0" || u32 5 || "job-1" || u32 7 || u32 2 || ...).
    assert CONTEXT.pair_context().hex() == "7bd00bf6b66d55be95c0410bc82f843fe2b64691f7312ac668254d0b1eedc95d"


@pytest.mark.parametrize(
    "change",
    [
        {"job": "job-2"},
        {"round": 8},
        {"attempt": 1},
        {"model_hash": hashlib.sha256(b"another").digest()},
        {"cohort_digest": bytes(32)},
        {"params_digest": bytes(32)},
        {"vector_length": 1001},
    ],
)
def test_pair_context_changes_with_every_field(change):
    fields = {name: getattr(CONTEXT, name) for name in RoundContext.__dataclass_fields__}
    other = RoundContext(**{**fields, **change})
    assert other.pair_context() != CONTEXT.pair_context()
    assert CONTEXT.differences(other) == tuple(change)


@pytest.mark.parametrize("change", [{"attempt": 0}, {"attempt": 4}, {"round_number": -1}, {"model_hash": b"short"}])
def test_attempt_beyond_the_third_or_a_round_that_cannot_be_is_refused(change):
    fields = {"job": "j", "round_number": 0, "attempt": 1, "model_hash": bytes(32)}
    with pytest.raises(OutOfOrderError):
        RoundContext.of(**{**fields, **change}, cohort=cohort(*"abcd"), parameters=PARAMETERS)


def test_segment_bounds_are_integers_in_millionths():
    assert Segment(name="m", length=1, clip_micros=250_000, weight="one").clip == 0.25
