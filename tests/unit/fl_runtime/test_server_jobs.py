"""What the server keeps of jobs: their events, their blobs, their rows."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_runtime.errors import JobRefusedError
from fl_runtime.server.blobs import Blobs
from fl_runtime.server.events import Events
from fl_runtime.server.register import MIGRATIONS, JobRegister
from fl_runtime.server.submission import Submission
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.errors import TransportError
from policies.documents import Envelope
from policies.errors import MalformedDocumentError
from policies.roster import Member, Roster
from policies.state import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)


async def test_whoever_follows_late_is_told_everything_in_order_and_then_the_end():
    events = Events()
    await events.add(pb.JobEvent(kind="state", state="offered"))
    following = asyncio.create_task(collect(events))
    await asyncio.sleep(0)
    await events.add(pb.JobEvent(kind="round", round=1))
    await events.add(pb.JobEvent(kind="state", state="completed"), last=True)
    for told in (await asyncio.wait_for(following, 5), await collect(events)):
        assert [(event.number, event.kind) for event in told] == [(0, "state"), (1, "round"), (2, "state")]


async def collect(events):
    return [event async for event in events.follow()]


def test_blob_is_named_by_its_bytes_and_comes_back_whole(tmp_path):
    blobs = Blobs(tmp_path / "blobs")
    name = blobs.put(b"sealed")
    assert name == hashlib.sha256(b"sealed").digest()
    assert blobs.read(name) == b"sealed"
    blobs.discard(name)
    with pytest.raises(TransportError, match="there is no blob"):
        blobs.path(name)


@pytest.mark.parametrize("name", [b"", b"../secret", bytes(31), bytes(33)])
def test_name_that_is_not_a_digest_names_no_blob(tmp_path, name):
    with pytest.raises(TransportError, match="there is no blob"):
        Blobs(tmp_path / "blobs").path(name)


def test_blob_that_the_disk_has_changed_is_not_read(tmp_path):
    blobs = Blobs(tmp_path / "blobs")
    name = blobs.put(b"sealed")
    blobs.path(name).write_bytes(b"Sealed")
    with pytest.raises(TransportError, match="not what was stored"):
        blobs.read(name)


def register(tmp_path):
    clock = lambda: datetime.now(UTC)  # noqa: E731 - a clock is handed in
    return JobRegister(Store.open(tmp_path / "jobs.sqlite", owner="server", clock=clock, migrations=MIGRATIONS))


def test_job_and_how_far_it_came_survive_a_restart(tmp_path):
    first = register(tmp_path)
    assert first.add("one", b"manifest")
    first.set_state("one", "running")
    first.commit_round("one", rounds_done=2, model=bytes(32))
    again = register(tmp_path)  # the first was not closed: it was killed
    row = again.job("one")
    assert (row.state, row.rounds_done, row.model, row.manifest) == ("running", 2, bytes(32), b"manifest")
    again.close()
    first._store._connection.close()


def test_id_of_a_job_is_used_once(tmp_path):
    jobs = register(tmp_path)
    assert [jobs.add("one", b"manifest"), jobs.add("one", b"other")] == [True, False]
    assert jobs.job("one").manifest == b"manifest"
    assert jobs.job("two") is None
    jobs.close()


def parts(*what):
    submission = Submission("admin", max_bytes=10)
    for part in what:
        submission.take(pb.SubmitPart(**part))
    return submission


def envelope():
    """An envelope as such: what is in it is looked at when the submission is whole."""
    roster = Roster(
        version=1,
        previous=None,
        issued_at=NOW,
        expires_at=NOW + timedelta(days=1),
        trust_domain="test.mock",
        nodes={"server": Member(organisation="north", role="server", tier="attested")},
    )
    return Envelope.sign(roster, "roster", [Ed25519PrivateKey.generate()]).encode()


@pytest.mark.parametrize("part", [{"code": b"x"}, {"model": b"x"}, {}])
def test_submission_that_does_not_begin_with_its_manifest_is_refused(part):
    with pytest.raises(JobRefusedError, match="out of order"):
        parts(part)


def test_submission_whose_manifest_is_not_an_envelope_is_refused():
    with pytest.raises(MalformedDocumentError):
        parts({"manifest": b"not an envelope"})


def test_submission_without_a_manifest_is_refused():
    with pytest.raises(JobRefusedError, match="without its manifest"):
        Submission("admin", max_bytes=10).finish()


@pytest.mark.parametrize("what", ["code", "model"])
def test_submission_above_the_server_s_limit_is_refused_before_it_is_whole(what):
    with pytest.raises(JobRefusedError, match="larger than this server takes"):
        parts({"manifest": envelope()}, {"code": b"x" * 6}, {what: b"x" * 5})


def test_second_manifest_in_one_submission_is_refused():
    with pytest.raises(JobRefusedError, match="out of order"):
        parts({"manifest": envelope()}, {"manifest": envelope()})


def test_submission_whose_envelope_holds_another_document_is_refused():
    with pytest.raises(MalformedDocumentError):
        parts({"manifest": envelope()}).finish()
