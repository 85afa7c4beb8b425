"""What every job of one server shares."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attestation.node import Node
from attestation.witnessing import Watched
from fl_runtime.server.blobs import Blobs
from fl_runtime.server.greeter import Greeter
from fl_runtime.server.register import JobRegister
from fl_runtime.server.sites import Sites
from policies.audit.record import Event, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every job of one server shares."""

    node: Node
    greeter: Greeter
    sites: Sites
    watched: Watched
    register: JobRegister
    blobs: Blobs
    scratch: Path
    park_after_seconds: float  # a job waits so long for sites before it says for whom

    async def record(self, job_id: str, **fields: Any) -> None:  # noqa: ANN401 - the fields of an Event
        """Put one event of a job into the record; it is durable when this returns."""
        event = Event(actor=self.node.name, job=job_id, **fields)
        await asyncio.to_thread(self.node.log.append_critical, event)


def reasons(text: str) -> tuple[str, ...]:
    """A reason as a record takes it: cleaned, bounded, none where there are no words."""
    return (printable(text)[:500],) if text else ()
