"""What a hypervisor is asked over the control socket: launch a machine, destroy it, list all; and the client that asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from attestation.attester import exchange
from attestation.errors import MockTeeError
from attestation.mock_tee.machines import Launch
from policies.documents import Document, Name
from policies.errors import MalformedDocumentError

CONTROL_SOCKET = "control.sock"
MAX_MACHINES = 256  # so that the list of all fits into one frame


def device_socket(folder: Path, name: str) -> Path:
    """Return where the TEE device of machine `name` is."""
    return folder / f"{name}.sock"


class LaunchRequest(Document):
    """Launch a machine."""

    ask: Literal["launch"] = "launch"
    launch: Launch


class DestroyRequest(Document):
    """Destroy a machine."""

    ask: Literal["destroy"] = "destroy"
    name: Name


class ListRequest(Document):
    """List all machines."""

    ask: Literal["list"] = "list"


class ControlRequest(Document):
    """One request to the hypervisor."""

    request: Annotated[LaunchRequest | DestroyRequest | ListRequest, Field(discriminator="ask")]


class Done(Document):
    """The machine was launched or destroyed."""

    answer: Literal["done"] = "done"


class Machines(Document):
    """All machines, in the order of their names."""

    answer: Literal["machines"] = "machines"
    machines: tuple[Launch, ...] = Field(max_length=MAX_MACHINES)


class Refused(Document):
    """It was not done; says why, and what to do about it where something can be said."""

    answer: Literal["refused"] = "refused"
    reason: str
    hint: str | None


class ControlReply(Document):
    """One reply of the hypervisor."""

    reply: Annotated[Done | Machines | Refused, Field(discriminator="answer")]


R = TypeVar("R", Done, Machines)


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """A client of the mock TEE that serves `folder`; every method raises `MockTeeError` when it cannot or will not."""

    folder: Path
    timeout_seconds: float = field(default=10.0, kw_only=True)

    def launch(self, launch: Launch) -> Path:
        """Launch a machine and return the path of its TEE device socket."""
        self._ask(LaunchRequest(launch=launch), Done)
        return device_socket(self.folder, launch.name)

    def destroy(self, name: str) -> None:
        """Destroy a machine."""
        self._ask(DestroyRequest(name=name), Done)

    def machines(self) -> tuple[Launch, ...]:
        """Return how each machine was launched, in the order of their names."""
        return self._ask(ListRequest(), Machines).machines

    def _ask(self, request: LaunchRequest | DestroyRequest | ListRequest, expected: type[R]) -> R:
        path = self.folder / CONTROL_SOCKET
        try:
            raw = exchange(path, ControlRequest(request=request).encode(), timeout_seconds=self.timeout_seconds)
            reply = ControlReply.parse(raw).reply
        except TimeoutError as error:
            raise MockTeeError(f"mock TEE at {path} did not answer within {self.timeout_seconds:g} seconds") from error
        except OSError as error:
            raise MockTeeError(
                f"no mock TEE at {path}: {error.strerror or error}",
                hint=f"start one: cloister mock-tee serve --dir {self.folder}",
            ) from error
        except MalformedDocumentError as error:
            raise MockTeeError(f"mock TEE at {path} gave no usable answer: {error}") from error
        if isinstance(reply, Refused):
            raise MockTeeError(reply.reason, hint=reply.hint)
        if not isinstance(reply, expected):
            raise MockTeeError(f"mock TEE at {path} answered {reply.answer!r} to {request.ask!r}")
        return reply
