"""What an administrator holds: the settings file, the federation's documents, a certificate and a signing key."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel.credentials import TlsIdentity
from attestation.issue import admin_spiffe_id, issued_by
from attestation.trust import TrustContext, open_trust
from fl_runtime.jobs.compose import Submitter
from fl_runtime.jobs.keystore import Keystore
from policies.documents import Name
from policies.errors import UsageError
from policies.settings import Settings

DOCUMENTS = ("root.json", "roster.json", "reference-values.json")
SIGNING_KEY_BYTES = 32


class AdministratorSettings(Settings):
    """The settings file of `cloister job`: `admin.toml` of an administrator's kit."""

    kit: Path  # folder with root.json, roster.json and reference-values.json
    name: Name  # as in the certificate
    server: str  # host:port
    server_node: Name
    service_enrol: str  # host:port
    service_attested: str  # host:port
    certificate: Path  # PEM, issued by the project's authority
    key: Path  # PEM, PKCS #8
    signing_key: Path  # raw Ed25519, 32 bytes: the key that site policies name
    keys: Path | None = None  # where keys of jobs are kept; `keys` in the kit where not said


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An administrator's kit, read and checked."""

    settings: AdministratorSettings
    trust: TrustContext
    tls: TlsIdentity = field(repr=False)
    submitter: Submitter
    keystore: Keystore


def load_credentials(settings: AdministratorSettings, *, now: datetime) -> Credentials:
    """Read an administrator's kit.

    Raises:
        UsageError: A file is missing or not what it must be; the certificate has expired, or is another's.
        PolicyError: Root, roster or reference values do not verify, or are not in force.
    """
    root, roster, reference = (_read(settings.kit / name) for name in DOCUMENTS)
    trust = open_trust(root, roster, reference, now=now)
    certificate = _read(settings.certificate)
    _require_usable(certificate, settings, trust, now=now)
    secret = _read(settings.signing_key)
    if len(secret) != SIGNING_KEY_BYTES:
        raise UsageError(
            f"{settings.signing_key} has {len(secret)} bytes, expected a raw Ed25519 key of {SIGNING_KEY_BYTES}"
        )
    return Credentials(
        settings=settings,
        trust=trust,
        tls=TlsIdentity(key_pem=_read(settings.key), certificate_pem=certificate),
        submitter=Submitter(name=settings.name, signing_key=Ed25519PrivateKey.from_private_bytes(secret)),
        keystore=Keystore(settings.keys or settings.kit / "keys"),
    )


def _require_usable(pem: bytes, settings: AdministratorSettings, trust: TrustContext, *, now: datetime) -> None:
    """Say in words what a server would answer to a bad certificate with nothing but a closed socket."""
    path = settings.certificate
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise UsageError(f"{path} is not an administrator's certificate: {error}") from error
    if now >= certificate.not_valid_after_utc:
        raise UsageError(
            f"the certificate {path} ended at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            hint="ask the project's administrator for a new one",
        )
    if not issued_by(certificate, trust.root.admin_ca_certificate):
        raise UsageError(
            f"the certificate {path} was not issued by the authority that {settings.kit / DOCUMENTS[0]} names"
        )
    found = names.get_values_for_type(x509.UniformResourceIdentifier)
    expected = admin_spiffe_id(trust.root.trust_domain, settings.name)
    if found != [expected]:
        raise UsageError(f"the certificate {path} names {', '.join(found) or 'nobody'}, expected {expected}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="it is part of an administrator's kit"
        ) from error
