"""What a crash may have left, and what it may not.

A torn tail behind the last checkpoint is what a crash leaves: it is cut, and the cut is recorded. Anything wrong before the
last checkpoint is damage or tampering: the log refuses to start, since a witness may hold that checkpoint already.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass

from policies.audit.chain import Chain
from policies.audit.checkpoint import SignedCheckpoint, parse_cosignature
from policies.audit.folder import Folder
from policies.audit.frames import frame_end, read_frames
from policies.audit.record import Record
from policies.errors import AuditError, MalformedRecordError, RecordTamperedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A torn tail of one file."""

    file: str
    size: int  # bytes to keep
    reason: str
    lost: bytes  # what is cut off

    @property
    def digest(self) -> bytes:
        """SHA-256 of what is cut off, 32 bytes."""
        return hashlib.sha256(self.lost).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """Everything that a log's writer must know to go on."""

    chain: Chain
    latest: SignedCheckpoint | None
    sizes: array[int]  # of the checkpoints, rising
    cosigned: set[tuple[int, str]]  # (size, witness)
    cuts: tuple[Cut, ...]


def recover(*, records: bytes, checkpoints: bytes, cosignatures: bytes, origin: str, log: str) -> Recovered:
    """Read the three files of one log as a crash may have left them.

    Raises:
        RecordTamperedError: Damage before the last checkpoint.
        MalformedRecordError: A whole checkpoint or cosignature that is none.
    """
    notes, note_cut = _whole_frames(checkpoints, Folder.CHECKPOINTS)
    lines, line_cut = _whole_frames(cosignatures, Folder.COSIGNATURES)
    signed = [SignedCheckpoint.parse(note) for note in notes]
    covered = signed[-1].checkpoint.size if signed else 0
    chain, record_cut = _follow(records, log=log, covered=covered)
    sizes = _verify_checkpoints(signed, chain, origin=origin)
    cosigned = {(size, line.name) for size, line in map(parse_cosignature, lines)}
    if unknown := sorted({size for size, _ in cosigned}.difference(sizes)):
        raise RecordTamperedError(
            f"log {log}: a cosignature is over size {unknown[0]}, of which there is no checkpoint"
        )
    return Recovered(
        chain=chain,
        latest=signed[-1] if signed else None,
        sizes=sizes,
        cosigned=cosigned,
        cuts=tuple(cut for cut in (record_cut, note_cut, line_cut) if cut is not None),
    )


def _follow(raw: bytes, *, log: str, covered: int) -> tuple[Chain, Cut | None]:
    """Follow the records to the first that does not fit; before `covered` records that is damage, behind it a torn tail."""
    chain, end = Chain(log), 0
    try:
        for offset, entry in read_frames(raw):
            chain.follow(Record.parse(entry), entry)
            end = frame_end(offset, entry)
    except (MalformedRecordError, RecordTamperedError) as damage:
        _require_covered(chain, covered, damage)
        return chain, Cut(file=Folder.RECORDS, size=end, reason=damage.message, lost=raw[end:])
    _require_covered(chain, covered, None)
    return chain, None


def _require_covered(chain: Chain, covered: int, damage: AuditError | None) -> None:
    if chain.tree.size < covered:
        raise RecordTamperedError(
            f"log {chain.log} has {chain.tree.size} sound records, its last checkpoint covers {covered}"
            + (f": {damage.message}" if damage else ""),
            hint="this is no crash: keep the files for an investigation; a restored backup is refused by the witnesses",
        ) from damage


def _verify_checkpoints(signed: list[SignedCheckpoint], chain: Chain, *, origin: str) -> array[int]:
    sizes = array("Q")
    for note in signed:
        checkpoint = note.verify(origin=origin, key=chain.key_at(note.checkpoint.size))
        if sizes and checkpoint.size <= sizes[-1]:
            raise RecordTamperedError(f"checkpoint of {checkpoint.describe()} stands behind one of size {sizes[-1]}")
        if checkpoint.size > chain.tree.size or chain.tree.root(checkpoint.size) != checkpoint.root:
            raise RecordTamperedError(
                f"checkpoint of {checkpoint.describe()} has a root that is not that of the records"
            )
        sizes.append(checkpoint.size)
    return sizes


def _whole_frames(raw: bytes, file: str) -> tuple[list[bytes], Cut | None]:
    entries: list[bytes] = []
    end = 0
    try:
        for offset, entry in read_frames(raw):
            entries.append(entry)
            end = frame_end(offset, entry)
    except MalformedRecordError as torn:
        return entries, Cut(file=file, size=end, reason=torn.message, lost=raw[end:])
    return entries, None
