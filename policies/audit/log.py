"""The writer of one log: appends, makes durable, signs checkpoints, survives crashes and a full disk.

Two ways to record: `append` becomes durable with the next group (100 ms at most while `tick` is called), `append_critical` is
durable when it returns, and its effect may follow only then. A checkpoint is signed over durable records only. A failed
fsync ends the log for good (`AuditWriteError`: the program must end). A full disk halts it (`AuditHaltedError`): the halt is
kept in a reserve outside the folder and both it and the resumption are recorded as soon as there is room.

Everything is synchronous and under one lock. The program calls `tick` every 100 ms.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.audit.chain import EAR, LOG_KEY
from policies.audit.checkpoint import Checkpoint, Cosignature, SignedCheckpoint, encode_cosignature
from policies.audit.clock import Clock
from policies.audit.disk import Disk, DiskFullError
from policies.audit.errors import AuditWriteError
from policies.audit.files import AppendFile, DiskFile, OpenFile
from policies.audit.folder import Folder
from policies.audit.frames import frame
from policies.audit.merkle import Proof, leaf_hash
from policies.audit.note import SignatureLine
from policies.audit.record import Event, Record, printable
from policies.audit.recovery import Cut, Recovered, recover
from policies.audit.writer import Writer
from policies.documents import raw_public_key
from policies.errors import AuditError, AuditHaltedError, RecordTamperedError, UsageError

GROUP_NS = 100_000_000  # an ordinary record is durable within 100 ms
CHECKPOINT_NS = 1_000_000_000  # a checkpoint every second,
CHECKPOINT_RECORDS = 256  # and every 256 records


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where an event was recorded."""

    seq: int
    leaf: bytes  # RFC 6962 leaf hash of the stored bytes, 32 bytes


class AuditLog:
    """One log, held open by its only writer. Use as a context manager, or call `release`."""

    def __init__(self, files: Folder, recovered: Recovered, writer: Writer) -> None:
        self._files = files
        self._chain = recovered.chain
        self._latest = recovered.latest
        self._sizes = recovered.sizes
        self._cosigned = recovered.cosigned
        self._writer = writer
        self._lock = threading.Lock()
        self._unsynced_since: int | None = None  # monotonic ns of the first record that is not yet durable
        self._checkpointed_at = writer.clock.monotonic_ns()
        self._held = files.reserve.held()  # the `audit.halt` record that waits for room
        self._disk = Disk(self._chain.log)
        self._closed = False
        self._released = False

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        origin: str,
        log: str,
        signing_key: Ed25519PrivateKey,
        boot_id: bytes,
        clock: Clock,
        randomness: Callable[[int], bytes],
        aside: Path,
        actor: str,
        ear: bytes | None,
        open_file: OpenFile = DiskFile,
    ) -> Self:
        """Open the log in `folder`, recover it, and record `log.open` (and `log.cut` where a tail was torn).

        Args:
            folder: `DIR/<log>`; made if this log is new.
            origin: `<trust domain>/<log>`.
            log: The name of the log, and of its folder.
            signing_key: This boot's log key; `log.open` certifies it.
            boot_id: 16 bytes.
            clock: Time of day and monotonic time; a time of day that runs back is recorded as standing still.
            randomness: Gives that many random bytes, for salts.
            aside: A folder outside `DIR` for the lock and the 64 KiB reserve.
            actor: Who writes, as it stands in records about the log itself.
            ear: SHA-256 of the attestation result that certifies the key; None where there is none (yet).
            open_file: How files are opened; tests break disks here.

        Raises:
            UsageError: Names that do not agree, or `aside` inside `DIR`.
            AuditLockedError: Another process writes this log.
            RecordTamperedError: Files are missing, or there is damage before the last checkpoint.
            AuditHaltedError, AuditWriteError: As for `append_critical`.
        """
        _require_names(folder, origin=origin, log=log, aside=aside)
        try:
            files = Folder.open(folder, aside=aside, open_file=open_file)
        except OSError as error:
            raise AuditWriteError(f"log {log} cannot be opened: {error}") from error
        if files is None:
            raise RecordTamperedError(f"log {log}: a file of {folder} is missing, though this machine has written it")
        writer = Writer(
            origin=origin, log=log, actor=actor, boot=boot_id, key=signing_key, clock=clock, randomness=randomness
        )
        try:
            recovered = recover(
                records=files.records.read(),
                checkpoints=files.checkpoints.read(),
                cosignatures=files.cosignatures.read(),
                origin=origin,
                log=log,
            )
            self = cls(files, recovered, writer)
            self._begin(recovered.cuts, ear)
        except BaseException:
            files.close()
            raise
        return self

    def append(self, event: Event) -> Receipt:
        """Record `event`; durable with the next group.

        Raises:
            MalformedRecordError: The event cannot be a record.
            AuditHaltedError: The disk is full; nothing was recorded.
            AuditWriteError: The disk failed; the program must end.
        """
        with self._lock:
            self._keep_pace()
            return self._commit(event)

    def append_critical(self, event: Event) -> Receipt:
        """Record `event` and return only when it is durable; its effect may happen then and not before.

        Raises:
            MalformedRecordError, AuditHaltedError, AuditWriteError: As for `append`.
        """
        with self._lock:
            self._keep_pace()
            receipt = self._commit(event)
            self._sync()
            return receipt

    def tick(self) -> None:
        """Make durable what has waited 100 ms, and sign a checkpoint where one is due; call it every 100 ms.

        Raises:
            AuditHaltedError, AuditWriteError: As for `append`.
        """
        with self._lock:
            self._keep_pace()
            waited = self._writer.clock.monotonic_ns() - self._checkpointed_at
            if waited >= CHECKPOINT_NS and self._chain.tree.size > self._covered:
                self._checkpoint()

    def checkpoint(self) -> SignedCheckpoint:
        """Make every record durable and sign the head; the same head is signed once.

        Raises:
            AuditHaltedError, AuditWriteError: As for `append`.
        """
        with self._lock:
            return self._checkpoint()

    def consistency(self, old_size: int, *, size: int | None = None) -> Proof:
        """Prove that the checkpoint of `size`, the latest where not said, begins with the first `old_size` records.

        Raises:
            ValueError: That checkpoint is smaller: whoever asks has seen another history.
        """
        with self._lock:
            return self._chain.tree.consistency_proof(old_size, self._covered if size is None else size)

    def inclusion(self, seq: int) -> Proof:
        """Prove that record `seq` is under the latest checkpoint; `ValueError` if it is not."""
        with self._lock:
            return self._chain.tree.inclusion_proof(seq, self._covered)

    def add_cosignature(self, line: str, *, size: int, witnesses: Mapping[str, Iterable[bytes]]) -> Cosignature:
        """Keep a witness's cosignature over the checkpoint of `size`; the first for each witness and size is kept.

        Args:
            line: The note line, with its newline.
            size: Of the checkpoint it is over.
            witnesses: The raw Ed25519 keys of each known witness, by name.

        Raises:
            MalformedRecordError: Not a signature line.
            RecordTamperedError: No such checkpoint, an unknown witness, or the signature does not hold.
            AuditHaltedError, AuditWriteError: As for `append`.
        """
        parsed = SignatureLine.parse(line)
        with self._lock:
            if size not in self._sizes[-CHECKPOINT_RECORDS:]:
                raise RecordTamperedError(
                    f"cosignature by {parsed.name} is over size {size}, not over a recent checkpoint"
                )
            head = Checkpoint(origin=self._writer.origin, size=size, root=self._chain.tree.root(size))
            cosignature = head.verify_cosignature(parsed, witnesses.get(parsed.name, ()))
            if (size, parsed.name) not in self._cosigned:
                self._write(self._files.cosignatures, frame(encode_cosignature(size, parsed)))
                self._cosigned.add((size, parsed.name))
                if self._unsynced_since is None:
                    self._unsynced_since = self._writer.clock.monotonic_ns()
            return cosignature

    def close(self) -> SignedCheckpoint:
        """Record `log.close`, which also names the checkpoints and cosignatures so far, and sign the last checkpoint.

        Cosignatures of that checkpoint may still come; `release` ends it all.
        """
        with self._lock:
            self._sync()
            digests = {
                Folder.CHECKPOINTS: hashlib.sha256(self._files.checkpoints.read()).digest(),
                Folder.COSIGNATURES: hashlib.sha256(self._files.cosignatures.read()).digest(),
            }
            self._commit(self._writer.about("log.close", digests=digests))
            last = self._checkpoint()
            self._closed = True
            return last

    def release(self) -> None:
        """Make everything durable and let another process write; a log that is not closed goes on at the next start."""
        with self._lock:
            if self._released:
                return
            self._released = True
            try:
                if self._disk.usable:
                    self._sync()
            finally:
                self._files.close()
                self._disk.forbid(f"log {self._chain.log} was released")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def size(self) -> int:
        """How many records there are, durable or not."""
        return self._chain.tree.size

    @property
    def latest(self) -> SignedCheckpoint | None:
        """The last checkpoint that was signed."""
        return self._latest

    # --- under the lock ----------------------------------------------------------------------------------------------

    @property
    def _covered(self) -> int:
        return self._latest.checkpoint.size if self._latest is not None else 0

    def _begin(self, cuts: tuple[Cut, ...], ear: bytes | None) -> None:
        """Cut torn tails, open this boot, tell of the cuts and of a halt before it, and sign the first checkpoint."""
        key = raw_public_key(self._writer.key)
        digests = {LOG_KEY: key} if ear is None else {LOG_KEY: key, EAR: ear}
        events = [self._writer.about("log.open", digests=digests)]
        for cut in cuts:
            self._disk.attempt(functools.partial(self._files.file(cut.file).cut, cut.size))
            reason = f"{len(cut.lost)} bytes behind byte {cut.size} of {cut.file}: {cut.reason}"
            events.append(self._writer.about("log.cut", reasons=(printable(reason),), digests={"lost": cut.digest}))
        self._record(*events, *self._pending())
        self._checkpoint()

    def _commit(self, event: Event) -> Receipt:
        """Record `event`, behind the halt that is over if it can be recorded."""
        if self._closed:
            raise AuditError(f"log {self._chain.log} is closed, {event.action} cannot be recorded")
        return self._record(*self._pending(), event)

    def _record(self, *events: Event) -> Receipt:
        """Write `events` at the end, all or none; returns where the last one is."""
        start, last = self._chain.tree.size, self._chain.last
        placed: list[tuple[Record, bytes]] = []
        for seq, event in enumerate(events, start):
            placed.append(self._writer.place(event, seq=seq, last=last))
            last = placed[-1][0]
        self._write(self._files.records, b"".join(frame(entry) for _, entry in placed))
        for record, entry in placed:
            self._chain.follow(record, entry)
        if self._unsynced_since is None:
            self._unsynced_since = self._writer.clock.monotonic_ns()
        if self._held is not None:
            self._sync()
            self._disk.attempt(self._files.reserve.clear)
            self._held = None
        return Receipt(seq=start + len(placed) - 1, leaf=leaf_hash(placed[-1][1]))

    def _checkpoint(self) -> SignedCheckpoint:
        if self._held is not None:
            self._record(*self._pending())
        self._sync()
        size = self._chain.tree.size
        if self._latest is None or self._covered < size:
            head = Checkpoint(origin=self._writer.origin, size=size, root=self._chain.tree.root())
            signed = head.sign(self._writer.key)
            self._write(self._files.checkpoints, frame(signed.encode()))
            self._disk.attempt(self._files.checkpoints.sync)  # before anyone sees it: a witness never forgets a size
            self._latest = signed
            self._sizes.append(size)
            self._checkpointed_at = self._writer.clock.monotonic_ns()
        return self._latest

    def _keep_pace(self) -> None:
        """Do what is due before another record is taken."""
        self._disk.require_usable()
        if self._unsynced_since is not None and self._writer.clock.monotonic_ns() - self._unsynced_since >= GROUP_NS:
            self._sync()
        if self._chain.tree.size - self._covered >= CHECKPOINT_RECORDS:
            self._checkpoint()

    def _sync(self) -> None:
        self._disk.require_usable()
        if self._unsynced_since is not None:
            self._disk.attempt(self._files.records.sync)
            self._disk.attempt(self._files.cosignatures.sync)
            self._unsynced_since = None

    # --- a full disk --------------------------------------------------------------------------------------------------

    def _write(self, file: AppendFile, content: bytes) -> None:
        try:
            self._disk.write(file, content)
        except DiskFullError as full:
            raise self._halt(str(full)) from full

    def _halt(self, problem: str) -> AuditHaltedError:
        """Keep in the reserve that nothing more can be recorded, from now on."""
        reason = f"the disk is full: {problem}"
        if self._held is None:
            event = self._writer.about("audit.halt", reasons=(printable(reason),))
            _, entry = self._writer.place(event, seq=self._chain.tree.size, last=self._chain.last)
            self._disk.attempt(lambda: self._files.reserve.hold(entry))
            self._held = entry
        return AuditHaltedError(
            f"log {self._chain.log} can record nothing more, {reason}",
            hint="free some space: recording resumes with the next event, and what must be recorded is refused until then",
        )

    def _pending(self) -> tuple[Event, ...]:
        """The halt that is in the reserve and the end of it; nothing where there is none."""
        if self._held is None:
            return ()
        held = Record.parse(self._held)
        reasons = (*held.reasons, f"since {held.ts}")
        # A crash between recording the halt and clearing the reserve tells it again, under the same request.
        request = held.salt.hex()
        return self._writer.about("audit.halt", reasons=reasons, request=request), self._writer.about(
            "audit.resume", request=request
        )


def _require_names(folder: Path, *, origin: str, log: str, aside: Path) -> None:
    if folder.name != log or not origin.endswith(f"/{log}"):
        raise UsageError(
            f"log {log} has the folder {folder.name} and the origin {origin}, expected both to end in its name"
        )
    if aside.resolve().is_relative_to(folder.resolve().parent):
        raise UsageError(f"the lock and the reserve are in {aside}, expected a place outside {folder.parent}")
