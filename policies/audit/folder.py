"""What one log keeps on disk: three files inside its folder, and beside it, outside, a lock and a reserve."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from policies.audit.errors import AuditLockedError
from policies.audit.files import OWNER_ONLY, AppendFile, OpenFile, sync_folder


class ExclusiveLock:
    """Held by one process at a time, given up by the kernel when that process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise AuditLockedError(
                f"{path} is locked: another process writes this log",
                hint="stop the other process; one log has one writer",
            ) from error

    def release(self) -> None:
        """Let another process write."""
        os.close(self._fd)


class Reserve:
    """64 KiB set aside while there was room, so that the full disk itself can still be recorded.

    Layout: big-endian 32-bit length, then the entry, then zeroes. The length is written after the entry is on disk, and
    zero means empty, so that a crash leaves either nothing or the whole entry.
    """

    SIZE = 64 * 1024

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
        if (found := os.fstat(self._fd).st_size) < self.SIZE:
            os.pwrite(
                self._fd, bytes(self.SIZE - found), found
            )  # written, not only allocated: a hole may need room later
            os.fsync(self._fd)
            sync_folder(path.parent)

    def hold(self, entry: bytes) -> None:
        """Keep `entry` durably; needs no free space."""
        os.pwrite(self._fd, entry[: self.SIZE - 4], 4)
        os.fdatasync(self._fd)
        self._write_length(len(entry))

    def held(self) -> bytes | None:
        """Return what is kept, or None."""
        length = int.from_bytes(os.pread(self._fd, 4, 0), "big")
        return os.pread(self._fd, length, 4) if 0 < length <= self.SIZE - 4 else None

    def clear(self) -> None:
        """Keep nothing any more."""
        self._write_length(0)

    def close(self) -> None:
        """Close the descriptor; what is held stays."""
        os.close(self._fd)

    def _write_length(self, length: int) -> None:
        os.pwrite(self._fd, length.to_bytes(4, "big"), 0)
        os.fdatasync(self._fd)


class Folder:
    """The three files of one log, and beside them, outside the folder, its lock and its reserve.

    Nothing but the three files is in the folder, since a verifier refuses every byte that nobody vouches for.
    """

    RECORDS = "records"
    CHECKPOINTS = "checkpoints"
    COSIGNATURES = "cosignatures"
    NAMES = (RECORDS, CHECKPOINTS, COSIGNATURES)

    def __init__(
        self,
        *,
        records: AppendFile,
        checkpoints: AppendFile,
        cosignatures: AppendFile,
        reserve: Reserve,
        lock: ExclusiveLock,
    ) -> None:
        self.records = records
        self.checkpoints = checkpoints
        self.cosignatures = cosignatures
        self.reserve = reserve
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, *, aside: Path, open_file: OpenFile) -> Self | None:
        """Open the files of `folder`, making them for a new log; None where files of an old log are missing.

        A log is new while it has no reserve, which is made last, and nothing in its files: so a deleted file is noticed.

        Raises:
            AuditLockedError: Another process writes this log.
        """
        aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            lock = ExclusiveLock(aside / f"{folder.name}.lock")
            undo.callback(lock.release)
            reserve_path = aside / f"{folder.name}.reserve"
            paths = [folder / name for name in cls.NAMES]
            new = not reserve_path.exists() and not any(path.is_file() and path.stat().st_size for path in paths)
            if not new and not all(path.is_file() for path in paths):
                return None
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = []
            for path in paths:
                files.append(open_file(path, create=new))
                undo.callback(files[-1].close)
            sync_folder(folder)
            sync_folder(folder.parent)
            reserve = Reserve(reserve_path)
            undo.pop_all()
        records, checkpoints, cosignatures = files
        return cls(records=records, checkpoints=checkpoints, cosignatures=cosignatures, reserve=reserve, lock=lock)

    def file(self, name: str) -> AppendFile:
        """The file of that name."""
        return {self.RECORDS: self.records, self.CHECKPOINTS: self.checkpoints, self.COSIGNATURES: self.cosignatures}[
            name
        ]

    def close(self) -> None:
        """Let go of everything; another process may write then."""
        for held in (self.records, self.checkpoints, self.cosignatures, self.reserve):
            held.close()
        self._lock.release()
