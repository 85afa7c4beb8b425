"""The mock TEE as a process: a control socket that stands for the hypervisor, a device socket for each machine.

    FOLDER/control.sock   launch, destroy, list          (attestation.mock_tee.control)
    FOLDER/NAME.sock      the TEE device of machine NAME  (attestation.attester)

Machines live as long as the process: hardware forgets its guests when it loses power, and so does this.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from attestation.attester import (
    CpuReply,
    CpuRequest,
    DescribeReply,
    DescribeRequest,
    DeviceReply,
    DeviceSocketReply,
    DeviceSocketRequest,
    Refusal,
)
from attestation.errors import MockTeeError
from attestation.mock_tee.control import (
    CONTROL_SOCKET,
    MAX_MACHINES,
    ControlReply,
    ControlRequest,
    DestroyRequest,
    Done,
    LaunchRequest,
    Machines,
    Refused,
    device_socket,
)
from attestation.mock_tee.frames import FrameSocket
from attestation.mock_tee.hardware import Hardware, MockAttester
from attestation.mock_tee.machines import Launch
from policies.errors import MalformedDocumentError

logger = logging.getLogger(__name__)

LOCK_FILE = "lock"


class MockTeeServer:
    """Serves a folder while its `async with` block runs.

    Raises, when the block is entered:
        MockTeeError: Another mock TEE serves this folder, or others may write to it.
    """

    def __init__(self, folder: Path, hardware: Hardware) -> None:
        self._folder = folder
        self._hardware = hardware
        self._machines: dict[str, tuple[Launch, FrameSocket]] = {}
        self._changes = asyncio.Lock()  # a machine is launched or destroyed as a whole
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(os.close, _lock(self._folder))
            for stale in self._folder.glob("*.sock"):  # of a process that was killed: the lock says it is gone
                stale.unlink()
            stack.push_async_callback(self._destroy_all)
            control = FrameSocket(self._folder / CONTROL_SOCKET, self._answer_control)
            await control.open()
            stack.push_async_callback(control.close)
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def launch(self, launch: Launch) -> None:
        """Launch a machine and open its device socket.

        Raises:
            MockTeeError: One of that name runs, there are too many, or its socket cannot be opened.
        """
        async with self._changes:
            await self._launch(launch)

    async def _launch(self, launch: Launch) -> None:
        path = device_socket(self._folder, launch.name)
        if launch.name in self._machines or path.name == CONTROL_SOCKET:
            raise MockTeeError(
                f"the name {launch.name!r} is taken", hint="destroy that machine, or choose another name"
            )
        if len(self._machines) == MAX_MACHINES:
            raise MockTeeError(f"{MAX_MACHINES} machines run, no more can be launched")
        attester = self._hardware.start(launch)

        async def answer(raw: bytes) -> bytes:
            return answer_device(attester, raw)

        device = FrameSocket(path, answer)
        await device.open()
        self._machines[launch.name] = (launch, device)
        logger.info("machine launched", extra={"machine": launch.name})

    async def destroy(self, name: str) -> None:
        """Destroy a machine and remove its device socket.

        Raises:
            MockTeeError: There is none of that name.
        """
        async with self._changes:
            if name not in self._machines:
                running = ", ".join(sorted(self._machines)) or "none"
                raise MockTeeError(f"there is no machine {name!r}, running are: {running}")
            _, device = self._machines.pop(name)
            await device.close()
        logger.info("machine destroyed", extra={"machine": name})

    async def _destroy_all(self) -> None:
        for name in tuple(self._machines):
            await self.destroy(name)

    async def _answer_control(self, raw: bytes) -> bytes:
        reply: Done | Machines | Refused = Done()
        try:
            request = ControlRequest.parse(raw).request
            if isinstance(request, LaunchRequest):
                await self.launch(request.launch)
            elif isinstance(request, DestroyRequest):
                await self.destroy(request.name)
            else:
                reply = Machines(machines=tuple(launch for _, (launch, _) in sorted(self._machines.items())))
        except (MalformedDocumentError, MockTeeError) as error:
            reply = Refused(reason=error.message, hint=error.hint)
        return ControlReply(reply=reply).encode()


def answer_device(attester: MockAttester, raw: bytes) -> bytes:
    """Return the reply of one machine's TEE device to the bytes of a request."""
    reply: DescribeReply | CpuReply | DeviceReply | Refusal
    try:
        request = DeviceSocketRequest.parse(raw).request
        if isinstance(request, DescribeRequest):
            there = attester.describe()
            reply = DescribeReply(kind=there.kind, devices=there.devices)
        elif isinstance(request, CpuRequest):
            cpu = attester.collect_cpu(request.report_data)
            reply = CpuReply(kind=cpu.kind, report=cpu.report, endorsements=cpu.endorsements)
        else:
            device = attester.collect_device(request.index, request.nonce)
            reply = DeviceReply(
                device_class=device.device_class, vendor=device.vendor, report=device.report, chain=device.chain
            )
    except (MalformedDocumentError, MockTeeError) as error:
        reply = Refusal(reason=error.message)
    return DeviceSocketReply(reply=reply).encode()


def _lock(folder: Path) -> int:
    """Take the folder for this process and return the descriptor that holds it."""
    try:
        if folder.stat().st_mode & 0o022:
            raise MockTeeError(
                f"others may write to {folder}, expected a folder of your own", hint=f"chmod 700 {folder}"
            )
        descriptor = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MockTeeError(f"the folder {folder} is not usable: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise MockTeeError(f"another mock TEE serves {folder}", hint="stop it, or use another --dir") from error
    return descriptor
