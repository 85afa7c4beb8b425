"""The few things the record asks of a disk: append, sync, cut, and replace a small file whole.

`AppendFile` is the seam at which tests fill the disk or break it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

OWNER_ONLY = 0o600


class AppendFile(Protocol):
    """A file that only grows at its end, or is cut back to where it was."""

    size: int  # bytes, all of them whole appends

    def append(self, content: bytes) -> None:
        """Write `content` at the end, or leave the file as it was and raise `OSError`."""
        ...

    def sync(self) -> None:
        """Return once everything appended is on disk; after an `OSError` nobody knows what is."""
        ...

    def cut(self, size: int) -> None:
        """Drop everything behind the first `size` bytes, durably."""
        ...

    def read(self) -> bytes:
        """Return the whole content."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class OpenFile(Protocol):
    """How a log opens its files."""

    def __call__(self, path: Path, *, create: bool) -> AppendFile:
        """Open `path` for appending; make it where `create` says so, else it must be there."""
        ...


class DiskFile:
    """An `AppendFile` of the operating system, opened O_APPEND, readable and writable by its owner alone."""

    def __init__(self, path: Path, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._fd = os.open(path, flags, OWNER_ONLY)
        self.size = os.fstat(self._fd).st_size

    def append(self, content: bytes) -> None:
        """Write all of `content`, or cut back what was written of it and raise."""
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(content)

    def sync(self) -> None:
        """Data and size reach the disk; times of access and change need not."""
        os.fdatasync(self._fd)

    def cut(self, size: int) -> None:
        """Truncate and sync."""
        os.ftruncate(self._fd, size)
        os.fsync(self._fd)
        self.size = size

    def read(self) -> bytes:
        """Read from the start, whatever the position."""
        pieces, offset = [], 0
        while piece := os.pread(self._fd, 1 << 24, offset):
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: a new file is not there after a power cut before this."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` new content so that a crash leaves the old or the new one whole, never a mixture."""
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
