"""The administrator's calls to a server, over a channel that is there already: typed errors, bounded bytes, no gaps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import grpc

from attestation.channel.status import error_of
from fl_runtime.arrays import decode, require_finite
from fl_runtime.errors import TransferError
from fl_runtime.jobs.compose import ComposedJob
from fl_runtime.jobs.model_blob import open_model
from fl_runtime.jobs.terms import terms_of
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport import federation_pb2_grpc as rpc
from fl_runtime.transport.chunks import CHUNK_BYTES, Buffer, cut
from fl_runtime.transport.sealed import SealingKey
from policies.job_manifest import JobManifest

CALL_SECONDS = 30.0
SUBMIT_SECONDS = 3600.0  # of one upload: a model of gigabytes over a slow line
SLACK_BYTES = 1 << 20  # a final model is as large as the initial one, but for its header


class JobsClient:
    """The verbs of the `Jobs` service."""

    def __init__(self, channel: grpc.aio.Channel, *, what: str) -> None:
        """Call over `channel`; `what` names the other side in errors: "the server at 10.0.0.7:4000"."""
        self._stub = rpc.JobsStub(channel)
        self._what = what

    async def submit(self, job: ComposedJob) -> None:
        """Send a job: manifest, code and sealed model.

        Raises:
            CloisterError: The server refuses it, or cannot be reached.
            TransferError: The server took it for another job.
        """
        with self._typed():
            reply = await self._stub.Submit(_parts(job), timeout=SUBMIT_SECONDS)
        if reply.job_id != job.job_id:
            raise TransferError(f"the server answered for job {reply.job_id!r:.80}, expected {job.job_id}")

    async def watch(self, job_id: str) -> AsyncIterator[pb.JobEvent]:
        """Yield what happens with a job, in order and without gaps, from its beginning until it has ended.

        Raises:
            CloisterError: There is no such job, or the server cannot be reached.
            TransferError: An event is missing.
        """
        expected = 0
        with self._typed():
            async for event in self._stub.Watch(pb.WatchRequest(job_id=job_id)):
                if event.number != expected:
                    raise TransferError(f"event {event.number} of {job_id} came, expected {expected}")
                expected += 1
                yield event

    async def abort(self, job_id: str) -> None:
        """End a job; its model stays as the last round left it."""
        with self._typed():
            await self._stub.Abort(pb.AbortRequest(job_id=job_id), timeout=CALL_SECONDS)

    async def list_jobs(self) -> tuple[pb.JobSummary, ...]:
        """Return all jobs that the server knows."""
        with self._typed():
            return tuple((await self._stub.List(pb.ListRequest(), timeout=CALL_SECONDS)).jobs)

    async def fetch_model(self, manifest: JobManifest, key: SealingKey) -> memoryview:
        """Return the final model of a job as safetensors, opened and compared with the layout that was submitted.

        Raises:
            CloisterError: There is none yet, or the server cannot be reached.
            TransferError: More bytes than a model of this layout has, or a gap.
            SealedBlobError: It is not this job's final model.
            ArraysError: It has another layout, or holds NaN or infinity.
        """
        blob = bytearray()
        limit = manifest.model.sealed_size + SLACK_BYTES
        with self._typed():
            async for chunk in self._stub.FetchModel(pb.FetchModelRequest(job_id=manifest.job)):
                if chunk.offset != len(blob) or len(blob) + len(chunk.data) > limit:
                    raise TransferError(
                        f"{len(chunk.data)} bytes of the model came for byte {chunk.offset}, expected byte {len(blob)} "
                        f"and at most {limit} in all"
                    )
                blob += chunk.data
        return open_final_model(blob, manifest, key)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise error_of(error, what=self._what) from error


def open_final_model(blob: Buffer, manifest: JobManifest, key: SealingKey) -> memoryview:
    """Open what a server gave as the final model of a job; the errors are those of `JobsClient.fetch_model`."""
    encoded = open_model(blob, key, trust_domain=manifest.trust_domain, job=manifest.job, round_number=manifest.rounds)
    require_finite(decode(encoded, terms_of(manifest).layout))
    return encoded


async def _parts(job: ComposedJob) -> AsyncIterator[pb.SubmitPart]:
    yield pb.SubmitPart(manifest=job.envelope)
    for chunk in cut(job.code, chunk_bytes=CHUNK_BYTES):
        yield pb.SubmitPart(code=bytes(chunk.body))
    for chunk in cut(job.sealed_model, chunk_bytes=CHUNK_BYTES):
        yield pb.SubmitPart(model=bytes(chunk.body))
