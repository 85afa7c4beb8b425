"""The order in which one log's records must stand, followed alike by its writer, its recovery and its verifier."""

from __future__ import annotations

import bisect

from policies.audit.merkle import MerkleTree, leaf_hash
from policies.audit.record import Record
from policies.errors import RecordTamperedError

LOG_KEY = "log-key"  # digest of a `log.open` record: the raw Ed25519 key (32 bytes) that signs checkpoints of this boot
EAR = "ear"  # digest of a `log.open` record: SHA-256 of the attestation result that certifies that key


class Chain:
    """What is known after some records: the tree, and which boot writes under which log key.

    Each record follows the last: its number is the next, its time is not before it, and it belongs to the boot of the last
    `log.open`, of which there is one at the very start.
    """

    __slots__ = ("_keys", "_opened_at", "boot", "last", "log", "tree")

    def __init__(self, log: str) -> None:
        self.log = log
        self.tree = MerkleTree()
        self.last: Record | None = None
        self.boot: bytes | None = None
        self._opened_at: list[int] = []  # numbers of the `log.open` records, rising
        self._keys: list[bytes] = []  # the keys they certify

    def follow(self, record: Record, entry: bytes) -> None:
        """Take `record`, whose stored bytes are `entry`, as the next.

        Raises:
            RecordTamperedError: It is not the next record of this log; nothing has been taken.
        """
        for field, found, expected in (("log", record.log, self.log), ("seq", record.seq, self.tree.size)):
            if found != expected:
                raise RecordTamperedError(f"record has {field} {found}, expected {expected}")
        key = self._require_opened(record)
        if self.last is not None and record.ts < self.last.ts:
            raise RecordTamperedError(
                f"record is of {record.ts}, expected no earlier than {self.last.ts} of the one before"
            )
        if self.last is not None and record.boot == self.last.boot and record.mono < self.last.mono:
            raise RecordTamperedError(
                f"record has mono {record.mono}, expected at least {self.last.mono} in the same boot"
            )
        if key is not None:
            self._opened_at.append(record.seq)
            self._keys.append(key)
            self.boot = record.boot
        self.last = record
        self.tree.append(leaf_hash(entry))

    def key_at(self, size: int) -> bytes:
        """The key that must sign a checkpoint of `size` records: that of the last `log.open` among them.

        Raises:
            RecordTamperedError: There is none.
        """
        place = bisect.bisect_left(self._opened_at, size)
        if place == 0:
            raise RecordTamperedError(f"a checkpoint of {size} records, but none of them opens the log")
        return self._keys[place - 1]

    def _require_opened(self, record: Record) -> bytes | None:
        """Return the key that a `log.open` certifies; another record must belong to the boot that is open."""
        if record.action == "log.open":
            key = record.digests.get(LOG_KEY, b"")
            if len(key) != 32:
                raise RecordTamperedError(f"log.open certifies a log key of {len(key)} bytes, expected 32")
            return key
        if record.boot != self.boot:
            expected = self.boot.hex() if self.boot is not None else "a log.open first"
            raise RecordTamperedError(f"record is of boot {record.boot.hex()}, expected {expected}")
        return None
