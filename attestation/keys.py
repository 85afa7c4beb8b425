"""The keys of one boot: made in memory, never stored, certified again and again for as long as the boot lasts."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.sealing import SealingKey
from policies.documents import raw_public_key

BOOT_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BootKeys:
    """What a node proves possession of for the life of one boot."""

    boot: bytes  # 16 random bytes
    tls: ec.EllipticCurvePrivateKey  # P-256
    sealing: SealingKey
    sign: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> BootKeys:
        """Make the keys of a new boot."""
        return cls(
            boot=secrets.token_bytes(BOOT_ID_BYTES),
            tls=ec.generate_private_key(ec.SECP256R1()),
            sealing=SealingKey.generate(),
            sign=Ed25519PrivateKey.generate(),
        )

    @property
    def tls_spki(self) -> bytes:
        """SHA-256 of the TLS key's SubjectPublicKeyInfo, 32 bytes."""
        return spki_sha256(self.tls.public_key())

    @property
    def sign_pk(self) -> bytes:
        """The raw Ed25519 public key, 32 bytes."""
        return raw_public_key(self.sign)

    def csr(self) -> bytes:
        """A certificate request for the TLS key, DER. Its subject is empty: the issuer decides on the name."""
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self.tls, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    def tls_key_pem(self) -> bytes:
        """The TLS key as unencrypted PKCS #8 PEM, as gRPC wants it."""
        return self.tls.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def spki_sha256(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of a key's SubjectPublicKeyInfo, 32 bytes: how cores, results and pins name it."""
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).digest()


def certificate_spki_sha256(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate's SubjectPublicKeyInfo, 32 bytes."""
    return hashlib.sha256(
        certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).digest()
