"""How a site's jobs reach the server: calls wait for a link, are made again on the next one, and go on where they stopped."""

from __future__ import annotations

import asyncio
import hashlib
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from attestation.channel.status import RemoteError
from fl_runtime.secure_aggregation.memory import RoundMemory
from fl_runtime.site.session import SavedMemory, Uplink
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.errors import TransportError

BLOB = bytes(range(250)) * 12_000  # 3 MB: more than one chunk


def broken():
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, empty, empty, details="Socket closed")


class Server:
    """A stub of the server whose next calls break."""

    def __init__(self, *, breaks=0, blob=BLOB, received=0):
        self.breaks = breaks
        self.blob = blob
        self.answers = []
        self.offsets = []  # that downloads began at
        self.received = bytearray(received)
        self.asked = 0

    def _break(self):
        if self.breaks:
            self.breaks -= 1
            raise broken()

    async def Answer(self, answer, **_):
        self._break()
        self.answers.append(answer)

    async def Download(self, request, **_):
        self.offsets.append(request.offset)
        for offset in range(request.offset, len(self.blob), 1 << 20):
            yield pb.Chunk(offset=offset, data=self.blob[offset : offset + (1 << 20)])
            self._break()

    async def Upload(self, chunks, **_):
        async for chunk in chunks:
            if not chunk.data:
                self.asked += 1
            assert chunk.offset in {0, len(self.received)}
            self.received[chunk.offset :] = chunk.data or self.received[chunk.offset :]
            if chunk.data:
                self._break()
        return pb.UploadReply(received=len(self.received))


@pytest.fixture
def uplink():
    return Uplink(say=lambda _: None)


def connect(uplink, server):
    uplink.connect(SimpleNamespace(stub=server))
    return server


async def test_answer_waits_for_a_link(uplink):
    answering = asyncio.create_task(uplink.answer(pb.SiteAnswer(job_id="one")))
    await asyncio.sleep(0)
    assert not answering.done()
    server = connect(uplink, Server())
    await asyncio.wait_for(answering, 5)
    assert [answer.job_id for answer in server.answers] == ["one"]


async def test_answer_is_given_again_when_the_connection_breaks(uplink):
    server = connect(uplink, Server(breaks=1))
    await asyncio.wait_for(uplink.answer(pb.SiteAnswer(job_id="one")), 10)
    assert len(server.answers) == 1


async def test_answer_that_the_server_refuses_is_not_given_again(uplink):
    class Refusing(Server):
        async def Answer(self, answer, **_):
            self.answers.append(answer)
            empty = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, empty, empty, details="no")

    server = connect(uplink, Refusing())
    with pytest.raises(RemoteError):
        await uplink.answer(pb.SiteAnswer())
    assert len(server.answers) == 1


async def test_download_goes_on_where_it_broke(uplink):
    server = connect(uplink, Server(breaks=1))
    blob = await asyncio.wait_for(uplink.download("one", sha256=hashlib.sha256(BLOB).digest(), size=len(BLOB)), 10)
    assert bytes(blob) == BLOB
    assert server.offsets == [0, 1 << 20]


@pytest.mark.parametrize("blob", [BLOB[:-1] + b"?", BLOB[:-1], BLOB + b"?"], ids=["changed", "too short", "too long"])
async def test_download_of_anything_but_the_blob_that_was_named_is_refused(uplink, blob):
    connect(uplink, Server(blob=blob))
    with pytest.raises(TransportError):
        await uplink.download("one", sha256=hashlib.sha256(BLOB).digest(), size=len(BLOB))


async def test_upload_asks_how_far_it_came_only_when_it_broke(uplink):
    vector = np.arange(10, dtype=np.uint32)
    server = connect(uplink, Server())
    await uplink.upload(vector, job_id="one", round_number=0, attempt=1)
    assert (bytes(server.received), server.asked) == (vector.tobytes(), 0)
    server = connect(uplink, Server(breaks=1))
    await asyncio.wait_for(uplink.upload(vector, job_id="one", round_number=0, attempt=1), 10)
    assert (bytes(server.received), server.asked) == (vector.tobytes(), 1)


def test_memory_of_rounds_is_read_back_as_it_was_saved(tmp_path):
    saved = SavedMemory(tmp_path / "rounds.json")
    assert saved.memory.encode() == RoundMemory().encode()
    saved.save()
    assert SavedMemory(tmp_path / "rounds.json").memory.encode() == saved.memory.encode()
