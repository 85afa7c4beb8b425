"""Everything about one job that sites agree to."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.documents import Envelope
from policies.encoding import lp, sha256
from policies.errors import DocumentSignatureError, MalformedDocumentError
from policies.job_manifest import KIND, CodeReference, JobApproval, JobManifest, job_digest, open_job
from tests.fakes.drafts import draft_job
from tests.fakes.trust_domain import NOW, signing_key


def test_job_opens_under_the_key_of_the_submitter_that_it_names():
    assert open_job(Envelope.sign(draft_job(), KIND, [signing_key("admin")])) == draft_job()


def test_job_that_somebody_else_signed_is_refused():
    with pytest.raises(DocumentSignatureError, match="0 valid signatures"):
        open_job(Envelope.sign(draft_job(), KIND, [signing_key("other")]))


def test_document_of_another_kind_is_no_job():
    with pytest.raises(DocumentSignatureError, match=r"expected application/vnd\.cloister\.job\+json"):
        open_job(Envelope.sign(draft_job(), "job-approval", [signing_key("admin")]))


@pytest.mark.parametrize("script", ["../train.py", "a/../../b.py", "a/..", "/etc/passwd", ".hidden", "-c", "", "a b"])
def test_script_outside_the_archive_is_refused(script):
    with pytest.raises(ValidationError, match="script"):
        CodeReference(sha256=bytes(32), size=1, script=script, args=())


@pytest.mark.parametrize("script", ["train.py", "src/train.py", "a..b/c.py"])
def test_script_within_the_archive_is_taken(script):
    assert CodeReference(sha256=bytes(32), size=1, script=script, args=()).script == script


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": ("hospital-b", "hospital-a")}, "distinct and in order"),
        ({"sites": ("hospital-a", "hospital-a")}, "distinct and in order"),
        ({"sites": ()}, r"sites\n.*at least 1 item"),
        ({"sites": tuple(f"site-{number:05}" for number in range(10_001))}, "sites"),
        ({"metrics": ("accuracy",) * 65}, "metrics"),
        ({"min_sites": 3}, "min_sites 3 exceeds the 2 sites"),
        ({"min_sites": 0}, "min_sites"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 100_001}, "rounds"),
        ({"profile": "none"}, "profile"),
        ({"round_timeout_seconds": 0}, "round_timeout_seconds"),
    ],
)
def test_job_that_contradicts_itself_cannot_be_made(change, said):
    with pytest.raises(ValidationError, match=said):
        draft_job(**change)


@pytest.mark.parametrize(
    ("part", "change"), [("code", {"size": 0}), ("code", {"args": ["x"] * 65}), ("model", {"sealed_size": 0})]
)
def test_reference_to_nothing_or_to_too_much_is_malformed(part, change):
    fields = json.loads(draft_job().encode())
    with pytest.raises(MalformedDocumentError, match=f"{part}.{next(iter(change))}"):
        JobManifest.parse(json.dumps(fields | {part: fields[part] | change}).encode())


@pytest.mark.parametrize("size", [15, 17])
def test_approval_names_a_boot_of_16_bytes(size):
    with pytest.raises(ValidationError, match="boot"):
        JobApproval(
            trust_domain="test.mock",
            site="hospital-a",
            boot=bytes(size),
            job="digits-1",
            job_sha256=bytes(32),
            site_policy_sha256=bytes(32),
            approved_at=NOW,
        )


@pytest.mark.parametrize("config", [{"rate": 0.5}, {"rate": None}, {"rate": [1]}])
def test_setting_that_is_no_text_integer_or_truth_is_refused(config):
    raw = json.dumps(json.loads(draft_job().encode()) | {"config": config}).encode()
    with pytest.raises(MalformedDocumentError):
        JobManifest.parse(raw)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(), max_size=3))
def test_layout_and_parameters_are_handed_on_as_canonical_json(part):
    manifest = draft_job(aggregation=part)
    assert json.loads(manifest.aggregation_parameters()) == part
    assert JobManifest.parse(manifest.encode()).aggregation_parameters() == manifest.aggregation_parameters()
    assert manifest.model_layout() == b"{}"


def test_job_is_named_by_the_bytes_of_its_manifest():
    assert job_digest(b"payload") == sha256("job", lp(b"payload"))
