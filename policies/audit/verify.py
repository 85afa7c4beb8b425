"""Verify a folder of logs offline and completely: every byte is vouched for, or the verification fails.

Steps, in this order:

1. the folder holds exactly the logs that the trust names, each exactly its three files, and no links;
2. frames, records and their order; each boot's log key is the one that the trust certifies;
3. checkpoints: rising sizes, the root of the records at that size, the log's signature;
4. cosignatures: known witnesses, over checkpoints that exist, valid, none twice; enough of them over the last checkpoint;
5. closing: what `log.close` says of the other two files; nothing behind the last checkpoint of a closed log;
6. across logs: what sites cosigned is what the logs contain, else a log was forked or rolled back;
7. the story is legal (`policies.audit.story`).

Records behind the last checkpoint of a log that is still being written are counted, and nothing is concluded from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policies.audit.chain import Chain
from policies.audit.checkpoint import Checkpoint, SignedCheckpoint, parse_cosignature
from policies.audit.folder import Folder
from policies.audit.frames import frame_end, read_frames
from policies.audit.merkle import MerkleTree
from policies.audit.record import Record
from policies.audit.story import check_story
from policies.audit.trust import AuditTrust, LogKind, LogTrust
from policies.audit.witness import cosigned_checkpoint
from policies.errors import AuditError, MalformedRecordError, RecordTamperedError


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLog:
    """One log whose every byte holds."""

    name: str
    kind: LogKind
    records: tuple[Record, ...]  # those under the last checkpoint
    unsigned: int  # records behind it, of a log that is still being written
    checkpoints: int
    cosignatures: int
    final: Checkpoint
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Logs that hold, agree with each other, and tell a legal story."""

    logs: tuple[VerifiedLog, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """Every record that a checkpoint covers."""
        return tuple(record for log in self.logs for record in log.records)


def verify_folder(folder: Path, trust: AuditTrust) -> Verification:
    """Verify the logs in `folder` against `trust`, in the seven steps above.

    Raises:
        MalformedRecordError: A file, frame, record, checkpoint or cosignature does not follow the format.
        RecordTamperedError: Tree, signature, order or agreement does not hold.
        IllegalStoryError: Everything holds, and tells of something that must not happen.
    """
    _require_entries(folder, {log.name for log in trust.logs}, "log")  # 1
    opened = [_verify_log(folder / log.name, log, origin=trust.origin(log.name)) for log in trust.logs]  # 1 to 5
    trees = {verified.final.origin: (tree, verified.final.size) for verified, tree in opened}
    verification = Verification(logs=tuple(verified for verified, _ in opened))
    for log in verification.logs:
        _require_agreement(log, trees)  # 6
    check_story(verification.records, {log.name: log.kind for log in verification.logs})  # 7
    return verification


def _verify_log(folder: Path, trust: LogTrust, *, origin: str) -> tuple[VerifiedLog, MerkleTree]:
    _require_entries(folder, set(Folder.NAMES), "file")  # 1
    raw = {name: (folder / name).read_bytes() for name in Folder.NAMES}
    records, chain = _verify_records(raw[Folder.RECORDS], trust)  # 2
    checkpoints = _verify_checkpoints(raw[Folder.CHECKPOINTS], chain, origin=origin)  # 3
    final = list(checkpoints.values())[-1]
    cosigned = _verify_cosignatures(raw[Folder.COSIGNATURES], checkpoints, trust)  # 4
    _require_quorum(trust, {name for size, name in cosigned if size == final.size}, final)  # 4
    signed = records[: final.size]
    closed = signed[-1].action == "log.close"
    _require_closed(trust, closed=closed, unsigned=len(records) - final.size)  # 5
    _require_closes_hold(signed, raw, trust.name)  # 5
    verified = VerifiedLog(
        name=trust.name,
        kind=trust.kind,
        records=tuple(signed),
        unsigned=len(records) - final.size,
        checkpoints=len(checkpoints),
        cosignatures=len(cosigned),
        final=final,
        closed=closed,
    )
    return verified, chain.tree


# --- 1 ---------------------------------------------------------------------------------------------------------------


def _require_entries(folder: Path, expected: set[str], kind: str) -> None:
    """Require that `folder` holds exactly `expected`: real folders for logs, regular files for files."""
    if not folder.is_dir():
        raise MalformedRecordError(
            f"{folder} is not a folder", hint="name the folder that holds one folder for each log"
        )
    found = {entry.name: entry for entry in folder.iterdir()}
    for name in sorted(found.keys() - expected):
        raise MalformedRecordError(
            f"found {folder / name}, which no {kind} of the trust accounts for",
            hint="nothing but the logs belongs here: move it away and verify again",
        )
    for name in sorted(expected - found.keys()):
        raise RecordTamperedError(
            f"{folder / name} is missing", hint=f"the trust names this {kind}; it must not be deleted"
        )
    for name, entry in sorted(found.items()):
        if entry.is_symlink() or not (entry.is_dir() if kind == "log" else entry.is_file()):
            raise MalformedRecordError(f"{folder / name} is a link or something else, expected a plain {kind}")


# --- 2 ---------------------------------------------------------------------------------------------------------------


def _verify_records(raw: bytes, trust: LogTrust) -> tuple[list[Record], Chain]:
    chain, records = Chain(trust.name), list[Record]()
    with _located(f"log {trust.name}, {Folder.RECORDS}"):
        for offset, entry in read_frames(raw):
            with _located(f"record {len(records)} at byte {offset}"):
                record = Record.parse(entry)
                chain.follow(record, entry)
                if record.action == "log.open":
                    _require_certified(chain, record, trust)
                records.append(record)
        if not records:
            raise RecordTamperedError("there is no record, expected log.open first")
    return records, chain


def _require_certified(chain: Chain, opened: Record, trust: LogTrust) -> None:
    found, expected = chain.key_at(opened.seq + 1), trust.key_of(opened.boot)
    if found != expected:
        raise RecordTamperedError(
            f"log.open of boot {opened.boot.hex()} has the log key {found.hex()}, "
            f"expected {expected.hex() if expected is not None else 'a boot that the trust certifies'}",
            hint="use the trust.json of this federation; if it is, this log was written by someone else",
        )


# --- 3 ---------------------------------------------------------------------------------------------------------------


def _verify_checkpoints(raw: bytes, chain: Chain, *, origin: str) -> Mapping[int, Checkpoint]:
    """Return the checkpoints by size, rising."""
    found: dict[int, Checkpoint] = {}
    last = 0
    with _located(f"log {chain.log}, {Folder.CHECKPOINTS}"):
        for offset, entry in read_frames(raw):
            with _located(f"checkpoint {len(found)} at byte {offset}"):
                signed = SignedCheckpoint.parse(entry)
                if signed.cosignatures:
                    raise MalformedRecordError(
                        f"found {1 + len(signed.cosignatures)} signature lines, expected the log's alone"
                    )
                checkpoint = signed.verify(origin=origin, key=chain.key_at(signed.checkpoint.size))
                if checkpoint.size <= last:
                    raise RecordTamperedError(
                        f"found size {checkpoint.size}, expected more than {last} of the one before"
                    )
                if checkpoint.size > chain.tree.size:
                    raise RecordTamperedError(
                        f"it covers {checkpoint.size} records, found {chain.tree.size}",
                        hint="records were deleted at the end",
                    )
                if (root := chain.tree.root(checkpoint.size)) != checkpoint.root:
                    raise RecordTamperedError(
                        f"records 0 to {checkpoint.size - 1} have the root {root.hex()}, expected {checkpoint.root.hex()}",
                        hint=f"a record was changed; those before size {last} are as they were signed",
                    )
                found[checkpoint.size] = checkpoint
                last = checkpoint.size
        if not found:
            raise RecordTamperedError("there is no checkpoint, so nothing vouches for the records")
    return found


# --- 4 ---------------------------------------------------------------------------------------------------------------


def _verify_cosignatures(raw: bytes, checkpoints: Mapping[int, Checkpoint], trust: LogTrust) -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    with _located(f"log {trust.name}, {Folder.COSIGNATURES}"):
        for offset, entry in read_frames(raw):
            with _located(f"cosignature {len(found)} at byte {offset}"):
                size, line = parse_cosignature(entry)
                if size not in checkpoints:
                    raise RecordTamperedError(f"it is over size {size}, of which there is no checkpoint")
                if line.name not in trust.witnesses:
                    raise RecordTamperedError(
                        f"it is by {line.name}, expected one of {', '.join(sorted(trust.witnesses))}"
                    )
                if (size, line.name) in found:
                    raise RecordTamperedError(f"it is the second by {line.name} over size {size}")
                checkpoints[size].verify_cosignature(line, trust.witnesses[line.name])
                found.add((size, line.name))
    return found


def _require_quorum(trust: LogTrust, names: set[str], final: Checkpoint) -> None:
    if len(names) < trust.min_cosignatures:
        raise RecordTamperedError(
            f"log {trust.name}: the last checkpoint, size {final.size}, is cosigned by {len(names)} of {len(trust.witnesses)} "
            f"witnesses, expected {trust.min_cosignatures}",
            hint=f"missing: {', '.join(sorted(trust.witnesses.keys() - names))}",
        )


# --- 5 ---------------------------------------------------------------------------------------------------------------


def _require_closed(trust: LogTrust, *, closed: bool, unsigned: int) -> None:
    if closed and unsigned:
        raise RecordTamperedError(f"log {trust.name}: {unsigned} records behind the last checkpoint of a closed log")
    if trust.closed and not closed:
        raise RecordTamperedError(
            f"log {trust.name}: the last checkpoint does not cover a log.close, the trust says that it was closed",
            hint="records or checkpoints were deleted at the end, or the program was still running",
        )


def _require_closes_hold(records: Sequence[Record], raw: Mapping[str, bytes], log: str) -> None:
    """Require that the checkpoints and cosignatures written before each `log.close` are all still there."""
    for name in (Folder.CHECKPOINTS, Folder.COSIGNATURES):
        beginnings = _prefix_digests(raw[name])
        for close in records:
            if close.action == "log.close" and close.digests.get(name) not in beginnings:
                raise RecordTamperedError(
                    f"log {log}, record {close.seq}: {name} does not begin with what it held when the log was closed",
                    hint=f"an entry of {name} was deleted or moved",
                )


def _prefix_digests(raw: bytes) -> set[bytes]:
    """SHA-256 of the file up to the end of each of its entries, and of nothing."""
    running, end = hashlib.sha256(), 0
    digests = {running.digest()}
    for offset, entry in read_frames(raw):
        running.update(raw[end : frame_end(offset, entry)])
        end = frame_end(offset, entry)
        digests.add(running.copy().digest())
    return digests


# --- 6 ---------------------------------------------------------------------------------------------------------------


def _require_agreement(witness: VerifiedLog, trees: Mapping[str, tuple[MerkleTree, int]]) -> None:
    """Require that every head which `witness` recorded as cosigned is a head of that log as it is here."""
    for record in witness.records:
        if record.action != "checkpoint.cosign" or record.decision == "deny":
            continue
        with _located(f"log {witness.name}, record {record.seq}"):
            seen = cosigned_checkpoint(record)
            if seen.origin not in trees:
                raise RecordTamperedError(f"it witnessed {seen.origin}, a log that the trust does not name")
            tree, size = trees[seen.origin]
            if seen.size > size:
                raise RecordTamperedError(
                    f"it witnessed {seen.size} records of {seen.origin}, whose last checkpoint covers {size}",
                    hint="that log was rolled back, or its end was deleted",
                )
            if (root := tree.root(seen.size)) != seen.root:
                raise RecordTamperedError(
                    f"it witnessed {seen.describe()} with the root {seen.root.hex()}, here that root is {root.hex()}",
                    hint="that log was forked: two histories were shown",
                )


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Put `where` in front of the message of an error, and keep its kind."""
    try:
        yield
    except AuditError as error:
        raise type(error)(f"{where}: {error.message}", hint=error.hint) from error
