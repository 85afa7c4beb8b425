"""A log and its witnesses, from both sides: heads are pushed as they are signed, cosignatures come back.

Sites are the witnesses of the service's and the server's logs. A witness keeps what it has cosigned, records that it did, and
only then sends the cosignature: a log that shows two histories would need two disjoint majorities.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.audit.checkpoint import SignedCheckpoint
from policies.audit.log import AuditLog
from policies.audit.witness import WitnessFile, cosign_event
from policies.errors import RollbackError

LAST_COSIGNATURES_SECONDS = 5.0  # how long a program that stops waits for its witnesses


@dataclass(frozen=True, slots=True)
class Head:
    """One signed head, and the proof that it continues the one that its receiver knows."""

    checkpoint: bytes  # signed note
    consistency: tuple[bytes, ...]  # 32 bytes each


class Watched:
    """The watched log's side: who watches, and who has cosigned what."""

    def __init__(self, log: AuditLog) -> None:
        """Let `log` be watched."""
        self._log = log
        self._turn = asyncio.Condition()
        self._size = 0  # of the newest head that watchers were woken for
        self._closed = False
        self._watching = 0
        self.cosigned: dict[str, int] = {}  # witness -> size of the largest head it has cosigned

    async def publish(self) -> int:
        """Sign the head as it is now, wake every watcher, and return its size."""
        signed = await asyncio.to_thread(self._log.checkpoint)
        await self._wake(signed.checkpoint.size)
        return signed.checkpoint.size

    async def notice(self) -> None:
        """Wake the watchers if the log has signed a head by itself."""
        latest = self._log.latest
        if latest is not None and latest.checkpoint.size > self._size:
            await self._wake(latest.checkpoint.size)

    async def heads(self, old_size: int) -> AsyncIterator[Head]:
        """Yield the newest head whenever there is one, beginning now; ends after the last head of a closed log.

        Args:
            old_size: Of the head that the watcher knows.

        Raises:
            RollbackError: The watcher knows more records than there are: this log was rolled back.
        """
        size = await self.publish()
        if size < old_size:
            raise RollbackError(f"this log has {size} records, its witness has cosigned {old_size}: it was rolled back")
        self._watching += 1
        try:
            while True:
                signed = self._log.latest
                if signed is not None and signed.checkpoint.size > old_size:
                    # To the size of this very head: a newer one may be signed, in another thread, at any moment.
                    proof = self._log.consistency(old_size, size=signed.checkpoint.size) if old_size else ()
                    old_size = signed.checkpoint.size
                    yield Head(signed.encode(), tuple(proof))
                async with self._turn:
                    await self._turn.wait_for(lambda: self._size > old_size or self._closed)  # noqa: B023 - awaited here
                    if self._closed and self._size <= old_size:
                        return
        finally:
            self._watching -= 1

    async def take(self, witness: str, line: bytes, *, size: int, keys: Iterable[bytes]) -> None:
        """Keep a cosignature of `witness`, whose raw Ed25519 keys are `keys`.

        Raises:
            AuditError: It is not one over a recent head.
        """
        text = line.decode("utf-8", errors="replace")
        await asyncio.to_thread(self._log.add_cosignature, text, size=size, witnesses={witness: tuple(keys)})
        self.cosigned[witness] = max(size, self.cosigned.get(witness, 0))
        async with self._turn:
            self._turn.notify_all()

    async def close(self, *, expected: int = 0) -> None:
        """Record the end, and give those who watch, and those expected to, a moment to cosign the last head."""
        signed = await asyncio.to_thread(self._log.close)
        # Who watches leaves when it has seen the last head, so they are counted now.
        size, needed = signed.checkpoint.size, max(self._watching, expected)
        self._closed = True
        await self._wake(size)
        async with self._turn:
            try:
                async with asyncio.timeout(LAST_COSIGNATURES_SECONDS):
                    await self._turn.wait_for(lambda: self._count(size) >= needed)
            except TimeoutError:
                return

    def _count(self, size: int) -> int:
        return sum(1 for cosigned in self.cosigned.values() if cosigned >= size)

    async def _wake(self, size: int) -> None:
        async with self._turn:
            self._size = max(self._size, size)
            self._turn.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A site's side: watches one log and cosigns what continues it."""

    origin: str  # of the watched log
    log_key: bytes  # raw Ed25519 key of the watched log's boot
    site: str  # this site
    name: str  # how it signs: `witness_name`
    key: Ed25519PrivateKey
    memory: WitnessFile
    own_log: AuditLog
    seconds: Callable[[], int]  # since 1970

    @property
    def known_size(self) -> int:
        """What this witness has cosigned last."""
        return self.memory.load(self.origin).size

    def cosign(self, checkpoint: bytes, consistency: Sequence[bytes]) -> tuple[int, bytes]:
        """Return the size of a head and this witness's cosignature over it; blocking, for a thread.

        Raises:
            RollbackError: The log is smaller than it was.
            AuditError: A bad signature, or a history that is not the one this witness knows.
        """
        signed = SignedCheckpoint.parse(checkpoint)
        state, line = self.memory.load(self.origin).advance(
            signed, consistency, log_key=self.log_key, name=self.name, key=self.key, seconds=self.seconds()
        )
        self.memory.save(state)  # first: a crash in between must not let the log show another history
        self.own_log.append_critical(cosign_event(signed.checkpoint, actor=self.site, via="WatchLog"))
        return state.size, line.encode().encode()


def witness_name(trust_domain: str, site: str) -> str:
    """How a site signs as a witness: the origin of its own log."""
    return f"{trust_domain}/{site}"


def witness_file(state: Path, log: str) -> WitnessFile:
    """Where a site remembers what it has cosigned of `log`."""
    folder = state / "witness"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return WitnessFile(folder / f"{log}.json")
