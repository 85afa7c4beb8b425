r"""Checkpoints and cosignatures: the signed statement that a log of this size has this root, and that others saw it too.

A checkpoint is a C2SP tlog-checkpoint, signed by the log's key of this boot; a cosignature is a C2SP tlog-cosignature/v1 by
a witness. On disk they are framed entries of two files, so that a cosignature may arrive after its checkpoint was written:

* `checkpoints`: notes with exactly one signature line, the log's, in strictly rising order of size;
* `cosignatures`: `<size>\n— <witness> <base64>\n`, at most one for each witness and size, in order of arrival.

Every byte of both is under a signature or compared with a value that is.

Sources: https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from policies.audit.merkle import HASH_SIZE
from policies.audit.note import COSIGNATURE_V1, ED25519, Note, SignatureLine, note_key_id, unbase64
from policies.documents import raw_public_key
from policies.encoding import u64
from policies.errors import MalformedRecordError, RecordTamperedError

MAX_TIME = (1 << 63) - 1  # seconds; tlog-cosignature, "Format"

_ORIGIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,252}/[a-z0-9][a-z0-9._-]{0,62}")  # `<trust domain>/<log>`
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The head of a log: `size` records have this `root`. Says nothing about who vouches for it."""

    origin: str  # `<trust domain>/<log>`
    size: int
    root: bytes  # 32 bytes, RFC 6962

    @property
    def body(self) -> bytes:
        """The note text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse the text of a note.

        Raises:
            MalformedRecordError: Not three lines of origin, decimal size and root; extension lines are refused.
        """
        lines = body.decode(errors="replace").split("\n")
        if len(lines) != 4 or lines[3]:
            raise MalformedRecordError(f"checkpoint has {len(lines) - 1} lines, expected origin, size and root")
        origin, size, root = lines[0], lines[1], unbase64(lines[2])
        if not _ORIGIN.fullmatch(origin):
            raise MalformedRecordError(f"checkpoint has the origin {origin!r:.80}, expected `<trust domain>/<log>`")
        if len(root) != HASH_SIZE:
            raise MalformedRecordError(f"checkpoint has a root of {len(root)} bytes, expected {HASH_SIZE}")
        return cls(origin=origin, size=parse_size(size), root=root)

    def sign(self, key: Ed25519PrivateKey) -> SignedCheckpoint:
        """Vouch for this head with the log's key; the key's name is the origin."""
        key_id = note_key_id(self.origin, ED25519, raw_public_key(key))
        line = SignatureLine(name=self.origin, key_id=key_id, signature=key.sign(self.body))
        return SignedCheckpoint(checkpoint=self, signature=line)

    def cosign(self, *, name: str, key: Ed25519PrivateKey, seconds: int) -> SignatureLine:
        """Witness this head as of `seconds` since the epoch; only for a head that was found consistent and was kept."""
        signature = u64(seconds) + key.sign(self._cosigned(seconds))
        return SignatureLine(
            name=name, key_id=note_key_id(name, COSIGNATURE_V1, raw_public_key(key)), signature=signature
        )

    def verify_cosignature(self, line: SignatureLine, keys: Iterable[bytes]) -> Cosignature:
        """Require that one of the witness's `keys` (raw, 32 bytes) made `line` over this head.

        Raises:
            RecordTamperedError: None of them did.
        """
        allowed = {note_key_id(line.name, COSIGNATURE_V1, key): key for key in keys}
        key = allowed.get(line.key_id)
        if key is None:
            raise RecordTamperedError(
                f"cosignature names the key {line.key_id.hex()}, {line.name} has {_listed(allowed)}"
            )
        seconds = int.from_bytes(line.signature[:8], "big")
        if seconds > MAX_TIME:
            raise RecordTamperedError(f"cosignature by {line.name} is of second {seconds}, expected at most {MAX_TIME}")
        _verify(key, line.signature[8:], self._cosigned(seconds), f"cosignature by {line.name} over {self.describe()}")
        return Cosignature(checkpoint=self, witness=line.name, key=key, seconds=seconds)

    def _cosigned(self, seconds: int) -> bytes:
        return b"cosignature/v1\ntime %d\n" % seconds + self.body

    def describe(self) -> str:
        """Name this head in a message."""
        return f"{self.origin} at size {self.size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint as it travelled, unverified: `verify` gives the checkpoint."""

    checkpoint: Checkpoint
    signature: SignatureLine  # by the log
    cosignatures: tuple[SignatureLine, ...] = ()  # by witnesses; never in the file `checkpoints`

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a note whose first signature line is the log's.

        Raises:
            MalformedRecordError: Not a checkpoint, or the first line has another name.
        """
        note = Note.parse(raw)
        checkpoint, signature = Checkpoint.parse(note.text), note.lines[0]
        if signature.name != checkpoint.origin:
            raise MalformedRecordError(f"checkpoint of {checkpoint.origin} is signed by {signature.name} first")
        return cls(checkpoint=checkpoint, signature=signature, cosignatures=note.lines[1:])

    def encode(self) -> bytes:
        """Return the note as bytes."""
        return Note(text=self.checkpoint.body, lines=(self.signature, *self.cosignatures)).encode()

    def verify(self, *, origin: str, key: bytes) -> Checkpoint:
        """Return the checkpoint once it is of `origin` and signed by the log's raw Ed25519 `key`; cosignatures stay unread.

        Raises:
            RecordTamperedError: It is of another log, or another key signed it, or the signature does not hold.
        """
        checkpoint, expected = self.checkpoint, note_key_id(origin, ED25519, key)
        if checkpoint.origin != origin:
            raise RecordTamperedError(f"checkpoint is of {checkpoint.origin}, expected {origin}")
        if self.signature.key_id != expected:
            raise RecordTamperedError(
                f"checkpoint of {checkpoint.describe()} names the key {self.signature.key_id.hex()}, expected {expected.hex()}"
            )
        _verify(key, self.signature.signature, checkpoint.body, f"checkpoint of {checkpoint.describe()}")
        return checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignature:
    """A verified statement: as of `seconds`, this was the largest head of the log that the witness had seen."""

    checkpoint: Checkpoint
    witness: str
    key: bytes  # the raw Ed25519 key that made it, 32 bytes
    seconds: int  # since the epoch


def encode_cosignature(size: int, line: SignatureLine) -> bytes:
    """Return the entry of the file `cosignatures`."""
    return f"{size}\n{line.encode()}".encode()


def parse_cosignature(entry: bytes) -> tuple[int, SignatureLine]:
    """Parse an entry of the file `cosignatures`: the size it is over, and the line.

    Raises:
        MalformedRecordError: Not that form.
    """
    try:
        size, _, line = entry.decode().partition("\n")
    except UnicodeDecodeError as error:
        raise MalformedRecordError(f"cosignature is not UTF-8: {error}") from error
    return parse_size(size), SignatureLine.parse(line)


def parse_size(text: str) -> int:
    """Parse the size of a tree: decimal, no leading zeroes.

    Raises:
        MalformedRecordError: Anything else.
    """
    if not _SIZE.fullmatch(text):
        raise MalformedRecordError(
            f"found the tree size {text!r:.40}, expected a decimal number without leading zeroes"
        )
    return int(text)


def _verify(key: bytes, signature: bytes, message: bytes, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature as error:
        raise RecordTamperedError(f"{what}: the signature does not hold") from error


def _listed(key_ids: Iterable[bytes]) -> str:
    return ", ".join(key_id.hex() for key_id in key_ids) or "none"
