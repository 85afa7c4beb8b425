from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel.interceptor import Edge, utc_now
from attestation.channel.status import RemoteError, UnreachableError
from fl_runtime.arrays import Layout, encode
from fl_runtime.errors import ArraysError, JobRefusedError, TransferError
from fl_runtime.jobs import administrator
from fl_runtime.jobs.administrator import Session
from fl_runtime.jobs.client import JobsClient
from fl_runtime.jobs.compose import Submitter, compose
from fl_runtime.jobs.job_file import JobFile, JobPackage
from fl_runtime.jobs.model_blob import seal_model
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport import federation_pb2_grpc as rpc
from policies.roster import Member

ARRAYS = {"weight": np.arange(200_000, dtype=np.float32), "bias": np.zeros(3, np.float32)}
CODE = bytes(range(256)) * 8192  # 2 MiB, several parts
NODES = {f"site-{letter}": Member(organisation=f"org-{letter}", role="site", tier="attested") for letter in "abcd"}
SERVER = {"server": Member(organisation="consortium", role="server", tier="attested")}


class Roster(SimpleNamespace):
    def member(self, node):
        return self.nodes[node]


@pytest.fixture(scope="module")
def job():
    trust = SimpleNamespace(
        root=SimpleNamespace(trust_domain="demo.mock", mock=True),
        roster=Roster(version=1, nodes=NODES | SERVER, sites=NODES),
        reference_values=SimpleNamespace(entries=(SimpleNamespace(image=bytes(48)),)),
    )
    package = JobPackage(
        file=JobFile(name="digits", rounds=3), code=CODE, model=encode(ARRAYS), layout=Layout.of(ARRAYS)
    )
    submitter = Submitter(name="ada", signing_key=Ed25519PrivateKey.generate())
    return compose(package, trust=trust, server_node="server", submitter=submitter, key=bytes(32), now=utc_now())


@dataclass
class FakeJobs(rpc.JobsServicer):
    """A server that remembers what it was sent and answers what it was told to."""

    job_id: str = ""
    events: list[pb.JobEvent] = field(default_factory=list)
    chunks: list[pb.Chunk] = field(default_factory=list)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)

    async def Submit(self, parts, context):
        async for part in parts:
            what = part.WhichOneof("what")
            self.received.append((what, getattr(part, what)))
        return pb.SubmitReply(job_id=self.job_id)

    async def Watch(self, request, context):
        if not self.events:
            raise JobRefusedError(f"there is no job {request.job_id}", hint="list them")
        for event in self.events:
            yield event

    async def Abort(self, request, context):
        self.aborted.append(request.job_id)
        return pb.AbortReply()

    async def List(self, request, context):
        return pb.ListReply(jobs=[pb.JobSummary(job_id="digits-1", state="running", round=2, rounds=3)])

    async def FetchModel(self, request, context):
        for chunk in self.chunks:
            yield chunk


@contextlib.asynccontextmanager
async def client_of(fake: FakeJobs) -> AsyncIterator[JobsClient]:
    server = grpc.aio.server(interceptors=[Edge(None, clock=utc_now)])
    rpc.add_JobsServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield JobsClient(channel, what="the server at nowhere")
        finally:
            await server.stop(None)


def chunked(blob: bytes, size: int = 300_000) -> list[pb.Chunk]:
    return [pb.Chunk(offset=offset, data=bytes(blob[offset : offset + size])) for offset in range(0, len(blob), size)]


def events(*numbers: int) -> list[pb.JobEvent]:
    return [pb.JobEvent(number=number, kind="state", state="running") for number in numbers]


async def test_job_is_sent_manifest_first_then_code_then_model_in_small_parts(job):
    fake = FakeJobs(job_id=job.job_id)
    async with client_of(fake) as client:
        await client.submit(job)
    kinds = [what for what, _ in fake.received]
    assert kinds == ["manifest"] + ["code"] * kinds.count("code") + ["model"] * kinds.count("model")
    assert kinds.count("code") == 2
    whole = {kind: b"".join(part for what, part in fake.received if what == kind) for kind in set(kinds)}
    assert whole["manifest"] == job.envelope
    assert hashlib.sha256(whole["code"]).digest() == job.manifest.code.sha256
    assert hashlib.sha256(whole["model"]).digest() == job.manifest.model.sealed_sha256
    assert max(len(part) for _, part in fake.received) <= 1 << 20


async def test_server_that_answers_for_another_job_is_noticed(job):
    async with client_of(FakeJobs(job_id="digits-other")) as client:
        with pytest.raises(TransferError, match="digits-other"):
            await client.submit(job)


async def test_events_are_told_in_order():
    async with client_of(FakeJobs(events=events(0, 1, 2))) as client:
        assert [event.number async for event in client.watch("digits-1")] == [0, 1, 2]


@pytest.mark.parametrize("numbers", [(1,), (0, 2), (0, 0)])
async def test_gap_in_the_events_is_noticed(numbers):
    async with client_of(FakeJobs(events=events(*numbers))) as client:
        with pytest.raises(TransferError, match="event"):
            _ = [event async for event in client.watch("digits-1")]


async def test_error_of_the_server_comes_out_with_its_code_and_hint():
    async with client_of(FakeJobs()) as client:
        with pytest.raises(RemoteError, match="there is no job digits-9") as caught:
            _ = [event async for event in client.watch("digits-9")]
    assert (caught.value.code, caught.value.hint) == ("federation.job_refused", "list them")


async def test_server_that_is_not_there_is_unreachable():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(UnreachableError, match="the server at nowhere cannot be reached"):
            await JobsClient(channel, what="the server at nowhere").list_jobs()


async def test_jobs_are_listed_and_aborted():
    fake = FakeJobs()
    async with client_of(fake) as client:
        (summary,) = await client.list_jobs()
        await client.abort(summary.job_id)
    assert (summary.state, fake.aborted) == ("running", ["digits-1"])


def final(job, arrays=ARRAYS, *, round_number=3) -> bytes:
    place = {"trust_domain": "demo.mock", "job": job.job_id, "round_number": round_number}
    return bytes(seal_model(encode(arrays), job.key, **place))


async def test_final_model_arrives_as_it_was_sealed(job):
    async with client_of(FakeJobs(chunks=chunked(final(job)))) as client:
        assert await client.fetch_model(job.manifest, job.key) == encode(ARRAYS)


async def test_model_of_another_layout_or_with_nan_is_refused(job):
    for arrays in ({"weight": ARRAYS["weight"]}, {**ARRAYS, "bias": np.full(3, np.nan, np.float32)}):
        async with client_of(FakeJobs(chunks=chunked(final(job, arrays)))) as client:
            with pytest.raises(ArraysError):
                await client.fetch_model(job.manifest, job.key)


async def test_model_with_a_gap_or_without_end_is_refused(job):
    whole = chunked(final(job))
    endless = [pb.Chunk(offset=offset, data=bytes(1 << 20)) for offset in range(0, 4 << 20, 1 << 20)]
    for chunks in (whole[1:], [*whole[:1], *whole[2:]], [whole[0], *whole], endless):
        async with client_of(FakeJobs(chunks=chunks)) as client:
            with pytest.raises(TransferError, match="bytes of the model came"):
                await client.fetch_model(job.manifest, job.key)


# --- a session that loses its server ----------------------------------------------------------------------------------


class Interrupted:
    """Stands for the servers that a watcher meets one after the other: each tells some events, then breaks."""

    def __init__(self, *tells: list[pb.JobEvent], error: Exception | None = None) -> None:
        self.tells = list(tells)
        self.error = error or UnreachableError("gone")

    async def watch(self, job_id):
        for event in self.tells.pop(0):
            yield event
        if self.tells:
            raise self.error


@pytest.fixture
def session(monkeypatch):
    """A session whose server is handed in."""
    monkeypatch.setattr(administrator, "PAUSE_SECONDS", 0)

    def with_server(server):
        made = Session(SimpleNamespace(), clock=utc_now, say=lambda line: None)

        @contextlib.asynccontextmanager
        async def connected():
            yield server

        monkeypatch.setattr(made, "_server", connected)
        return made

    return with_server


async def test_watcher_that_loses_the_server_goes_on_without_repeating_or_missing_anything(session):
    server = Interrupted(events(0, 1), [], events(0, 1, 2), events(0, 1, 2, 3))
    assert [event.number async for event in session(server).watch("digits-1")] == [0, 1, 2, 3]


async def test_watcher_gives_up_when_the_server_stays_away(session, monkeypatch):
    monkeypatch.setattr(administrator, "PATIENCE_SECONDS", -1)
    with pytest.raises(UnreachableError, match="gone"):
        _ = [event async for event in session(Interrupted([], [])).watch("digits-1")]


async def test_watcher_does_not_repeat_what_cannot_help(session):
    server = Interrupted(events(0), events(0, 1), error=JobRefusedError("no such job"))
    with pytest.raises(JobRefusedError):
        _ = [event async for event in session(server).watch("digits-1")]
    assert len(server.tells) == 1
