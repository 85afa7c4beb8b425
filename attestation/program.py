"""What every long-running program does: bind a port, keep its log durable, run until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc

from attestation.channel.credentials import RotatingServerCredentials
from attestation.witnessing import Watched
from policies.audit.errors import AuditWriteError
from policies.audit.log import AuditLog
from policies.errors import AuditHaltedError, UsageError

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1


def bind(server: grpc.aio.Server, address: str, credentials: RotatingServerCredentials) -> int:
    """Bind `address` (host:port) and return the port.

    Raises:
        UsageError: It cannot be bound; most often because the port is in use.
    """
    try:
        return int(server.add_secure_port(address, credentials.credentials()))
    except RuntimeError as error:
        raise _cannot_listen(address, str(error)) from error


def require_free(address: str) -> None:
    """Refuse `address` (host:port) if it is in use: before this program attests, which displaces the one that uses it.

    Raises:
        UsageError: It is in use, or is no address of this machine.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host.strip("[]"), int(port)), family=_family(host)).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _cannot_listen(address, str(error)) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _cannot_listen(address: str, reason: str) -> UsageError:
    return UsageError(
        f"cannot listen at {address}: {reason}",
        hint="is another program using this port? `ss -ltnp` lists them; choose another port in the settings file",
    )


async def until_stopped() -> None:
    """Return at SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


async def unless_stopped(work: Coroutine[Any, Any, object], stopped: asyncio.Task[None]) -> bool:
    """Do `work` to its end, or cancel it when `stopped` is done first; says whether it came to its end.

    Raises:
        BaseException: Whatever `work` raised.
    """
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


@asynccontextmanager
async def keep_log(log: AuditLog, watched: Watched | None = None) -> AsyncIterator[None]:
    """Make waiting records durable every 100 ms and sign checkpoints, while the context is open.

    `watched` tells its witnesses of each checkpoint.
    """

    async def keep() -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await asyncio.to_thread(log.tick)
                if watched is not None:
                    await watched.notice()
            except AuditHaltedError as error:
                logger.warning("the record is halted", extra={"reason": error.message})
            except AuditWriteError as error:
                # Nothing may happen that cannot be recorded: the disk failed, so this program ends here and now.
                logger.critical("the record cannot be written", extra={"reason": error.message})
                os._exit(1)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
