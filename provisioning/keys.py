"""Signing keys as files: 32 raw bytes, readable by their owner alone."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.files import write_atomically
from provisioning.errors import LaboratoryError

KEY_BYTES = 32


def make_signing_key(path: Path) -> Ed25519PrivateKey:
    """Make an Ed25519 key and keep it at `path`, mode 0600."""
    key = Ed25519PrivateKey.generate()
    write_atomically(path, key.private_bytes_raw(), mode=0o600)
    return key


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Load the Ed25519 key at `path`.

    Raises:
        LaboratoryError: It is missing, has another size, or others can read it.
    """
    try:
        raw, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise LaboratoryError(
            f"the key {path} cannot be read: {error.strerror}", hint="a lost key means a new laboratory"
        ) from error
    if len(raw) != KEY_BYTES:
        raise LaboratoryError(f"the key {path} has {len(raw)} bytes, expected {KEY_BYTES}")
    if mode & 0o077:
        raise LaboratoryError(f"the key {path} can be read by others", hint=f"chmod 600 {path}")
    return Ed25519PrivateKey.from_private_bytes(raw)
