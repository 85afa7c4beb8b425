"""How a program asks the machine it runs on for evidence: the `Attester` seam and the TEE device socket behind it.

The TEE device socket is a unix stream socket that stands where `/dev/sev-guest` and the GPU driver stand on hardware.
Each connection carries one request and one reply, each a frame: length as a big-endian 32-bit integer, then strict JSON
with bytes in hex. Nothing is kept between requests, so a fork or a restart on either side is harmless.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import Field

from attestation.errors import AttesterUnavailableError
from attestation.evidence import MAX_DEVICES, CpuEvidence, CpuKind, DeviceClass, DeviceEvidence, DeviceVendor
from policies.documents import MAX_DOCUMENT_BYTES, Document
from policies.encoding import u32
from policies.errors import MalformedDocumentError

MAX_FRAME_BYTES = MAX_DOCUMENT_BYTES  # the largest evidence, 128 KiB of a device, is 256 KiB in hex
NOT_THERE_HINT = "is `cloister mock-tee serve` running, and was this machine launched?"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttesterDescription:
    """What an attester can give evidence of, in its own words."""

    kind: CpuKind
    devices: tuple[DeviceClass, ...]  # in the order of their indices


class Attester(Protocol):
    """Collects evidence of the machine this program runs on."""

    def describe(self) -> AttesterDescription:
        """Say which CPU and which devices there are."""
        ...

    def collect_cpu(self, report_data: bytes) -> CpuEvidence:
        """Return a CPU report over `report_data` (64 bytes)."""
        ...

    def collect_device(self, index: int, nonce: bytes) -> DeviceEvidence:
        """Return a report of device `index` over `nonce` (32 bytes)."""
        ...


# --- what travels ----------------------------------------------------------------------------------------------------


class DescribeRequest(Document):
    """Which CPU and devices are there?"""

    ask: Literal["describe"] = "describe"


class CpuRequest(Document):
    """Sign this report data."""

    ask: Literal["cpu"] = "cpu"
    report_data: bytes = Field(min_length=64, max_length=64)


class DeviceRequest(Document):
    """Let device `index` sign this nonce."""

    ask: Literal["device"] = "device"
    index: int = Field(ge=0, lt=MAX_DEVICES)
    nonce: bytes = Field(min_length=32, max_length=32)


class DeviceSocketRequest(Document):
    """One request to a TEE device."""

    request: Annotated[DescribeRequest | CpuRequest | DeviceRequest, Field(discriminator="ask")]


class DescribeReply(Document):
    """What is there."""

    answer: Literal["description"] = "description"
    kind: CpuKind
    devices: tuple[DeviceClass, ...] = Field(max_length=MAX_DEVICES)


class CpuReply(Document):
    """Evidence of the CPU."""

    answer: Literal["cpu"] = "cpu"
    kind: CpuKind
    report: bytes
    endorsements: bytes


class DeviceReply(Document):
    """Evidence of one device."""

    answer: Literal["device"] = "device"
    device_class: DeviceClass
    vendor: DeviceVendor
    report: bytes
    chain: bytes


class Refusal(Document):
    """The request was understood, or not, and is not answered; says why."""

    answer: Literal["refused"] = "refused"
    reason: str


class DeviceSocketReply(Document):
    """One reply of a TEE device."""

    reply: Annotated[DescribeReply | CpuReply | DeviceReply | Refusal, Field(discriminator="answer")]


# --- frames ----------------------------------------------------------------------------------------------------------


def send_frame(connection: socket.socket, payload: bytes) -> None:
    """Send one frame. Raises `OSError` as sockets do."""
    connection.sendall(u32(len(payload)) + payload)


def receive_frame(connection: socket.socket, *, timeout_seconds: float) -> bytes:
    """Receive one frame, whole within `timeout_seconds` however slowly it drips in.

    Raises:
        MalformedDocumentError: Longer than `MAX_FRAME_BYTES`, or the peer closed before its end.
        OSError: As sockets do; `TimeoutError` when it takes too long.
    """
    deadline = time.monotonic() + timeout_seconds
    size = int.from_bytes(_receive_exactly(connection, 4, deadline=deadline), "big")
    if size > MAX_FRAME_BYTES:
        raise MalformedDocumentError(f"frame announces {size} bytes, at most {MAX_FRAME_BYTES} are read")
    return _receive_exactly(connection, size, deadline=deadline)


def _receive_exactly(connection: socket.socket, size: int, *, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(min(size - len(received), 1 << 16))
        if not piece:
            raise MalformedDocumentError(f"connection closed after {len(received)} bytes, expected {size}")
        received += piece
    return bytes(received)


def exchange(path: Path, request: bytes, *, timeout_seconds: float) -> bytes:
    """Connect to the unix socket at `path`, send one frame, return the payload of the one that comes back.

    Raises:
        MalformedDocumentError: The reply is not a whole frame of bounded size.
        OSError: As sockets do; `TimeoutError` when the reply takes too long.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(str(path))
        send_frame(connection, request)
        return receive_frame(connection, timeout_seconds=timeout_seconds)


# --- the attester ----------------------------------------------------------------------------------------------------


R = TypeVar("R", DescribeReply, CpuReply, DeviceReply)


@dataclass(frozen=True, slots=True)
class SocketAttester:
    """An `Attester` that asks a TEE device socket.

    Every method raises `AttesterUnavailableError` when there is no socket, no answer in time, or no usable answer, and
    `ValueError` when an argument has the wrong size.
    """

    path: Path
    timeout_seconds: float = field(default=10.0, kw_only=True)

    def describe(self) -> AttesterDescription:
        """Ask which CPU and which devices there are."""
        reply = self._ask(DescribeRequest(), DescribeReply)
        return AttesterDescription(kind=reply.kind, devices=reply.devices)

    def collect_cpu(self, report_data: bytes) -> CpuEvidence:
        """Ask for a CPU report over `report_data` (64 bytes)."""
        reply = self._ask(CpuRequest(report_data=report_data), CpuReply)
        return CpuEvidence(kind=reply.kind, report=reply.report, endorsements=reply.endorsements)

    def collect_device(self, index: int, nonce: bytes) -> DeviceEvidence:
        """Ask for a report of device `index` over `nonce` (32 bytes)."""
        reply = self._ask(DeviceRequest(index=index, nonce=nonce), DeviceReply)
        return DeviceEvidence(
            device_class=reply.device_class, vendor=reply.vendor, report=reply.report, chain=reply.chain
        )

    def _ask(self, request: DescribeRequest | CpuRequest | DeviceRequest, expected: type[R]) -> R:
        try:
            raw = exchange(
                self.path, DeviceSocketRequest(request=request).encode(), timeout_seconds=self.timeout_seconds
            )
            reply = DeviceSocketReply.parse(raw).reply
        except TimeoutError as error:
            raise AttesterUnavailableError(
                f"TEE device at {self.path} did not answer within {self.timeout_seconds:g} seconds"
            ) from error
        except OSError as error:
            raise AttesterUnavailableError(
                f"no TEE device at {self.path}: {error.strerror or error}", hint=NOT_THERE_HINT
            ) from error
        except MalformedDocumentError as error:
            raise AttesterUnavailableError(f"TEE device at {self.path} gave no usable answer: {error}") from error
        if isinstance(reply, Refusal):
            raise AttesterUnavailableError(f"TEE device at {self.path} refused: {reply.reason}")
        if not isinstance(reply, expected):
            raise AttesterUnavailableError(
                f"TEE device at {self.path} answered {reply.answer!r}, expected an answer to {request.ask!r}"
            )
        return reply
