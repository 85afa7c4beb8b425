"""What the jobs of one site share, and how they reach the server through whatever link is open right now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from attestation.channel.status import error_of
from attestation.node import Node
from attestation.retry import persistently
from fl_runtime.secure_aggregation.memory import RoundMemory
from fl_runtime.secure_aggregation.stages import RingVector
from fl_runtime.site.peers import Peers
from fl_runtime.site.server_link import ServerLink
from fl_runtime.site.settings import SiteSettings
from fl_runtime.site.trainer import TrainerLauncher
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.chunks import MAX_CALL_BYTES, Reassembly, calls, cut
from fl_runtime.transport.errors import TransportError
from policies.files import write_atomically
from policies.site_policy import SitePolicy

CALL_SECONDS = 60.0
TRANSFER_SECONDS = 600.0  # for one call of at most 64 MiB


class Uplink:
    """The server, as the jobs see it: calls wait for a link, and are made again after a reconnection."""

    def __init__(self, *, say: Callable[[str], None]) -> None:
        """Begin without a link."""
        self._link: asyncio.Future[ServerLink] | None = None
        self._say = say

    def connect(self, link: ServerLink) -> None:
        """Use this link from now on."""
        if self._link is None or self._link.done():
            self._link = asyncio.get_running_loop().create_future()
        self._link.set_result(link)

    def disconnect(self) -> None:
        """Calls wait until there is a link again."""
        self._link = None

    async def answer(self, answer: pb.SiteAnswer) -> None:
        """Send one answer.

        Raises:
            RemoteError: The server does not take it.
        """
        await self._persist(lambda link: link.stub.Answer(answer, timeout=CALL_SECONDS), what="an answer")

    async def download(self, job_id: str, *, sha256: bytes, size: int) -> memoryview:
        """Fetch a blob, going on where a broken transfer stopped.

        Raises:
            TransportError: What came is not the blob that was named.
        """
        whole = Reassembly(bytearray(size))

        async def fetch(link: ServerLink) -> None:
            while whole.received < size:
                before = whole.received
                request = pb.DownloadRequest(job_id=job_id, sha256=sha256, offset=before)
                async for chunk in link.stub.Download(request, timeout=TRANSFER_SECONDS):
                    whole.accept(chunk.offset, chunk.data)
                if whole.received == before:
                    raise TransportError(f"the server sent {before} bytes of a blob, expected {size}")

        await self._persist(fetch, what="a download")
        return whole.finish(sha256)

    async def upload(self, vector: RingVector, *, job_id: str, round_number: int, attempt: int) -> None:
        """Send a masked vector in calls of at most 64 MiB, going on where a broken transfer stopped.

        Raises:
            RemoteError: The server does not take it.
        """
        bytes_view = vector.view(np.uint8).data
        begun = False

        def first() -> pb.UploadChunk:
            return pb.UploadChunk(job_id=job_id, round=round_number, attempt=attempt)

        async def send(link: ServerLink) -> None:
            nonlocal begun

            async def ask() -> AsyncIterator[pb.UploadChunk]:
                yield first()

            received = (await link.stub.Upload(ask(), timeout=CALL_SECONDS)).received if begun else 0
            begun = True
            for span in calls(len(bytes_view), start=received, call_bytes=MAX_CALL_BYTES):

                async def chunks(span: range = span) -> AsyncIterator[pb.UploadChunk]:
                    for chunk in cut(bytes_view[: span.stop], start=span.start):
                        message = first()
                        message.offset, message.data = chunk.offset, bytes(chunk.body)
                        yield message

                await link.stub.Upload(chunks(), timeout=TRANSFER_SECONDS)

        await self._persist(send, what="an upload")

    async def _persist(self, call: Callable[[ServerLink], Awaitable[object]], *, what: str) -> None:
        async def once() -> None:
            link = await self._current()
            try:
                await call(link)
            except grpc.aio.AioRpcError as error:
                raise error_of(error, what="the server") from error

        await persistently(once, what=what, say=self._say)

    async def _current(self) -> ServerLink:
        if self._link is None:
            self._link = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._link)


class SavedMemory:
    """The site's memory of rounds, kept on disk: what it has answered is saved before the answer leaves."""

    def __init__(self, path: Path) -> None:
        """Load what was saved at `path`; nothing there is an empty memory."""
        self._path = path
        self.memory = RoundMemory.parse(path.read_bytes()) if path.exists() else RoundMemory()

    def save(self) -> None:
        """Make it durable.

        Raises:
            OSError: It cannot be; nothing may be answered then.
        """
        write_atomically(self._path, self.memory.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What every job of this site uses."""

    node: Node
    policy: SitePolicy
    policy_sha256: bytes  # 32 bytes, of its payload
    settings: SiteSettings
    launcher: TrainerLauncher
    uplink: Uplink
    peers: Peers
    rounds: SavedMemory
    say: Callable[[str], None]
