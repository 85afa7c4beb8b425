"""What sites download: sealed models and code archives, named by the SHA-256 of their bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fl_runtime.transport.errors import TransportError
from policies.files import write_atomically


class Blobs:
    """Files named by content, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`, which is made if it is not there."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, content: bytes | bytearray) -> bytes:
        """Store a blob; returns its name, 32 bytes."""
        name = hashlib.sha256(content).digest()
        write_atomically(self._path(name), content)
        return name

    def path(self, name: bytes) -> Path:
        """Where a blob is.

        Raises:
            TransportError: There is none of that name.
        """
        path = self._path(name)
        if len(name) != 32 or not path.exists():
            raise TransportError(f"there is no blob {name.hex()[:64]} here")
        return path

    def read(self, name: bytes) -> bytes:
        """The bytes of a blob.

        Raises:
            TransportError: There is none of that name, or the disk has changed it.
        """
        content = self.path(name).read_bytes()
        if hashlib.sha256(content).digest() != name:
            raise TransportError(
                f"blob {name.hex()} is not what was stored", hint="the disk is damaged; submit the job again"
            )
        return content

    def discard(self, name: bytes) -> None:
        """Remove a blob, if it is there."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: bytes) -> Path:
        return self._folder / name.hex()
