"""A witness's memory of another's log, and why it is safe to believe a log that enough witnesses have cosigned.

A witness cosigns a head only if it continues the last one it kept. So a log that shows two histories needs two disjoint
majorities of witnesses, and a log that was rolled back is smaller than what its witnesses remember.

The order matters: **save the new state, then send the cosignature** (`WitnessFile.save`). The other way round, a crash in
between would let the log show this witness another history.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.audit.checkpoint import Checkpoint, Cosignature, SignedCheckpoint, parse_size
from policies.audit.files import replace_file
from policies.audit.merkle import EMPTY_ROOT, verify_consistency
from policies.audit.note import SignatureLine
from policies.audit.record import Counter, Event, Record
from policies.documents import Document, Sha256
from policies.errors import MalformedRecordError, RecordTamperedError, RollbackError

_OBJECT = re.compile(r"([^@]{1,400})@([0-9]{1,19})")
ROOT = "root"  # digest of a `checkpoint.cosign` record


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessState:
    """The last head of one log that this witness has kept."""

    origin: str
    size: int
    root: bytes  # 32 bytes

    @classmethod
    def empty(cls, origin: str) -> Self:
        """What a witness knows of a log that it has never seen."""
        return cls(origin=origin, size=0, root=EMPTY_ROOT)

    def advance(
        self,
        signed: SignedCheckpoint,
        proof: Sequence[bytes],
        *,
        log_key: bytes,
        name: str,
        key: Ed25519PrivateKey,
        seconds: int,
    ) -> tuple[WitnessState, SignatureLine]:
        """Return the state that knows `signed`, to be saved first, and the cosignature, to be sent second.

        Args:
            signed: The new head, as it came.
            proof: Consistency proof from `self.size` to its size.
            log_key: The log's raw Ed25519 key of this boot.
            name: The witness's name in its signature line.
            key: The witness's key.
            seconds: The time, since the epoch.

        Raises:
            RollbackError: The log is smaller than it was.
            RecordTamperedError: A bad signature, or a history that is not the one this witness knows.
        """
        head = signed.verify(origin=self.origin, key=log_key)
        if head.size < self.size:
            raise RollbackError(
                f"{self.origin} has {head.size} records, {self.size} were already seen: it was rolled back",
                hint="ask its operator whether a disk or a snapshot was restored; this witness cosigns only what continues",
            )
        verify_consistency(old=self.size, new=head.size, old_root=self.root, new_root=head.root, proof=proof)
        return WitnessState(origin=self.origin, size=head.size, root=head.root), head.cosign(
            name=name, key=key, seconds=seconds
        )


class _Memory(Document):
    origin: str
    size: Counter
    root: Sha256


@dataclass(frozen=True, slots=True)
class WitnessFile:
    """Where a witness keeps the state of one log: a small JSON document, replaced whole."""

    path: Path

    def load(self, origin: str) -> WitnessState:
        """Return what was saved for `origin`; the empty state before the first save.

        Raises:
            MalformedDocumentError: The file is not what `save` writes.
            RecordTamperedError: It remembers another log.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return WitnessState.empty(origin)
        memory = _Memory.parse(raw)
        if memory.origin != origin:
            raise RecordTamperedError(f"{self.path} remembers {memory.origin}, expected {origin}")
        return WitnessState(origin=memory.origin, size=memory.size, root=memory.root)

    def save(self, state: WitnessState) -> None:
        """Make `state` durable; raises `OSError` if it cannot be, and then no cosignature may be sent."""
        replace_file(self.path, _Memory(origin=state.origin, size=state.size, root=state.root).encode())


def quorum(
    lines: Iterable[SignatureLine], witnesses: Mapping[str, Iterable[bytes]], needed: int, *, checkpoint: Checkpoint
) -> tuple[Cosignature, ...]:
    """Require cosignatures over `checkpoint` by at least `needed` different witnesses.

    Args:
        lines: As they came; unknown witnesses are passed over, failing lines of known ones are an error.
        witnesses: The raw Ed25519 keys of each witness that counts, by name.
        needed: At least 1.
        checkpoint: The head they must be over.

    Returns:
        One for each witness, in the order of their names.

    Raises:
        RecordTamperedError: Too few, or a line of a known witness fails.
    """
    known = {name: tuple(keys) for name, keys in witnesses.items()}
    found = {line.name: checkpoint.verify_cosignature(line, known[line.name]) for line in lines if line.name in known}
    if needed < 1 or len(found) < needed:
        raise RecordTamperedError(
            f"{checkpoint.describe()} is cosigned by {len(found)} of {len(known)} witnesses, expected {max(needed, 1)}",
            hint=f"missing: {', '.join(sorted(known.keys() - found.keys())) or 'nobody'}",
        )
    return tuple(found[name] for name in sorted(found))


def cosign_event(checkpoint: Checkpoint, *, actor: str, via: str = "self") -> Event:
    """What a site records before it sends a cosignature: the verifier compares it with the log itself."""
    return Event(
        action="checkpoint.cosign",
        actor=actor,
        via=via,
        object=f"{checkpoint.origin}@{checkpoint.size}",
        decision="allow",
        digests={ROOT: checkpoint.root},
    )


def cosigned_checkpoint(record: Record) -> Checkpoint:
    """Read back what `cosign_event` recorded.

    Raises:
        MalformedRecordError: Its object is not `<origin>@<size>`, or there is no root.
    """
    match, root = _OBJECT.fullmatch(record.object), record.digests.get(ROOT, b"")
    if match is None or len(root) != 32:
        raise MalformedRecordError(
            f"found {record.object!r:.80} with a root of {len(root)} bytes, expected `<origin>@<size>` and 32"
        )
    return Checkpoint(origin=match[1], size=parse_size(match[2]), root=root)
