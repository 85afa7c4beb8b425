"""The roots of the development vendor: an AMD-like and an NVIDIA-like chain, made once and kept in one file.

Names and formats are the genuine vendors' (facts: AMD 57230 "VCEK Certificate and KDS Interface Specification"; NVIDIA
certificates of H100 boards), so that the strict verifier's name checks hold; only the keys, and so the fingerprints,
differ. The keys of the roots sign once and are dropped: the file holds the two issuing keys and a seed, from which the
key of every chip and every GPU follows, so that a device keeps its identity when the mock TEE restarts.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from attestation.errors import MockTeeError
from policies.documents import Document, Sha256, describe
from policies.encoding import lp, sha384

VENDOR_FILE = "vendor.json"
PRODUCT = "Milan"

# A test or a demo may run with a clock of its own: certificates are in force from a year before they are made.
BACKDATED = timedelta(days=365)
CA_LIFETIME = timedelta(days=25 * 365)

_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)  # AMD 57230: RSASSA-PSS, SHA-384, salt 48


class Anchor(Document):
    """How a verifier pins one root."""

    vendor: Literal["amd", "nvidia"]
    product: str
    sha256: Sha256  # of the certificate's DER


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """Everything the development vendor signs with."""

    seed: bytes  # 32 bytes; chips' and GPUs' keys follow from it
    ark: x509.Certificate  # RSA-4096, self-signed
    ask: x509.Certificate
    ask_key: rsa.RSAPrivateKey
    device_root: x509.Certificate  # P-384, self-signed
    identity: x509.Certificate
    provisioner: x509.Certificate
    provisioner_key: ec.EllipticCurvePrivateKey

    def derive_key(self, *labels: str | bytes) -> ec.EllipticCurvePrivateKey:
        """Return the P-384 key that belongs to these labels, the same one each time."""
        # 47 bytes: a scalar of 376 bits is below the order of the curve, whatever the hash.
        scalar = int.from_bytes(sha384("mock-key", lp(self.seed), *map(lp, labels))[:47], "big")
        return ec.derive_private_key(scalar, ec.SECP384R1())

    def derive_bytes(self, size: int, *labels: str | bytes) -> bytes:
        """Return at most 48 bytes that belong to these labels, the same ones each time."""
        return sha384("mock-bytes", lp(self.seed), *map(lp, labels))[:size]

    def sign_vcek(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Sign with the ASK."""
        return builder.sign(self.ask_key, hashes.SHA384(), rsa_padding=_PSS)

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """What a verifier pins to believe this vendor."""
        return (
            Anchor(vendor="amd", product=PRODUCT, sha256=self.ark.fingerprint(hashes.SHA256())),
            Anchor(vendor="nvidia", product="Device Identity", sha256=self.device_root.fingerprint(hashes.SHA256())),
        )


class _Stored(Document):
    seed: bytes
    ark: str
    ask: str
    ask_key: str
    device_root: str
    identity: str
    provisioner: str
    provisioner_key: str


def open_vendor(folder: Path, *, now: datetime) -> Vendor:
    """Load the vendor of `folder`, or make one there (one to three seconds: two RSA-4096 keys).

    Raises:
        MockTeeError: The folder cannot be written, or its file is not one that this function wrote.
    """
    path = folder / VENDOR_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, _store(create_vendor(now=now)).model_dump_json().encode())
        # Read back even when just written: of two processes that made one at the same time, both use the one kept.
        return _restore(_Stored.model_validate_json(path.read_bytes()))
    except OSError as error:
        raise MockTeeError(f"the mock vendor's folder {folder} is not usable: {error}") from error
    except ValidationError as error:
        raise _unreadable(path, describe(error)) from error
    except ValueError as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, reason: str) -> MockTeeError:
    return MockTeeError(
        f"{path} is not a mock vendor's file: {reason}",
        hint="remove it; a new vendor with new roots is made at next start",
    )


def _write_once(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def create_vendor(*, now: datetime) -> Vendor:
    """Make a vendor with new keys; nothing is written."""
    with ThreadPoolExecutor(2) as pool:  # key generation runs outside the interpreter lock
        ark_key, ask_key = pool.map(lambda _: rsa.generate_private_key(65537, 4096), range(2))
    ark_name, ask_name = amd_name(f"ARK-{PRODUCT}"), amd_name(f"SEV-{PRODUCT}")
    ark = _authority(ark_name, ark_key, ark_name, ark_key, now=now, path_length=None, signs_crl=True)
    ask = _authority(ask_name, ask_key, ark_name, ark_key, now=now, path_length=0, signs_crl=False)

    root_key, identity_key, provisioner_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
    root_name = _name((NameOID.COMMON_NAME, "NVIDIA Device Identity CA"), (NameOID.ORGANIZATION_NAME, "NVIDIA"))
    identity_name = _name(
        (NameOID.COMMON_NAME, "NVIDIA GH100 Identity"), (NameOID.ORGANIZATION_NAME, "NVIDIA Corporation")
    )
    provisioner_name = _name(
        (NameOID.COMMON_NAME, "NVIDIA GH100 Provisioner ICA 1"),
        (NameOID.ORGANIZATION_NAME, "NVIDIA Corporation"),
        (NameOID.COUNTRY_NAME, "US"),
    )
    return Vendor(
        seed=secrets.token_bytes(32),
        ark=ark,
        ask=ask,
        ask_key=ask_key,
        device_root=_authority(root_name, root_key, root_name, root_key, now=now),
        identity=_authority(identity_name, identity_key, root_name, root_key, now=now),
        provisioner=_authority(provisioner_name, provisioner_key, identity_name, identity_key, now=now),
        provisioner_key=provisioner_key,
    )


def amd_name(common_name: str) -> x509.Name:
    """Return the name AMD gives to a certificate, attributes in AMD's order."""
    return _name(
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
        (NameOID.COMMON_NAME, common_name),
    )


def _name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


_SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def _authority(
    subject: x509.Name,
    subject_key: _SigningKey,
    issuer: x509.Name,
    issuer_key: _SigningKey,
    *,
    now: datetime,
    path_length: int | None = None,
    signs_crl: bool = True,
) -> x509.Certificate:
    not_before = now - BACKDATED
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(subject_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(signs_certificates=True, signs_crl=signs_crl), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject_key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return builder.sign(
        issuer_key, hashes.SHA384(), rsa_padding=_PSS if isinstance(issuer_key, rsa.RSAPrivateKey) else None
    )


def key_usage(*, signs_data: bool = False, signs_certificates: bool = False, signs_crl: bool = False) -> x509.KeyUsage:
    """Return a key usage extension with these bits and no others."""
    return x509.KeyUsage(
        digital_signature=signs_data,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_crl,
        encipher_only=False,
        decipher_only=False,
    )


def pem_chain(certificates: Iterable[x509.Certificate]) -> bytes:
    """Return the certificates one after the other, PEM."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _store(vendor: Vendor) -> _Stored:
    def key(private: _SigningKey) -> str:
        return private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def certificate(value: x509.Certificate) -> str:
        return pem_chain([value]).decode()

    return _Stored(
        seed=vendor.seed,
        ark=certificate(vendor.ark),
        ask=certificate(vendor.ask),
        ask_key=key(vendor.ask_key),
        device_root=certificate(vendor.device_root),
        identity=certificate(vendor.identity),
        provisioner=certificate(vendor.provisioner),
        provisioner_key=key(vendor.provisioner_key),
    )


def _restore(stored: _Stored) -> Vendor:
    """Build the vendor from its file; the file is this program's own, so its RSA key is not checked again (0.2 s)."""

    def certificate(pem: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(pem.encode())

    ask_key = serialization.load_pem_private_key(
        stored.ask_key.encode(), password=None, unsafe_skip_rsa_key_validation=True
    )
    provisioner_key = serialization.load_pem_private_key(stored.provisioner_key.encode(), password=None)
    if not isinstance(ask_key, rsa.RSAPrivateKey) or not isinstance(provisioner_key, ec.EllipticCurvePrivateKey):
        raise ValueError("ask_key or provisioner_key is of another kind, expected RSA and EC")  # noqa: TRY004 - content
    return Vendor(
        seed=stored.seed,
        ark=certificate(stored.ark),
        ask=certificate(stored.ask),
        ask_key=ask_key,
        device_root=certificate(stored.device_root),
        identity=certificate(stored.identity),
        provisioner=certificate(stored.provisioner),
        provisioner_key=provisioner_key,
    )
