"""The highest version of each document that a reader has seen: it is kept, and less is refused.

An old document that is still in force is a genuine one: only memory tells it from the newest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from policies.documents import Document, Sha256, Versioned
from policies.errors import RollbackError
from policies.files import write_atomically


@dataclass(frozen=True, slots=True)
class VersionFloor:
    """What has been seen, by the name of the document."""

    seen: Mapping[str, tuple[int, bytes]]  # name -> (version, SHA-256 of its payload)

    def advance(self, name: str, document: Versioned, digest: bytes) -> VersionFloor:
        """Return the floor that also knows `document`.

        Args:
            name: What the document is for its reader: "roster", "grant of hospital-a".
            document: Opened and in force.
            digest: SHA-256 of its payload, 32 bytes.

        Raises:
            RollbackError: An older version, a different document of the same version, or one that does not name the
                document it succeeds.
        """
        version, known = self.seen.get(name, (0, b""))
        hint = "somebody hands out old documents; fetch the newest from the organisation that signs it"
        if document.version < version:
            raise RollbackError(f"{name} has version {document.version}, version {version} was already seen", hint=hint)
        if document.version == version and digest != known:
            raise RollbackError(f"two different documents carry version {version} of {name}", hint=hint)
        if document.version == version + 1 and version > 0 and document.previous != known:
            raise RollbackError(f"{name} version {document.version} does not name version {version} as its predecessor")
        return VersionFloor({**self.seen, name: (document.version, digest)})


class _Seen(Document):
    version: int = Field(ge=1)
    sha256: Sha256


class _File(Document):
    documents: dict[str, _Seen]


@dataclass(frozen=True, slots=True)
class FloorFile:
    """Where a node keeps its floor: a small JSON document, replaced whole."""

    path: Path

    def load(self) -> VersionFloor:
        """Return what was saved; nothing seen before the first save.

        Raises:
            MalformedDocumentError: The file is not what `save` writes.
        """
        if not self.path.exists():
            return VersionFloor({})
        documents = _File.parse(self.path.read_bytes()).documents
        return VersionFloor({name: (entry.version, entry.sha256) for name, entry in documents.items()})

    def save(self, floor: VersionFloor) -> None:
        """Make it durable; raises `OSError` if it cannot be."""
        documents = {name: _Seen(version=version, sha256=digest) for name, (version, digest) in floor.seen.items()}
        write_atomically(self.path, _File(documents=documents).encode())
