"""C2SP signed notes: text, a blank line, and signature lines. Parsed strictly, since every stored byte must mean something.

Source: https://c2sp.org/signed-note. Stricter here: base64 must be canonical and names are plain ASCII; who may sign, and
that no line is unknown, is for the modules that use it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from policies.errors import MalformedRecordError

ED25519 = 0x01  # signature type: Ed25519 over the note text
COSIGNATURE_V1 = 0x04  # signature type: a witness's timestamped Ed25519, https://c2sp.org/tlog-cosignature
KEY_ID_SIZE = 4
MAX_LINES = 256

_NAME = re.compile(r"[!-*,-~]{1,255}")  # visible ASCII except plus: the specification allows no spaces and no plus
_LINE = re.compile(r"— ([!-*,-~]{1,255}) ([A-Za-z0-9+/=]{8,512})\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureLine:
    """`— name base64(key id || signature)`, unverified."""

    name: str
    key_id: bytes  # 4 bytes: which key of that name, and which type of signature
    signature: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse one line with its newline.

        Raises:
            MalformedRecordError: Not that form, or base64 that is not canonical.
        """
        match = _LINE.fullmatch(text)
        if match is None:
            raise MalformedRecordError(f"found {text!r:.80}, expected a signature line `— name base64`")
        raw = unbase64(match[2])
        return cls(name=match[1], key_id=raw[:KEY_ID_SIZE], signature=raw[KEY_ID_SIZE:])

    def encode(self) -> str:
        """Return the line with its newline."""
        return f"— {self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text and the lines that claim to sign it, unverified."""

    text: bytes  # with its final newline, as it is signed
    lines: tuple[SignatureLine, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Split a note at its last blank line.

        Raises:
            MalformedRecordError: Not UTF-8, control characters, no blank line, no or too many signature lines.
        """
        text, blank, signatures = raw.rpartition(b"\n\n")
        if not blank:
            raise MalformedRecordError("note has no blank line between its text and its signatures")
        try:
            lines = signatures.decode().split("\n")
            plain = text.decode().replace("\n", "")
        except UnicodeDecodeError as error:
            raise MalformedRecordError(f"note is not UTF-8: {error}") from error
        if lines.pop() != "" or not 1 <= len(lines) <= MAX_LINES:
            raise MalformedRecordError(
                f"note has {len(lines)} whole signature lines, expected 1 to {MAX_LINES} and no more"
            )
        if not plain.isprintable():
            raise MalformedRecordError("note has control characters")
        return cls(text=text + b"\n", lines=tuple(SignatureLine.parse(line + "\n") for line in lines))

    def encode(self) -> bytes:
        """Return the note as bytes."""
        return self.text + b"\n" + "".join(line.encode() for line in self.lines).encode()


def note_key_id(name: str, signature_type: int, public_key: bytes) -> bytes:
    """Name a key of a signer: SHA-256(name || 0x0A || type || public key), first 4 bytes.

    Raises:
        MalformedRecordError: The name has a space, a plus or anything but visible ASCII.
    """
    if not _NAME.fullmatch(name):
        raise MalformedRecordError(f"found the key name {name!r:.80}, expected visible ASCII without spaces and plus")
    return hashlib.sha256(name.encode() + b"\n" + bytes([signature_type]) + public_key).digest()[:KEY_ID_SIZE]


def unbase64(text: str) -> bytes:
    """Decode canonical base64: the same bytes are never written two ways.

    Raises:
        MalformedRecordError: Anything else.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRecordError(f"not base64: {error}") from error
    if base64.b64encode(raw).decode() != text:
        raise MalformedRecordError(f"base64 {text!r:.80} is not canonical")
    return raw
