"""What happens with a job, for whoever watches: numbered from the beginning, so that nobody misses any of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fl_runtime.transport import federation_pb2 as pb


class Events:
    """The events of one job."""

    def __init__(self) -> None:
        self._events: list[pb.JobEvent] = []
        self._turn = asyncio.Condition()
        self._ended = False

    async def add(self, event: pb.JobEvent, *, last: bool = False) -> None:
        """Add one event; `last` ends the story."""
        event.number = len(self._events)
        event.time_ms = int(time.time() * 1000)
        self._events.append(event)
        self._ended = self._ended or last
        async with self._turn:
            self._turn.notify_all()

    async def follow(self) -> AsyncIterator[pb.JobEvent]:
        """Yield every event from the first to the last, as they happen."""
        number = 0
        while True:
            while number < len(self._events):
                yield self._events[number]
                number += 1
            async with self._turn:
                await self._turn.wait_for(lambda: number < len(self._events) or self._ended)  # noqa: B023 - awaited here
            if number == len(self._events):
                return
