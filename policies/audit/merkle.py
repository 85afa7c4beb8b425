"""The Merkle tree of RFC 6962: one hash stands for every record, and short proofs show what it contains.

The tree knows leaf hashes only; what a leaf means is for others. Hashes of complete subtrees are kept level by level, so
that an append is O(1) amortised and a root or a proof is O(log n). Memory is 64 bytes of hashes for each record.

Source: RFC 6962 section 2.1; verification as in RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence

from policies.errors import RecordTamperedError

HASH_SIZE = 32  # SHA-256
EMPTY_ROOT = hashlib.sha256(b"").digest()

Proof = tuple[bytes, ...]  # hashes of 32 bytes, nearest to the leaves first


def leaf_hash(entry: bytes) -> bytes:
    """Hash one record; the zero byte keeps it from ever being read as an inner node."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into their parent."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """A tree that only grows; every earlier size of it can still be asked for its root and proofs."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]  # [k][i]: hash of the complete subtree over leaves i*2^k to (i+1)*2^k
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash (32 bytes) and every subtree that it completes."""
        self._levels[0].append(leaf)
        depth = 0
        while len(self._levels[depth]) % 2 == 0:
            parent = node_hash(self._levels[depth][-2], self._levels[depth][-1])
            depth += 1
            if depth == len(self._levels):
                self._levels.append([])
            self._levels[depth].append(parent)

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves (all by default), 32 bytes.

        Raises:
            ValueError: The tree has fewer leaves.
        """
        size = self.size if size is None else size
        self._require(0 <= size <= self.size, f"asked for the root at size {size}, the tree has {self.size} leaves")
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int) -> Proof:
        """Show that leaf `index` is in the tree of `size` leaves.

        Raises:
            ValueError: Not 0 <= index < size <= leaves.
        """
        self._require(0 <= index < size <= self.size, f"no proof of leaf {index} at size {size} of {self.size} leaves")
        return tuple(self._path(index, 0, size))

    def consistency_proof(self, old: int, new: int) -> Proof:
        """Show that the tree of `new` leaves begins with the tree of `old` leaves; empty for old = 0 and old = new.

        Raises:
            ValueError: Not 0 <= old <= new <= leaves.
        """
        self._require(0 <= old <= new <= self.size, f"no proof from size {old} to {new} of {self.size} leaves")
        return tuple(self._subproof(old, 0, new, known=True)) if old else ()

    @staticmethod
    def _require(holds: bool, problem: str) -> None:
        if not holds:
            raise ValueError(problem)

    def _hash(self, start: int, end: int) -> bytes:
        """Hash of the leaves from `start` to `end`; the recursions below only ask for aligned starts."""
        width = end - start
        if width & (width - 1) == 0:
            return self._levels[width.bit_length() - 1][start // width]
        middle = start + _split(width)
        return node_hash(self._hash(start, middle), self._hash(middle, end))

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + _split(end - start)
        if index < middle:
            return [*self._path(index, start, middle), self._hash(middle, end)]
        return [*self._path(index, middle, end), self._hash(start, middle)]

    def _subproof(self, old: int, start: int, end: int, *, known: bool) -> list[bytes]:
        if old == end:
            return [] if known else [self._hash(start, end)]
        middle = start + _split(end - start)
        if old <= middle:
            return [*self._subproof(old, start, middle, known=known), self._hash(middle, end)]
        return [*self._subproof(old, middle, end, known=False), self._hash(start, middle)]


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Require that `proof` leads from leaf hash `leaf` at `index` to the root of `size` leaves.

    Raises:
        RecordTamperedError: It does not.
    """
    if not 0 <= index < size:
        raise RecordTamperedError(
            f"inclusion proof for leaf {index} of {size} leaves, expected an index below the size"
        )
    place, last, found = index, size - 1, leaf
    for step in proof:
        _require_hash(step, left=last)
        if place & 1 or place == last:
            found = node_hash(step, found)
            place, last = _skip_complete(place, last)
        else:
            found = node_hash(found, step)
        place, last = place >> 1, last >> 1
    if last or not hmac.compare_digest(found, root):
        raise RecordTamperedError(f"record {index} is not in the tree of {size} records with root {root.hex()}")


def verify_consistency(*, old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Require that the tree of `new` leaves begins with the tree of `old` leaves.

    Raises:
        RecordTamperedError: It is smaller, or its beginning is another one: the log was rolled back or forked.
    """
    if not 0 <= old <= new:
        raise RecordTamperedError(f"tree has {new} records, expected at least the {old} it had before")
    if old in {0, new}:
        known = EMPTY_ROOT if old == 0 else new_root
        if proof or not hmac.compare_digest(old_root, known):
            raise RecordTamperedError(
                f"two roots for {old} records: {old_root.hex()} and {known.hex()}, or a proof of nothing"
            )
        return
    steps = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    found_old = found_new = steps[0] if steps else b""
    for step in steps[1:]:
        _require_hash(step, left=last)
        if place & 1 or place == last:
            found_old, found_new = node_hash(step, found_old), node_hash(step, found_new)
            place, last = _skip_complete(place, last)
        else:
            found_new = node_hash(found_new, step)
        place, last = place >> 1, last >> 1
    if last or not (hmac.compare_digest(found_old, old_root) and hmac.compare_digest(found_new, new_root)):
        raise RecordTamperedError(
            f"the {new} records with root {new_root.hex()} do not begin with the {old} known before"
        )


def _split(width: int) -> int:
    """The largest power of two below `width`: where RFC 6962 divides a tree."""
    return 1 << ((width - 1).bit_length() - 1)


def _skip_complete(place: int, last: int) -> tuple[int, int]:
    """Climb while this node is a left child: it is complete there, and no hash of the proof belongs to that level."""
    while place and not place & 1:
        place, last = place >> 1, last >> 1
    return place, last


def _require_hash(step: bytes, *, left: int) -> None:
    if left == 0:
        raise RecordTamperedError("proof is longer than the tree is deep")
    if len(step) != HASH_SIZE:
        raise RecordTamperedError(f"proof has a hash of {len(step)} bytes, expected {HASH_SIZE}")
