"""Who writes a log and with what: how an event becomes the record of its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.audit.actions import Action
from policies.audit.clock import Clock
from policies.audit.record import Event, Record, timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """One boot of one program, as the author of its log."""

    origin: str  # `<trust domain>/<log>`
    log: str
    actor: str  # how it is named in records about the log itself
    boot: bytes  # 16 bytes
    key: Ed25519PrivateKey
    clock: Clock
    randomness: Callable[[int], bytes]

    def about(
        self,
        action: Action,
        *,
        reasons: tuple[str, ...] = (),
        digests: Mapping[str, bytes] | None = None,
        request: str | None = None,
    ) -> Event:
        """Make an event about the log itself."""
        return Event(
            action=action, actor=self.actor, object=self.log, reasons=reasons, digests=digests or {}, request=request
        )

    def place(self, event: Event, *, seq: int, last: Record | None) -> tuple[Record, bytes]:
        """Make the record of `event` behind `last`, and the bytes to store.

        Time never runs back in a log: a clock that was set back stands still here.

        Raises:
            MalformedRecordError: The event cannot be a record.
        """
        ts, mono = timestamp(self.clock.now()), self.clock.monotonic_ns()
        if last is not None:
            ts = max(ts, last.ts)
            mono = max(mono, last.mono) if last.boot == self.boot else mono
        record = Record.make(event, log=self.log, seq=seq, ts=ts, mono=mono, boot=self.boot, salt=self.randomness(16))
        return record, record.encode()
