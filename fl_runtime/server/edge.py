"""The gRPC edge of the FL server: messages in and out, blocking work in threads, nothing decided here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from attestation.channel.caller import AttestedPeer
from attestation.channel.interceptor import administrator, attested_caller
from attestation.errors import ReattestError
from attestation.witnessing import Watched, witness_name
from fl_runtime.errors import JobError
from fl_runtime.server.blobs import Blobs
from fl_runtime.server.greeter import Greeter
from fl_runtime.server.jobs import Jobs
from fl_runtime.server.sites import SiteLink, Sites
from fl_runtime.server.submission import Submission
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport import federation_pb2_grpc as rpc
from fl_runtime.transport.chunks import CHUNK_BYTES, MAX_CALL_BYTES


class FederationEdge(rpc.FederationServicer):
    """What sites call."""

    def __init__(self, *, greeter: Greeter, sites: Sites, jobs: Jobs, blobs: Blobs, watched: Watched) -> None:
        """Serve what these hold."""
        self._greeter = greeter
        self._sites = sites
        self._jobs = jobs
        self._blobs = blobs
        self._watched = watched

    async def Greet(self, request: pb.Greeting, context: Any) -> pb.ServerIdentity:  # noqa: ANN401, N802, ARG002
        """Attest again, with the site's nonce."""
        caller = attested_caller(role="site")
        identity, nonces = await self._greeter.greet(caller.name, request.nonce)
        return pb.ServerIdentity(
            attestation=identity.attestation,
            result=identity.token,
            certificate=identity.certificate_pem,
            nonces=list(nonces),
        )

    async def Join(self, request: pb.JoinRequest, context: Any) -> AsyncIterator[pb.Instruction]:  # noqa: ANN401, N802, ARG002
        """Hold the control stream of one site."""
        caller = attested_caller(role="site")
        async for instruction in self._sites.attend(caller.result):
            yield instruction

    async def Answer(self, request: pb.SiteAnswer, context: Any) -> pb.AnswerReply:  # noqa: ANN401, N802, ARG002
        """Take what a site answers."""
        link = self._link(attested_caller(role="site"))
        job = self._jobs.job_of(request.job_id, site=link.site)
        if request.WhichOneof("what") == "masked":
            await job.attempt(request.round, request.attempt).count(link.site, request.masked)
        else:
            job.answer(link, request)
        return pb.AnswerReply()

    async def Download(self, request: pb.DownloadRequest, context: Any) -> AsyncIterator[pb.Chunk]:  # noqa: ANN401, N802, ARG002
        """Send a blob of a job that the site takes part in, at most 64 MiB a call."""
        caller = attested_caller(role="site")
        self._jobs.require_blob(request.job_id, request.sha256, site=caller.name)
        async for chunk in read_chunks(self._blobs.path(request.sha256), request.offset):
            yield chunk

    async def Upload(self, request_iterator: AsyncIterator[pb.UploadChunk], context: Any) -> pb.UploadReply:  # noqa: ANN401, N802, ARG002
        """Spool a masked vector, from wherever the site goes on."""
        link = self._link(attested_caller(role="site"))
        received = 0
        async for chunk in request_iterator:
            attempt = self._jobs.job_of(chunk.job_id, site=link.site).attempt(chunk.round, chunk.attempt)
            if not attempt.may_upload(link.site):
                raise JobError(f"no vector of {link.site} is taken in round {chunk.round} attempt {chunk.attempt}")
            if chunk.data:
                received = await asyncio.to_thread(attempt.spool.append, link.site, chunk.offset, chunk.data)
                attempt.bytes_up += len(chunk.data)
            else:
                received = attempt.spool.received(link.site)
        return pb.UploadReply(received=received)

    async def WatchLog(self, request: pb.WatchLogRequest, context: Any) -> AsyncIterator[pb.LogHead]:  # noqa: ANN401, N802, ARG002
        """Show every head of the log to a witness."""
        attested_caller(role="site")
        async for head in self._watched.heads(request.old_size):
            yield pb.LogHead(checkpoint=head.checkpoint, consistency=list(head.consistency))

    async def Cosign(self, request: pb.CosignRequest, context: Any) -> pb.CosignReply:  # noqa: ANN401, N802, ARG002
        """Take a witness's cosignature; only its own."""
        caller = attested_caller(role="site")
        keys = [caller.result.cnf.sign_pk]
        await self._watched.take(
            witness_name(caller.result.trust_domain, caller.name), request.cosignature, size=request.size, keys=keys
        )
        self._jobs.ring()
        return pb.CosignReply()

    def _link(self, caller: AttestedPeer) -> SiteLink:
        for link in self._sites.present([caller.name]):
            if link.boot == caller.result.boot:
                return link
        raise ReattestError(f"{caller.name} has no control stream here", hint="join first, then answer")


class JobsEdge(rpc.JobsServicer):
    """What administrators call."""

    def __init__(self, *, jobs: Jobs, blobs: Blobs, max_job_bytes: int) -> None:
        """Serve what these hold."""
        self._jobs = jobs
        self._blobs = blobs
        self._max_job_bytes = max_job_bytes

    async def Submit(self, request_iterator: AsyncIterator[pb.SubmitPart], context: Any) -> pb.SubmitReply:  # noqa: ANN401, N802, ARG002
        """Take a whole job: manifest, code, model."""
        submission = Submission(administrator().name, max_bytes=self._max_job_bytes)
        async for part in request_iterator:
            submission.take(part)
        return pb.SubmitReply(job_id=await self._jobs.submit(submission.finish()))

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.JobEvent]:  # noqa: ANN401, N802, ARG002
        """Tell what happens with a job."""
        administrator()
        async for event in self._jobs.follow(request.job_id):
            yield event

    async def Abort(self, request: pb.AbortRequest, context: Any) -> pb.AbortReply:  # noqa: ANN401, N802, ARG002
        """End a job."""
        caller = administrator()
        self._jobs.job(request.job_id).abort(f"aborted by {caller.name}")
        return pb.AbortReply()

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListReply:  # noqa: ANN401, N802, ARG002
        """List the jobs."""
        administrator()
        return pb.ListReply(jobs=await asyncio.to_thread(self._jobs.summaries))

    async def FetchModel(self, request: pb.FetchModelRequest, context: Any) -> AsyncIterator[pb.Chunk]:  # noqa: ANN401, N802, ARG002
        """Send the final model, sealed, to the job's submitter."""
        blob = await asyncio.to_thread(self._jobs.final_model, request.job_id, administrator().name)
        async for chunk in read_chunks(self._blobs.path(blob), 0, most=None):
            yield chunk


async def read_chunks(path: Path, offset: int, *, most: int | None = MAX_CALL_BYTES) -> AsyncIterator[pb.Chunk]:
    """Yield a file from `offset` on in chunks, at most `most` bytes of it."""
    with path.open("rb") as file:
        file.seek(offset)
        end = None if most is None else offset + most
        while end is None or offset < end:
            data = await asyncio.to_thread(file.read, CHUNK_BYTES)
            if not data:
                return
            yield pb.Chunk(offset=offset, data=data)
            offset += len(data)
