"""Files that are either there whole, or not at all: written beside, synced, then renamed into place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

OWNER_ONLY = 0o600


@contextmanager
def atomic_file(path: Path, *, mode: int = OWNER_ONLY) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends, and is durable then.

    A block that raises, or a machine that stops, leaves what was at `path` before, and nothing else that matters:
    what may remain after a power cut is a hidden `.tmp` file beside it.

    Args:
        path: Where the file will stand; its folder exists.
        mode: Its permissions.

    Raises:
        OSError: The disk is full, or fails.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)  # noqa: PTH105 - the temporary name is text
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes | bytearray | memoryview, *, mode: int = OWNER_ONLY) -> None:
    """Put a file with this content at `path`, durably; whoever reads finds the old content or the new.

    Raises:
        OSError: The disk is full, or fails; the old content is still there.
    """
    with atomic_file(path, mode=mode) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a renamed file is found again after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
