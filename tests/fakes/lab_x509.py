"""Certificates for the tests' own vendors, with every attribute open to be made wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOT_BEFORE = datetime(2024, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2049, 1, 1, tzinfo=UTC)
PSS_48 = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)
CA = x509.BasicConstraints(ca=True, path_length=None)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def load_rsa_key(name: str) -> rsa.RSAPrivateKey:
    pem = (Path(__file__).parent / "keys" / f"{name}.pem").read_bytes()
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def ec_key(curve=None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP384R1())


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def usage(*, sign=False, certify=False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certify,
        crl_sign=certify,
        encipher_only=False,
        decipher_only=False,
    )


def certificate(
    subject: str,
    issuer: str,
    *,
    key: Key,
    signer: Key,
    ca: x509.BasicConstraints | None = None,
    extensions: dict[str, bytes] | None = None,
    critical: bool = False,
    key_usage: x509.KeyUsage | None = None,
    not_before: datetime = NOT_BEFORE,
    not_after: datetime = NOT_AFTER,
    rsa_padding=PSS_48,
    digest=None,
    serial: int = 7,
) -> bytes:
    """Return one certificate, DER."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    if ca is not None:
        builder = builder.add_extension(ca, critical=True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    for oid, value in (extensions or {}).items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical)
    chosen = rsa_padding if isinstance(signer, rsa.RSAPrivateKey) else None
    return builder.sign(signer, digest or SHA384(), rsa_padding=chosen).public_bytes(Encoding.DER)


def pem(*ders: bytes) -> bytes:
    """Return certificates as one PEM file."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)
