"""The service's own keys: those that the root pins last; TLS and sealing keys are of one boot.

In a confidential VM the folder lies on the sealed data disk. On a laptop it is an ordinary folder, and whoever reads it is the
service: a development set-up, and the program says so when it starts.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation.issue import CertificateAuthority
from policies.encoding import domain, lp, u32
from policies.errors import StateError
from policies.files import write_atomically

AUTHORITY_LIFETIME = timedelta(days=3650)
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that outlive a boot."""

    authority: CertificateAuthority
    result: Ed25519PrivateKey  # signs Attestation Results
    log: Ed25519PrivateKey  # signs checkpoints
    master: bytes  # 32 bytes: wraps every key the broker holds

    def wrap(self, key: bytes, *, key_id: str, version: int) -> bytes:
        """Encrypt a broker key for storage."""
        nonce = secrets.token_bytes(12)
        return nonce + AESGCM(self.master).encrypt(nonce, key, _wrap_context(key_id, version))

    def unwrap(self, wrapped: bytes, *, key_id: str, version: int) -> bytes:
        """Decrypt a stored broker key.

        Raises:
            StateError: It was wrapped by another master key, or is not the key of this name and version.
        """
        try:
            return AESGCM(self.master).decrypt(wrapped[:12], wrapped[12:], _wrap_context(key_id, version))
        except InvalidTag as error:
            raise StateError(f"key {key_id} version {version} cannot be unwrapped with this master key") from error


def load_or_create(folder: Path, *, name: str, now: datetime) -> Keyring:
    """Load the keys in `folder`; make them where there are none yet (genesis).

    Raises:
        StateError: Some are there and some are not: something was lost, and nothing is made anew over it. Or one is
            damaged, of another kind, or can be read by others.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths = {part: folder / part for part in ("authority.pem", "authority.key", "result.key", "log.key", "master.key")}
    present = {part for part, path in paths.items() if path.exists()}
    if not present:
        authority = CertificateAuthority.create(f"{name} node authority", now=now, lifetime=AUTHORITY_LIFETIME)
        contents = {
            "authority.pem": authority.certificate.public_bytes(serialization.Encoding.PEM),
            "authority.key": _private_pem(authority.key),
            "result.key": Ed25519PrivateKey.generate().private_bytes_raw(),
            "log.key": Ed25519PrivateKey.generate().private_bytes_raw(),
            "master.key": secrets.token_bytes(KEY_BYTES),
        }
        for part, content in contents.items():
            write_atomically(paths[part], content, mode=0o600)
    elif present != set(paths):
        raise StateError(
            f"{folder} lacks {', '.join(sorted(set(paths) - present))}",
            hint="restore the folder from its backup; deleting the rest of it means a new genesis and a new root",
        )
    return Keyring(
        authority=_authority(paths["authority.key"], paths["authority.pem"]),
        result=Ed25519PrivateKey.from_private_bytes(_exactly(paths["result.key"], KEY_BYTES)),
        log=Ed25519PrivateKey.from_private_bytes(_exactly(paths["log.key"], KEY_BYTES)),
        master=_exactly(paths["master.key"], KEY_BYTES),
    )


def _wrap_context(key_id: str, version: int) -> bytes:
    return domain("wrapped-key") + lp(key_id) + u32(version)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _authority(key_path: Path, certificate_path: Path) -> CertificateAuthority:
    try:
        key = serialization.load_pem_private_key(_private(key_path), None)
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StateError(f"the authority in {key_path.parent} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StateError(f"{key_path} holds another kind of key, expected P-256")
    if key.public_key() != certificate.public_key():
        raise StateError(f"{key_path} is not the key of {certificate_path}")
    return CertificateAuthority(key, certificate)


def _exactly(path: Path, size: int) -> bytes:
    raw = _private(path)
    if len(raw) != size:
        raise StateError(f"{path} has {len(raw)} bytes, expected {size}")
    return raw


def _private(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise StateError(f"{path} can be read by others", hint=f"chmod 600 {path}")
    return path.read_bytes()
