"""Who is connected: one link for each boot of each site, with a queue of instructions that survives a reconnection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fl_runtime.server.bell import Bell
from fl_runtime.transport import federation_pb2 as pb
from policies.attestation_result import AttestationResult

HEARTBEAT_SECONDS = 5.0

_HEARTBEAT = pb.Instruction(heartbeat=pb.Heartbeat())
_END = pb.Instruction()  # wakes a stream so that it sees that it is over


@dataclass(slots=True, eq=False)
class SiteLink:
    """One boot of one site, connected or about to return."""

    result: AttestationResult  # of its newest connection
    outbox: asyncio.Queue[pb.Instruction] = field(default_factory=asyncio.Queue)
    stream: int = 0  # the newest control stream; an older one ends when it sees that it is not this
    lost_at: float | None = None  # monotonic seconds; None while connected

    @property
    def site(self) -> str:
        """The site's name."""
        return self.result.node

    @property
    def boot(self) -> bytes:
        """Of this link, 16 bytes."""
        return self.result.boot

    def send(self, instruction: pb.Instruction) -> None:
        """Queue an instruction; it is delivered in order, now or after a reconnection."""
        self.outbox.put_nowait(instruction)


class Sites:
    """All links. Bells that were hung here ring whenever somebody joins or leaves."""

    def __init__(self, *, grace_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a site as gone when it has been away for `grace_seconds`."""
        self._links: dict[str, SiteLink] = {}
        self._grace = grace_seconds
        self._clock = clock
        self._bells: set[Bell] = set()
        self._watchers: list[Callable[[SiteLink], None]] = []
        self._closed = False

    def on_join(self, watcher: Callable[[SiteLink], None]) -> None:
        """Call `watcher` for each new boot of a site."""
        self._watchers.append(watcher)

    @contextmanager
    def rings(self, bell: Bell) -> Iterator[Bell]:
        """Ring `bell` at every change while the context is open."""
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.discard(bell)

    def present(self, sites: Iterable[str]) -> tuple[SiteLink, ...]:
        """The links of those of `sites` that are connected right now, in order of names."""
        links = (self._links.get(site) for site in sorted(sites))
        return tuple(link for link in links if link is not None and link.lost_at is None)

    def all_present(self) -> tuple[SiteLink, ...]:
        """The links of every site that is connected right now."""
        return self.present(self._links)

    def is_gone(self, link: SiteLink) -> bool:
        """Whether this very boot has left for good: another boot took its place, or it has been away too long."""
        if self._links.get(link.site) is not link:
            return True
        return link.lost_at is not None and self._clock() - link.lost_at >= self._grace

    async def attend(self, result: AttestationResult) -> AsyncIterator[pb.Instruction]:
        """Yield the instructions for one control stream until it ends; a newer stream of the same boot ends this one."""
        link, new = self._arrive(result)
        stream = link.stream
        self._ring()
        if new:
            for watcher in self._watchers:
                watcher(link)
        try:
            while link.stream == stream and not (self._closed and link.outbox.empty()):
                try:
                    instruction = await asyncio.wait_for(link.outbox.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    instruction = _HEARTBEAT
                if instruction is not _END:
                    yield instruction
        finally:
            if link.stream == stream:
                link.lost_at = self._clock()
                self._ring()
                asyncio.get_running_loop().call_later(self._grace + 0.01, self._ring)

    def close(self) -> None:
        """End every control stream once what is queued for it has been sent."""
        self._closed = True
        for link in self._links.values():
            link.send(_END)

    def _arrive(self, result: AttestationResult) -> tuple[SiteLink, bool]:
        link = self._links.get(result.node)
        new = link is None or link.boot != result.boot or self.is_gone(link)
        if link is None or new:  # what was queued for a boot that left means nothing to the next
            link = self._links[result.node] = SiteLink(result)
        link.result = result
        link.stream += 1
        link.lost_at = None
        return link, new

    def _ring(self) -> None:
        for bell in self._bells:
            bell.ring()
