r"""How bytes are put together before they are hashed or signed: a domain string, then length-prefixed fields.

Every hash and every signature covers an ASCII domain string that ends in a zero byte, so that bytes made for one purpose
never mean anything for another. Variable fields carry their length; integers are big-endian.
"""

from __future__ import annotations

import hashlib

PROTOCOL = "cloister-v1"


def domain(name: str) -> bytes:
    r"""Return the domain string for `name`: `b"cloister-v1 name\0"`."""
    return f"{PROTOCOL} {name}\0".encode("ascii")


def lp(field: bytes | str) -> bytes:
    """Return `field` behind its length as a big-endian 32-bit integer; text is taken as UTF-8."""
    raw = field.encode() if isinstance(field, str) else field
    return len(raw).to_bytes(4, "big") + raw


def u16(number: int) -> bytes:
    """Return `number` as two bytes, big-endian."""
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    """Return `number` as four bytes, big-endian."""
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    """Return `number` as eight bytes, big-endian."""
    return number.to_bytes(8, "big")


def sha256(name: str, *fields: bytes) -> bytes:
    """SHA-256 over the domain string for `name` and the fields, each already encoded; 32 bytes."""
    return hashlib.sha256(domain(name) + b"".join(fields)).digest()


def sha384(name: str, *fields: bytes) -> bytes:
    """SHA-384 over the domain string for `name` and the fields, each already encoded; 48 bytes."""
    return hashlib.sha384(domain(name) + b"".join(fields)).digest()


def sha512(name: str, *fields: bytes) -> bytes:
    """SHA-512 over the domain string for `name` and the fields, each already encoded; 64 bytes."""
    return hashlib.sha512(domain(name) + b"".join(fields)).digest()
