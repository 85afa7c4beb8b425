"""Sealing to one boot: HPKE (RFC 9180, base mode) with the hybrid of ML-KEM-768 and X25519.

The library offers single-shot base mode without associated data, so everything that a secret is meant for goes into `info`.
A public key travels raw: ML-KEM-768 (1184 bytes) || X25519 (32 bytes).
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from attestation.core import HPKE_PUBLIC_BYTES
from attestation.errors import MalformedEvidenceError, SignatureError

_MLKEM_PUBLIC_BYTES = 1184
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class SealingKey:
    """The private half: lives in memory, for one boot."""

    mlkem: MLKEM768PrivateKey
    x25519: X25519PrivateKey

    @classmethod
    def generate(cls) -> SealingKey:
        """Make a key."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @property
    def public(self) -> bytes:
        """The raw public key, 1216 bytes."""
        return self.mlkem.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """Return what was sealed to this key under `info`.

        Raises:
            SignatureError: It was sealed to another key or for another context.
        """
        try:
            return _SUITE.decrypt(sealed, hpke.MLKEM768X25519PrivateKey(self.mlkem, self.x25519), info)
        except InvalidTag as error:  # whatever is wrong with it: size, point, key or context
            raise SignatureError("the sealed secret was not made for this boot and this context") from error


def seal_to(public: bytes, plaintext: bytes, *, info: bytes) -> bytes:
    """Seal `plaintext` to a raw public key; only its holder opens it, and only under the same `info`.

    Raises:
        MalformedEvidenceError: Not a MLKEM768_X25519 public key.
    """
    if len(public) != HPKE_PUBLIC_BYTES:
        raise MalformedEvidenceError(f"HPKE key has {len(public)} bytes, expected {HPKE_PUBLIC_BYTES}")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:])
        return _SUITE.encrypt(plaintext, hpke.MLKEM768X25519PublicKey(mlkem, x25519), info)
    except ValueError as error:  # points of small order are found only here
        raise MalformedEvidenceError(f"not a MLKEM768_X25519 public key: {error}") from error
