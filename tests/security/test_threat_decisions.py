"""T11, T12 and T18: every field of a site's policy and of a release policy refuses by itself, and says what it allows."""

from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pytest

from policies.attestation_result import PROFILE, AttestationResult, Confirmation, Submodule, TrustVector
from policies.decide import ReleaseRequest, decide_job, decide_release
from policies.grant import HardwareId
from policies.job_manifest import CodeReference, JobManifest, ModelReference
from policies.release import ReleasePolicy
from policies.roster import Member
from provisioning.documents import draft_roster, draft_site_policy
from provisioning.laboratory import default_sites
from provisioning.layout import Addresses, Laboratory, Layout

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DOMAIN = "test.cloister.mock"
KEY, IMAGE, DIGEST, OTHER = b"\1" * 32, b"\2" * 48, b"\3" * 32, b"\4" * 32
SITES = tuple(default_sites(4))
LABORATORY = Laboratory(
    Path("/laboratory"),
    Layout(
        version=1,
        trust_domain=DOMAIN,
        operator="consortium",
        addresses=Addresses(enrol="h:1", attested="h:2", server="h:3"),
        sites=dict(default_sites(4)),
    ),
)
POLICY = draft_site_policy(LABORATORY, "hospital-a", image=IMAGE, submitter=KEY, now=NOW)
ROSTER = draft_roster(LABORATORY, now=NOW)

# --- T11: what a job may do at a site --------------------------------------------------------------------------------

MANIFEST = JobManifest(
    job="digits-1",
    trust_domain=DOMAIN,
    submitter="admin",
    submitter_key=KEY,
    submitted_at=NOW,
    workflow="fedavg",
    rounds=5,
    sites=SITES,
    min_sites=4,
    profile="tee+mask",
    aggregation={},
    metrics=("accuracy",),
    code=CodeReference(sha256=DIGEST, size=1, script="train.py", args=()),
    model=ModelReference(sealed_sha256=DIGEST, sealed_size=1, key_id="digits-1", layout={}, layout_sha256=DIGEST),
    config={},
    round_timeout_seconds=60,
)
TERMS = {"clip_micros": 4_000_000, "weight_cap": 100_000, "min_survivors": 3}
LARGE_MODEL = MANIFEST.model.model_copy(update={"sealed_size": (1 << 30) + 1})

JOB_FAULTS = [
    ({"trust_domain": "other.mock"}, {}, "job is of other.mock"),
    ({"sites": SITES[1:]}, {}, "job does not name hospital-a"),
    ({"sites": (*SITES, "hospital-z")}, {}, "not in the roster: hospital-z"),
    ({"model": LARGE_MODEL}, {}, "receive.max_model_bytes"),
    ({"submitter_key": OTHER}, {}, "execute: neither submitter admin nor code"),
    ({"rounds": 1001}, {}, "execute.max_rounds: job has 1001, allowed are 1000"),
    ({"profile": "tee"}, {}, "returns.profiles: job wants tee, allowed are tee+mask"),
    ({"metrics": ("accuracy", "worst")}, {}, "returns.metrics: job wants worst, allowed are accuracy"),
    ({"min_sites": 3}, {}, "returns.min_cohort: job runs with 3 sites, allowed from 4"),
    ({}, {"min_survivors": 2}, "returns.min_survivors: job accepts 2, allowed from 3"),
    ({}, {"clip_micros": 4_000_001}, "returns.max_clip_micros: job clips at 4000001"),
    ({}, {"weight_cap": 100_001}, "returns.max_weight_cap: job caps at 100001"),
]


def job(changes, terms, *, policy=POLICY, roster=ROSTER):
    return decide_job(policy, MANIFEST.model_copy(update=changes), roster=roster, **(TERMS | terms))


def test_t11_job_within_the_policy_may_run():
    assert job({}, {}).reasons == ()


@pytest.mark.parametrize(("changes", "terms", "reason"), JOB_FAULTS)
def test_t11_job_that_exceeds_one_field_is_refused_for_that_field_alone(changes, terms, reason):
    (said,) = job(changes, terms).reasons
    assert reason in said


def test_t11_job_with_sites_of_a_tier_that_is_not_accepted_is_refused():
    enrolled = Member(organisation="east", role="site", tier="enrolled")
    roster = ROSTER.model_copy(update={"nodes": {**ROSTER.nodes, "hospital-b": enrolled}})
    (said,) = job({}, {}, roster=roster).reasons
    assert "receive.peer_tiers: job has attested, enrolled sites, allowed are attested" in said


def test_t11_code_that_a_policy_names_may_run_whoever_submits_it():
    execute = POLICY.execute.model_copy(update={"submitters": frozenset(), "code_sha256": frozenset({DIGEST})})
    assert job({"submitter_key": OTHER}, {}, policy=POLICY.model_copy(update={"execute": execute})).allowed


def test_t11_no_second_fault_excuses_the_first():
    for (one, one_terms, reason), (two, two_terms, _) in combinations(JOB_FAULTS, 2):
        if not one.keys() & two.keys():
            assert any(reason in said for said in job(one | two, one_terms | two_terms).reasons)


# --- T12 and T18: who may have the key of a job ----------------------------------------------------------------------

RELEASE = ReleasePolicy(
    key_id="digits-1",
    job_sha256=DIGEST,
    nodes={"server": "server", "hospital-a": "site"},
    tiers=frozenset({"attested"}),
    images=frozenset({IMAGE}),
    accepted_statuses=frozenset({"affirming", "warning"}),
    allow_mock=True,
    max_result_age_seconds=120,
    min_approvals=4,
    max_releases=10,
)
REQUEST = ReleaseRequest(
    key_id="digits-1", job_sha256=DIGEST, approvals=4, releases=9, requester_tls_spki=DIGEST, repeated=False
)
VECTOR = TrustVector(
    instance_identity="warning",
    configuration="warning",
    executables="warning",
    hardware="warning",
    runtime_opaque="warning",
)
RESULT = AttestationResult(
    eat_profile=PROFILE,
    iss=f"attestation.{DOMAIN}",
    iat=int(NOW.timestamp()) - 60,
    exp=int(NOW.timestamp()) + 600,
    jti="0" * 32,
    eat_nonce=DIGEST,
    purpose="release",
    trust_domain=DOMAIN,
    node="hospital-a",
    role="site",
    tier="attested",
    organisation="north",
    boot=b"\5" * 16,
    image=IMAGE,
    reference="release-1",
    status="warning",
    submods={
        "cpu0": Submodule(
            status="warning",
            trust_vector=VECTOR,
            hardware=HardwareId(kind="snp-chip-id", value=b"\6" * 64),
            advisories=(),
        )
    },
    cnf=Confirmation(tls_spki=DIGEST, sign_pk=KEY, hpke_pk=bytes(1216)),
    revocation_epoch=3,
    evidence_sha256=DIGEST,
    mock=True,
)

RELEASE_FAULTS = [
    ({}, {"key_id": "digits-2"}, {}, "key digits-2 is not digits-1"),
    ({}, {"job_sha256": OTHER}, {}, "job 0404040404040404 is not"),
    ({"purpose": "issue"}, {}, {}, "the attestation was made to issue, expected release"),
    ({"iat": RESULT.iat - 61}, {}, {}, "the attestation is 121 s old, allowed are 120 s"),
    ({"iat": RESULT.iat + 121}, {}, {}, "the attestation is -61 s old"),
    ({"exp": int(NOW.timestamp())}, {}, {}, "the attestation has expired"),
    ({"revocation_epoch": 2}, {}, {}, "the attestation is of revocation epoch 2, current is 3"),
    ({}, {"requester_tls_spki": OTHER}, {}, "a key that the attestation does not confirm"),
    ({"node": "hospital-b"}, {}, {}, "hospital-b is not among the nodes"),
    ({"role": "server"}, {}, {}, "hospital-a attested as server, the policy names it as site"),
    ({"tier": "enrolled"}, {}, {}, "tier enrolled is not among attested"),
    ({"image": b"\7" * 48}, {}, {}, "image 0707070707070707 is not among the allowed images"),
    ({"status": "contraindicated"}, {}, {}, "status contraindicated is not among affirming, warning"),
    ({}, {}, {"allow_mock": False}, "the evidence is of a mock TEE, and the policy does not allow that"),
    ({}, {"approvals": 3}, {}, "3 sites have approved the job, expected 4"),
    ({}, {"releases": 10}, {}, "the key was released 10 times, allowed are 10"),
]


def release(result, request, policy):
    asked = {name: getattr(REQUEST, name) for name in REQUEST.__dataclass_fields__} | request
    return decide_release(
        RELEASE.model_copy(update=policy),
        RESULT.model_copy(update=result),
        ReleaseRequest(**asked),
        now=NOW,
        revocation_epoch=3,
    )


def test_t12_node_that_has_just_proved_what_it_is_may_have_the_key():
    assert release({}, {}, {}).reasons == ()


@pytest.mark.parametrize(("result", "request_", "policy", "reason"), RELEASE_FAULTS)
def test_t12_node_that_fails_one_condition_is_refused_for_that_alone(result, request_, policy, reason):
    (said,) = release(result, request_, policy).reasons
    assert reason in said


def test_t12_release_that_is_repeated_counts_once():
    assert release({}, {"releases": 10, "repeated": True}, {}).allowed


def test_t12_no_second_fault_excuses_the_first():
    for (one, asked, policy, reason), (two, asked_too, policy_too, _) in combinations(RELEASE_FAULTS, 2):
        if not (one.keys() & two.keys() or asked.keys() & asked_too.keys() or {"node", "role"} == {*one, *two}):
            said = release(one | two, asked | asked_too, policy | policy_too).reasons
            assert any(reason.split(" s old")[0] in line for line in said)


def test_t18_policy_that_tolerates_a_warning_still_refuses_the_mock():
    assert "warning" in RELEASE.accepted_statuses
    assert not release({}, {}, {"allow_mock": False}).allowed
    assert release({"mock": False}, {}, {"allow_mock": False}).allowed
