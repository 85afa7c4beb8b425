"""Strict documents and the envelopes that sign them.

A document is JSON: no duplicate keys, no unknown keys, no floats, no value that is left out and then assumed. It is
signed as the bytes that travel (DSSE with Ed25519), opened, and those same bytes are parsed. Versions only rise: a reader keeps
the highest version it has seen (`policies.version_floor`) and refuses less.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NoReturn, Self, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from policies.errors import DocumentExpiredError, DocumentSignatureError, MalformedDocumentError

MAX_DOCUMENT_BYTES = 1 << 20
MAX_DEPTH = 32

Sha256 = Annotated[bytes, Field(min_length=32, max_length=32)]  # hex in JSON
Sha384 = Annotated[bytes, Field(min_length=48, max_length=48)]  # hex in JSON
Ed25519Key = Annotated[bytes, Field(min_length=32, max_length=32)]  # raw public key, hex in JSON
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]  # of a site, job, organisation, person
Instant = AwareDatetime  # a point in time, RFC 3339 with its offset


D = TypeVar("D", bound="Document")


class Document(BaseModel):
    """Base of everything that is read from outside as JSON: frozen, strict, and nothing unknown is let in."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, val_json_bytes="hex", ser_json_bytes="hex")

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the bytes of one document.

        Raises:
            MalformedDocumentError: Too large, not JSON, a duplicate or unknown key, a float, a missing or wrong field.
        """
        check_strict_json(raw)
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise MalformedDocumentError(f"{cls.__name__}: {describe(error)}") from error

    def encode(self) -> bytes:
        """Return the document as JSON bytes. What is hashed and signed is these bytes, never a second encoding."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def describe(error: ValidationError) -> str:
    """Say in one line each field that is wrong, and what was found there."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg'].lower()}"
        + ("" if isinstance(problem["input"], dict | list) else f", found {problem['input']!r:.80}")
        for problem in error.errors(include_url=False)
    )


def check_strict_json(raw: bytes) -> Any:  # noqa: ANN401 - JSON is any value
    """Return the value of strict JSON: UTF-8, bounded, no duplicate keys, no floats, not too deep.

    Raises:
        MalformedDocumentError: It is none of that.
    """
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise MalformedDocumentError(f"document has {len(raw)} bytes, at most {MAX_DOCUMENT_BYTES} are read")
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_float=_refuse_float,
            parse_constant=_refuse_float,
        )
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or a number of endless digits
        raise MalformedDocumentError(f"not strict JSON: {error}") from error
    _check_depth(value, MAX_DEPTH)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise MalformedDocumentError(f"key {key!r:.80} appears twice in one object")
        unique[key] = value
    return unique


def _refuse_float(text: str) -> NoReturn:
    raise MalformedDocumentError(f"found the number {text}, expected an integer or text")


def _check_depth(value: object, left: int) -> None:
    if left == 0:
        raise MalformedDocumentError(f"nested deeper than {MAX_DEPTH} levels")
    children: Iterable[object] = ()
    if isinstance(value, dict):
        children = value.values()
    elif isinstance(value, list):
        children = value
    for child in children:
        _check_depth(child, left - 1)


# --- signatures ------------------------------------------------------------------------------------------------------


def key_id(public_key: bytes) -> str:
    """Name a raw Ed25519 public key (32 bytes) by the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def raw_public_key(key: Ed25519PrivateKey) -> bytes:
    """Return the 32 raw bytes of a signing key's public half."""
    return key.public_key().public_bytes_raw()


class _Signature(Document):
    keyid: str
    sig: str


class _Wire(Document):
    payloadType: str  # noqa: N815 - DSSE names it so
    payload: str
    signatures: tuple[_Signature, ...] = Field(min_length=1, max_length=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A DSSE envelope as it travelled: nothing in it is trusted until `open` returns.

    Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    """

    payload_type: str  # "application/vnd.cloister.<kind>+json"
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]  # (key id, 64 bytes)

    @classmethod
    def sign(cls, document: Document, kind: str, keys: Iterable[Ed25519PrivateKey]) -> Envelope:
        """Encode `document` once and sign those bytes with each key."""
        payload_type, payload = payload_type_of(kind), document.encode()
        message = _pre_authentication(payload_type, payload)
        signatures = tuple((key_id(raw_public_key(key)), key.sign(message)) for key in keys)
        return cls(payload_type=payload_type, payload=payload, signatures=signatures)

    @classmethod
    def parse(cls, raw: bytes) -> Envelope:
        """Parse the bytes of an envelope; trusts nothing.

        Raises:
            MalformedDocumentError: Not a DSSE envelope in canonical base64.
        """
        wire = _Wire.parse(raw)
        return cls(
            payload_type=wire.payloadType,
            payload=_unbase64(wire.payload),
            signatures=tuple((item.keyid, _unbase64(item.sig)) for item in wire.signatures),
        )

    def encode(self) -> bytes:
        """Return the envelope as JSON bytes."""
        return _Wire(
            payloadType=self.payload_type,
            payload=base64.b64encode(self.payload).decode(),
            signatures=tuple(
                _Signature(keyid=name, sig=base64.b64encode(signature).decode()) for name, signature in self.signatures
            ),
        ).encode()

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload as it travelled, 32 bytes: how other documents name this one."""
        return hashlib.sha256(self.payload).digest()

    def verify(self, kind: str, keys: Iterable[bytes], *, threshold: int = 1) -> bytes:
        """Return the payload once at least `threshold` distinct keys of `keys` have signed it as a document of `kind`.

        Args:
            kind: What it must be, such as "roster".
            keys: Raw Ed25519 public keys (32 bytes) that may sign.
            threshold: How many distinct ones must have signed.

        Raises:
            DocumentSignatureError: It is of another kind, or too few of the keys signed it.
        """
        if self.payload_type != payload_type_of(kind):
            raise DocumentSignatureError(
                f"found a document of type {self.payload_type}, expected {payload_type_of(kind)}"
            )
        if threshold < 1:
            raise DocumentSignatureError(f"a threshold of {threshold} signatures was asked for, expected at least 1")
        allowed = {key_id(key): key for key in keys}
        message = _pre_authentication(self.payload_type, self.payload)
        valid = {
            name for name, signature in self.signatures if name in allowed and _holds(allowed[name], signature, message)
        }
        if len(valid) < threshold:
            raise DocumentSignatureError(
                f"{kind}: {len(valid)} valid signatures of the {len(allowed)} keys that may sign, expected {threshold}",
                hint="check that the document comes from the right organisations and was not edited after signing",
            )
        return self.payload

    def open(self, model: type[D], kind: str, keys: Iterable[bytes], *, threshold: int = 1) -> D:
        """Verify, then parse the very bytes that were verified."""
        return model.parse(self.verify(kind, keys, threshold=threshold))


def payload_type_of(kind: str) -> str:
    """The DSSE payload type of a kind of document."""
    return f"application/vnd.cloister.{kind}+json"


def _pre_authentication(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _holds(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _unbase64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error, and what is said of text that is not ASCII
        raise MalformedDocumentError(f"not base64: {error}") from error
    if base64.b64encode(raw).decode() != text:
        raise MalformedDocumentError("base64 is not canonical")
    return raw


# --- versions and validity -------------------------------------------------------------------------------------------


class Versioned(Document):
    """A document that is replaced by newer versions of itself and is in force for a stated time."""

    version: int = Field(ge=1)
    previous: Sha256 | None  # digest of the payload of version - 1; null for version 1
    issued_at: Instant
    expires_at: Instant

    def require_in_force(self, now: datetime) -> None:
        """Raise `DocumentExpiredError` unless `now` lies between issue (less 5 minutes of skew) and expiry."""
        name = type(self).__name__
        if now.timestamp() < self.issued_at.timestamp() - 300:
            raise DocumentExpiredError(f"{name} version {self.version} is in force from {self.issued_at}, it is {now}")
        if now >= self.expires_at:
            raise DocumentExpiredError(
                f"{name} version {self.version} expired at {self.expires_at}, it is {now}",
                hint="ask its signer for a new one",
            )
