"""A unix socket that answers one frame with one frame: the serving side of `attestation.attester.exchange`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from attestation.attester import MAX_FRAME_BYTES
from attestation.errors import MockTeeError
from policies.encoding import u32

logger = logging.getLogger(__name__)

CONNECTION_TIMEOUT_SECONDS = 5.0  # a client that neither asks nor reads does not hold its connection for longer

Answer = Callable[[bytes], Awaitable[bytes]]


class FrameSocket:
    """One listening socket, which nobody but its owner can connect to."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; a socket that a dead process left behind is replaced.

        Raises:
            MockTeeError: The path is too long for a unix socket (107 bytes), or not writable.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            before = os.umask(0o177)  # so that there is no moment in which others could connect
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            self._server = await asyncio.start_unix_server(self._connected, sock=listener)
        except OSError as error:
            listener.close()
            raise MockTeeError(
                f"cannot listen at {self._path}: {error}", hint="use a folder with a short path that you can write"
            ) from error

    async def close(self) -> None:
        """Remove the socket and drop the connections that are open."""
        self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            async with asyncio.timeout(CONNECTION_TIMEOUT_SECONDS):
                request = await _read_frame(reader)
            reply = await self._answer(request)
            async with asyncio.timeout(CONNECTION_TIMEOUT_SECONDS):
                writer.write(u32(len(reply)) + reply)
                await writer.drain()
        except (TimeoutError, EOFError, ConnectionError) as error:
            logger.info("connection dropped", extra={"socket": self._path.name, "reason": type(error).__name__})
        finally:
            writer.close()


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one frame; one that announces too much is read as empty, which no request is, and so refused."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    return await reader.readexactly(size) if size <= MAX_FRAME_BYTES else b""
