from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.trust_anchors import GENUINE
from fl_runtime.arrays import Layout, decode, encode
from fl_runtime.errors import JobRefusedError
from fl_runtime.jobs.client import open_final_model
from fl_runtime.jobs.compose import Submitter, compose
from fl_runtime.jobs.job_file import Aggregation, JobFile, JobPackage
from fl_runtime.jobs.keystore import Keystore
from fl_runtime.jobs.model_blob import open_model, seal_model
from fl_runtime.jobs.terms import terms_of
from fl_runtime.secure_aggregation.errors import ParametersRefusedError
from fl_runtime.transport.errors import SealedBlobError
from fl_runtime.transport.sealed import SealingKey
from policies import release
from policies.documents import Envelope, raw_public_key
from policies.errors import DeniedError, DocumentSignatureError, UsageError
from policies.job_manifest import job_digest, open_job
from policies.release import ReleasePolicy
from policies.roster import Member, Roster

NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
KEY = bytes(range(32))
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ADA = Submitter(name="ada", signing_key=SIGNING_KEY)
ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(4, np.float16),
    "steps": np.array([7], np.int32),
}
SITES = {f"site-{letter}": f"org-{letter}" for letter in "abcde"}
IMAGE, OTHER_IMAGE = b"i" * 48, b"j" * 48


def trust(sites=SITES, *, mock=True, tiers=(), domain="demo.mock"):
    nodes = {
        name: Member(organisation=org, role="site", tier=dict(tiers).get(name, "attested"))
        for name, org in sites.items()
    }
    nodes["server"] = Member(organisation="consortium", role="server", tier="attested")
    dates = {"issued_at": NOW, "expires_at": NOW + timedelta(days=1), "previous": None}
    roster = Roster(version=1, trust_domain=domain, nodes=nodes, **dates)
    entries = (SimpleNamespace(image=IMAGE), SimpleNamespace(image=OTHER_IMAGE))
    return SimpleNamespace(
        root=SimpleNamespace(trust_domain=domain, mock=mock),
        roster=roster,
        reference_values=SimpleNamespace(entries=entries),
        anchors=GENUINE,
    )


def package(arrays=ARRAYS, **changes):
    file = JobFile(**{"name": "digits", "rounds": 5, "config": {"epochs": 6}} | changes)
    return JobPackage(file=file, code=b"an archive", model=encode(arrays), layout=Layout.of(arrays))


def composed(made=None, **changes):
    arguments = {"trust": trust(), "server_node": "server", "submitter": ADA, "key": KEY, "now": NOW} | changes
    return compose(made or package(), **arguments)


def opened_policy(job):
    return Envelope.parse(job.release_policy).open(ReleasePolicy, release.KIND, [job.manifest.submitter_key])


# --- what travels -----------------------------------------------------------------------------------------------------


def test_manifest_opens_under_the_submitters_key_and_says_what_was_written():
    job = composed()
    manifest = open_job(Envelope.parse(job.envelope))
    assert manifest == job.manifest
    assert manifest.submitter_key == raw_public_key(SIGNING_KEY)
    assert (manifest.submitter, manifest.trust_domain, manifest.submitted_at) == ("ada", "demo.mock", NOW)
    assert (manifest.rounds, manifest.min_sites, manifest.sites) == (5, 5, tuple(sorted(SITES)))
    assert (manifest.code.sha256, manifest.code.size) == (hashlib.sha256(b"an archive").digest(), 10)
    assert manifest.config == {"epochs": 6}


def test_manifest_with_a_changed_byte_does_not_open():
    envelope = Envelope.parse(composed().envelope)
    forged = Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload.replace(b'"rounds":5', b'"rounds":6'),
        signatures=envelope.signatures,
    )
    with pytest.raises(DocumentSignatureError):
        open_job(forged)


def test_release_policy_is_for_this_very_manifest_and_names_server_and_sites():
    job = composed(package(sites=("site-d", "site-a", "site-b", "site-c")))
    policy = opened_policy(job)
    assert policy.job_sha256 == job.digest == job_digest(Envelope.parse(job.envelope).payload)
    assert policy.key_id == job.manifest.model.key_id == job.job_id
    assert policy.nodes == {"server": "server", **{f"site-{letter}": "site" for letter in "abcd"}}
    assert policy.images == {IMAGE, OTHER_IMAGE}
    assert (policy.min_approvals, policy.max_result_age_seconds, policy.tiers) == (4, 120, {"attested"})


def test_mock_evidence_is_allowed_only_where_the_root_names_a_mock_vendor():
    assert opened_policy(composed()).allow_mock
    assert not opened_policy(composed(trust=trust(mock=False, domain="demo.example"))).allow_mock


def test_tiers_are_those_of_the_jobs_own_nodes():
    enrolled = trust(tiers={"site-e": "enrolled"})
    assert opened_policy(composed(trust=enrolled)).tiers == {"attested", "enrolled"}
    four = package(sites=("site-a", "site-b", "site-c", "site-d"))
    assert opened_policy(composed(four, trust=enrolled)).tiers == {"attested"}


def test_two_submissions_of_one_folder_have_two_ids():
    first, second = composed(), composed(now=NOW + timedelta(microseconds=1))
    assert first.job_id != second.job_id
    assert first.job_id.startswith("digits-")
    assert composed().job_id == first.job_id


def test_longest_name_still_gives_a_legal_id():
    assert len(composed(package(name="x" * 54)).job_id) == 63


# --- model ------------------------------------------------------------------------------------------------------------


def test_initial_model_opens_with_the_key_and_has_the_manifests_layout():
    job = composed()
    assert hashlib.sha256(job.sealed_model).digest() == job.manifest.model.sealed_sha256
    assert len(job.sealed_model) == job.manifest.model.sealed_size
    encoded = open_model(job.sealed_model, job.key, trust_domain="demo.mock", job=job.job_id, round_number=0)
    arrays = decode(encoded, terms_of(job.manifest).layout)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    assert encoded.readonly


@pytest.mark.parametrize("change", [{"trust_domain": "other.mock"}, {"job": "digits-00000000"}, {"round_number": 1}])
def test_model_of_another_federation_job_or_round_does_not_open(change):
    job = composed()
    place = {"trust_domain": "demo.mock", "job": job.job_id, "round_number": 0}
    with pytest.raises(SealedBlobError):
        open_model(job.sealed_model, job.key, **place | change)


def test_model_does_not_open_with_another_key():
    job = composed()
    stranger = SealingKey(id=job.job_id, secret=bytes(32))
    with pytest.raises(SealedBlobError):
        open_model(job.sealed_model, stranger, trust_domain="demo.mock", job=job.job_id, round_number=0)


def test_plaintext_of_the_model_is_nowhere_in_what_travels():
    secret = np.frombuffer(hashlib.sha512(b"a model").digest() * 4, np.uint8).view(np.float32).copy()
    secret[~np.isfinite(secret)] = 1
    job = composed(package({"weight": secret}))
    for sent in (job.envelope, job.release_policy, job.code, bytes(job.sealed_model)):
        assert secret.tobytes()[:64] not in sent
        assert KEY not in sent
    assert KEY.hex() not in repr(job)


def test_final_model_is_that_of_the_last_round_and_no_other():
    job = composed()
    place = {"trust_domain": "demo.mock", "job": job.job_id}
    last = seal_model(encode(ARRAYS), job.key, **place, round_number=5)
    assert open_final_model(last, job.manifest, job.key) == encode(ARRAYS)
    with pytest.raises(SealedBlobError):
        open_final_model(seal_model(encode(ARRAYS), job.key, **place, round_number=4), job.manifest, job.key)


# --- sums -------------------------------------------------------------------------------------------------------------


def test_sums_cover_all_float_tensors_and_default_to_the_usual_threshold():
    terms = terms_of(composed().manifest)
    (segment,) = terms.parameters.segments
    assert (segment.name, segment.length, segment.clip_micros, segment.weight) == ("model", 10, 4_000_000, "samples")
    assert (terms.parameters.n_max, terms.parameters.threshold, terms.parameters.min_survivors) == (5, 4, 4)


def test_sums_are_as_the_job_file_says():
    wanted = Aggregation(clip="0.5", weight_cap=77, min_survivors=3, ring_bits=64, threshold=5)
    parameters = terms_of(composed(package(aggregation=wanted)).manifest).parameters
    assert (parameters.ring_bits, parameters.weight_cap, parameters.min_survivors) == (64, 77, 3)
    assert (parameters.threshold, parameters.largest_clip_micros) == (5, 500_000)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("model", {"layout_sha256": bytes(32)}, "digest of the layout"),
        ("manifest", {"sites": ("site-a", "site-b", "site-c", "site-d"), "min_sites": 4}, "sites in a sum"),
    ],
)
def test_manifest_whose_parts_do_not_fit_is_refused(part, change, words):
    manifest = composed().manifest
    if part == "model":
        change = {"model": manifest.model.model_copy(update=change)}
    with pytest.raises(JobRefusedError, match=words):
        terms_of(manifest.model_copy(update=change))


def test_manifest_whose_sum_is_of_another_length_is_refused():
    manifest = composed().manifest
    (segment,) = manifest.aggregation["segments"]
    aggregation = {**manifest.aggregation, "segments": [{**segment, "length": 11}]}
    with pytest.raises(JobRefusedError, match="segments"):
        terms_of(manifest.model_copy(update={"aggregation": aggregation}))


# --- what no site could accept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "changes", "words"),
    [
        (package(sites=("site-a", "site-b", "site-c", "hospital-z")), {}, "not in roster version 1: hospital-z"),
        (package(sites=("site-a", "site-b", "site-c", "server")), {}, "not in roster version 1: server"),
        (package(sites=("site-a", "site-b", "site-c")), {}, "has 3 sites, expected at least 4"),
        (package(sites=("site-a", "site-a", "site-b", "site-c")), {}, "has 3 sites, expected at least 4"),
        (package(), {"trust": trust(dict.fromkeys(SITES, "north") | {"site-a": "south"})}, "2 organisations"),
        (package(min_sites=3), {}, "min_sites is 3, expected 4 to 5"),
        (package(min_sites=6), {}, "min_sites is 6, expected 4 to 5"),
        (package({"steps": np.array([1], np.int64)}), {}, "no float tensor"),
        (package(), {"server_node": "site-a"}, "site-a is a site in the roster, expected a server"),
    ],
)
def test_job_that_no_site_could_accept_is_refused_in_words(made, changes, words):
    with pytest.raises(JobRefusedError, match=words):
        composed(made, **changes)


@pytest.mark.parametrize("wanted", [{"threshold": 3}, {"threshold": 6}, {"weight_cap": 10**9}, {"min_survivors": 9}])
def test_sum_that_hides_too_little_or_overflows_is_refused(wanted):
    with pytest.raises(ParametersRefusedError):
        composed(package(aggregation=Aggregation(**wanted)))


def test_server_that_is_not_in_the_roster_is_refused():
    with pytest.raises(DeniedError, match="elsewhere"):
        composed(server_node="elsewhere")


def test_model_whose_layout_does_not_fit_a_document_is_refused():
    arrays = {f"{'x' * 200}.{number}": np.zeros(1, np.float32) for number in range(4000)}
    with pytest.raises(JobRefusedError, match="at most 1048576 are read") as caught:
        composed(package(arrays))
    assert "4000 tensors" in caught.value.hint


# --- keys -------------------------------------------------------------------------------------------------------------


def test_kept_key_and_manifest_are_found_again_and_are_their_owners_alone(tmp_path):
    store, job = Keystore(tmp_path / "keys"), composed()
    assert not store.knows(job.job_id)
    store.keep(job.job_id, key=job.key.secret, manifest=job.envelope)
    assert store.knows(job.job_id)
    assert (store.key(job.job_id), store.manifest(job.job_id)) == (job.key, job.manifest)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in store.folder.iterdir()} == {0o600}


def test_key_of_a_job_is_never_written_over(tmp_path):
    store, job = Keystore(tmp_path), composed()
    store.keep(job.job_id, key=job.key.secret, manifest=job.envelope)
    with pytest.raises(UsageError, match="exists already"):
        store.keep(job.job_id, key=bytes(32), manifest=job.envelope)


def test_key_that_is_not_here_says_where_it_may_be(tmp_path):
    with pytest.raises(UsageError, match=r"the key of digits-1 is not in") as caught:
        Keystore(tmp_path).key("digits-1")
    assert "where it was submitted" in caught.value.hint


@pytest.mark.parametrize("job_id", ["../digits", "/etc/passwd", "", "a/b", "a\n", ".x", "x" * 64])
def test_id_that_would_leave_the_folder_is_refused(tmp_path, job_id):
    with pytest.raises(UsageError, match="is not the id of a job"):
        Keystore(tmp_path).key(job_id)


def test_manifest_of_another_job_and_key_of_another_size_are_refused(tmp_path):
    store, job = Keystore(tmp_path), composed()
    store.keep("digits-other", key=bytes(31), manifest=job.envelope)
    with pytest.raises(UsageError, match="is the manifest of digits-"):
        store.manifest("digits-other")
    with pytest.raises(UsageError, match="has 31 bytes, expected 32"):
        store.key("digits-other")
