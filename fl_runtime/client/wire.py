"""What a runtime and a trainer say to each other: small JSON messages on a unix socket, arrays in sealed memory beside them.

The socket is SOCK_SEQPACKET, so one packet is one message; a message may carry one file descriptor. Arrays lie in a memfd,
encoded as safetensors. It is sealed before it travels: its reader may check it once and then rely on it, and nobody can
truncate it under a reader. Neither side believes the other: messages are strict documents, arrays are checked against a layout.

Runtime to trainer: `Task`, `End`. Trainer to runtime: `Ready`, `Result`, `Log`, `Failed`; its launcher adds `Exited`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints

from fl_runtime.arrays import Layout, ModelArrays, pieces
from fl_runtime.client.model import MetaKey, ParamsType
from fl_runtime.errors import ArraysError, TrainerLostError
from policies.documents import Document, check_strict_json
from policies.errors import MalformedDocumentError

MAX_MESSAGE_BYTES = 64 << 10
FD_BYTES = 4  # an int; room for one descriptor, the kernel closes any further one
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

TaskName = Literal["train", "validate", "submit_model"]
Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(max_length=16 << 10)]


def _read_number(value: object) -> object:
    return float(value) if isinstance(value, str) else value


# Strict JSON has no floats: their text differs between writers. A number travels as the shortest text that reads back the same.
Number = Annotated[
    float, BeforeValidator(_read_number), Field(allow_inf_nan=False), PlainSerializer(repr, when_used="json")
]


class Task(Document):
    """Work for a trainer; the model comes along as sealed arrays."""

    kind: Literal["task"] = "task"
    name: TaskName
    round_number: int = Field(ge=0)
    total_rounds: int = Field(ge=0)
    meta: dict[Label, bool | int | Text]
    numbers: dict[Label, Number]  # those meta values that are floats


class End(Document):
    """There is no more work; the script's loop ends."""

    kind: Literal["end"] = "end"


class Ready(Document):
    """A launcher or a trainer is up; a trainer says which isolation it runs in and what the host could not offer."""

    kind: Literal["ready"] = "ready"
    applied: tuple[Text, ...]
    missing: tuple[Text, ...]


class Result(Document):
    """The answer to a task; arrays come along unless `params_type` is null."""

    kind: Literal["result"] = "result"
    params_type: ParamsType | None
    metrics: dict[Label, Number]
    meta: dict[Label, bool | int | Text]
    numbers: dict[Label, Number]


class Log(Document):
    """One record of the script's `flare.log`; also the sign that it is making progress."""

    kind: Literal["log"] = "log"
    key: Label
    value: Text  # JSON
    data_type: Label
    step: int | None


class Failed(Document):
    """The script raised."""

    kind: Literal["failed"] = "failed"
    file: Text
    line: int
    exception: Label
    detail: Text
    traceback: Text


class Exited(Document):
    """The trainer's process ended; said by its launcher, after everything the trainer said."""

    kind: Literal["exited"] = "exited"
    status: int  # of the process; a signal's number, negative, when a signal ended it


M = TypeVar("M", bound=Document)


class Channel:
    """One end of a message socket. Not safe for two readers at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._socket.fileno()

    def send(self, message: Document, *, fd: int | None = None, timeout_seconds: float | None = None) -> None:
        """Send one message, with a copy of `fd` if given.

        Raises:
            ValueError: The message is larger than 64 KiB.
            TrainerLostError: The other side is gone, or does not read.
        """
        raw = message.encode()
        if len(raw) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"metrics and meta take {len(raw)} bytes, at most {MAX_MESSAGE_BYTES} travel beside a model"
            )
        try:
            self._socket.settimeout(timeout_seconds)
            if fd is None:
                self._socket.send(raw)
            else:
                socket.send_fds(self._socket, [raw], [fd])
        except OSError as error:  # TimeoutError is one
            raise TrainerLostError(f"the other side of the trainer's socket does not listen: {error}") from error

    def receive(self, *kinds: type[M], timeout_seconds: float | None = None) -> tuple[M | None, int | None]:
        """Return the next message, one of `kinds`, and the descriptor it carried; (None, None) when the other side closed.

        The caller closes the descriptor.

        Raises:
            TimeoutError: Nothing came in time.
            MalformedDocumentError: What came is none of `kinds`.
        """
        try:
            self._socket.settimeout(timeout_seconds)
            # Not socket.recv_fds: it drops its flags (Python 3.11), and descriptors must not leak into child processes.
            raw, ancillary, flags, _ = self._socket.recvmsg(
                MAX_MESSAGE_BYTES, socket.CMSG_LEN(FD_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError:
            raise
        except OSError:  # reset by the other side, or closed on this one
            return None, None
        fd = _descriptor(ancillary)
        try:
            message = _parse(raw, flags, kinds) if raw else None
        except MalformedDocumentError:
            _close(fd)
            raise
        if message is None:
            _close(fd)
            return None, None
        return message, fd

    def close(self) -> None:
        """Close this end."""
        with suppress(OSError):
            self._socket.close()


def _descriptor(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(content) >= FD_BYTES:
            return int.from_bytes(content[:FD_BYTES], sys.byteorder)
    return None


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _parse(raw: bytes, flags: int, kinds: tuple[type[M], ...]) -> M:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise MalformedDocumentError(f"a message of more than {MAX_MESSAGE_BYTES} bytes or one descriptor")
    value = check_strict_json(raw)
    found = value.get("kind") if isinstance(value, dict) else None
    for kind in kinds:
        if kind.model_fields["kind"].default == found:
            return kind.parse(raw)
    raise MalformedDocumentError(
        f"message of kind {found!r:.40}, expected {', '.join(kind.__name__ for kind in kinds)}"
    )


# --- arrays in sealed memory ------------------------------------------------------------------------------------------


def seal(arrays: ModelArrays, layout: Layout) -> int:
    """Write arrays into new memory that nobody can change any more and return its descriptor, which the caller closes."""
    fd = os.memfd_create("cloister-arrays", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for piece in pieces(arrays, layout):
            while piece:
                piece = piece[os.write(fd, piece) :]  # noqa: PLW2901 - one write takes at most 2 GiB
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_sealed(fd: int, *, writable: bool = False) -> mmap.mmap:
    """Map sealed memory and close its descriptor. A writable map is private: its pages are copied when written to.

    Raises:
        ArraysError: The descriptor is not of sealed memory: its content could still change, or be cut off.
    """
    try:
        size = os.fstat(fd).st_size
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            raise ArraysError("arrays came in something that is not sealed memory") from error
        if seals & SEALS != SEALS or size == 0:
            raise ArraysError(
                f"arrays came in memory with seals {seals:#x} and {size} bytes, expected seals {SEALS:#x}"
            )
        access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=access)
    finally:
        os.close(fd)


def split_meta(meta: Mapping[str, Any]) -> tuple[dict[str, bool | int | str], dict[str, float]]:
    """Part `meta` into what strict JSON holds and its floats; numpy's scalars become Python's.

    Raises:
        TypeError: A value is neither text, nor a number, nor a boolean.
    """
    plain: dict[str, bool | int | str] = {}
    numbers: dict[str, float] = {}
    for key, value in meta.items():
        scalar = value.item() if hasattr(value, "item") else value
        if isinstance(scalar, float):
            numbers[key] = scalar
        elif isinstance(scalar, bool | int | str):
            plain[key] = scalar
        else:
            raise TypeError(f"meta[{key!r}] is a {type(value).__name__}, expected text, a number or a boolean")
    return plain, numbers


def sample_count(meta: Mapping[str, bool | int | str]) -> int:
    """Return the weight of a trained model in the mean.

    Raises:
        ValueError: NUM_STEPS_CURRENT_ROUND is missing, or not a whole number from 1.
    """
    count = meta.get(MetaKey.NUM_STEPS_CURRENT_ROUND)
    if type(count) is not int or count < 1:
        raise ValueError(
            f"meta[{MetaKey.NUM_STEPS_CURRENT_ROUND!r}] is {count!r}, expected a whole number from 1: "
            "it is this site's weight in the mean"
        )
    return count
