"""The second step: verify the attestation service, sign the first documents, hand them over, write the kits.

Documents are on disk before the service takes them, and what is there is never made anew: a run that was cut short is
continued by the next, with the same documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import reference_values
from attestation.core import ServiceInitData
from attestation.service_claims import ServiceClaims, appraise_pinned
from attestation.trust import TrustContext, open_trust
from policies import root as root_document
from policies import roster as roster_document
from policies.documents import Envelope, raw_public_key
from policies.errors import MalformedDocumentError
from policies.files import write_atomically
from policies.root import DevelopmentAnchor, ServiceIdentity
from provisioning.contact import install_root, load_anchors, meet_service
from provisioning.documents import draft_reference_values, draft_root, draft_roster
from provisioning.errors import LaboratoryError, StepError
from provisioning.keys import load_signing_key
from provisioning.kits import write_kits
from provisioning.laboratory import THRESHOLD
from provisioning.layout import Laboratory

ANCHORS_FILE = "anchors.json"
KINDS = (root_document.KIND, roster_document.KIND, reference_values.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """A laboratory that has its first documents."""

    trust: TrustContext
    service: ServiceClaims


async def run_genesis(
    laboratory: Laboratory, *, image: bytes, now: datetime, say: Callable[[str], None] = lambda _: None
) -> Founded:
    """Found the federation of a laboratory whose attestation service runs.

    Args:
        laboratory: Made by `create_laboratory`.
        image: The expected launch measurement (48 bytes), of the service and of every node.
        now: The time to verify and sign at.
        say: Told each step when it is done.

    Raises:
        AttestationError: The service did not prove that it is the expected one.
        ProvisioningError: A step before this one was not done, or the laboratory was founded with another service.
        UnreachableError: The service does not answer.
    """
    anchors = load_anchors(laboratory.tee / ANCHORS_FILE)
    service = await meet_service(
        laboratory, image=image, launched_for=_service_init_data(laboratory), anchors=anchors, now=now
    )
    say(
        f"attestation service verified: image {image.hex()[:16]}…, chip {service.cpu.chip_id.hex()[:16]}…, no debugging"
    )

    if not laboratory.document(root_document.KIND).exists():
        _sign_documents(laboratory, service, image=image, anchors=anchors, now=now)
    trust = load_trust(laboratory, now=now)
    appraise_pinned(service, trust.root)  # documents of an earlier run are for that run's service and image alone
    root, roster, reference = load_documents(laboratory)
    await install_root(laboratory, service, root=root, roster=roster, reference_values=reference)
    say(f"root 1 installed: sha256:{trust.root_sha256.hex()}")
    say(f"  signed by {laboratory.layout.operator} alone (k = {THRESHOLD}): this is a laboratory")

    for node in write_kits(laboratory, trust, image=image, now=now):
        say(f"kit written: {laboratory.kit(node)}")
    return Founded(trust=trust, service=service)


def _sign_documents(
    laboratory: Laboratory,
    service: ServiceClaims,
    *,
    image: bytes,
    anchors: tuple[DevelopmentAnchor, ...],
    now: datetime,
) -> None:
    """Sign roster, reference values and root, and keep them. The root is last: where it is, the others are whole."""
    keys = {name: load_signing_key(laboratory.organisation_key(name)) for name in laboratory.organisations}
    root = draft_root(
        laboratory,
        organisation_keys={name: raw_public_key(key) for name, key in keys.items()},
        threshold=THRESHOLD,
        service=ServiceIdentity(
            image=service.cpu.report.measurement,
            ca_certificate=service.ca_certificate,
            result_key=service.core.result_key,
            log_key=service.core.log_key,
        ),
        admin_ca_certificate=_admin_authority(laboratory),
        anchors=anchors,
        now=now,
    )
    for kind, document in (
        (roster_document.KIND, draft_roster(laboratory, now=now)),
        (reference_values.KIND, draft_reference_values(laboratory, image=image, now=now)),
        (root_document.KIND, root),
    ):
        envelope = Envelope.sign(document, kind, [keys[laboratory.layout.operator]])
        write_atomically(laboratory.document(kind), envelope.encode(), mode=0o600)


def _service_init_data(laboratory: Laboratory) -> ServiceInitData:
    """What the attestation service must have been launched with."""
    path = laboratory.service_init_data
    try:
        return ServiceInitData.parse(path.read_bytes())
    except OSError as error:
        raise LaboratoryError(f"the service's init_data {path} cannot be read: {error.strerror}") from error
    except MalformedDocumentError as error:
        raise LaboratoryError(f"{path}: {error.message}") from error


def load_documents(laboratory: Laboratory) -> tuple[bytes, bytes, bytes]:
    """Return the envelopes of root, roster and reference values.

    Raises:
        StepError: The laboratory was not founded yet.
    """
    try:
        root, roster, reference = (laboratory.document(kind).read_bytes() for kind in KINDS)
    except FileNotFoundError as error:
        raise StepError(
            f"{error.filename} does not exist: this laboratory has not been founded, or not to the end",
            hint=f"found it: cloister provision genesis {laboratory.directory}",
        ) from error
    return root, roster, reference


def load_trust(laboratory: Laboratory, *, now: datetime) -> TrustContext:
    """Open the documents that were signed at genesis.

    Raises:
        StepError: The laboratory was not founded yet.
        PolicyError: One does not open, or has expired.
    """
    root, roster, reference = load_documents(laboratory)
    return open_trust(root, roster, reference, now=now)


def image_of(trust: TrustContext) -> bytes:
    """The launch measurement (48 bytes) that a laboratory's one reference entry names.

    Raises:
        LaboratoryError: There is more than one entry.
    """
    if len(trust.reference_values.entries) != 1:
        raise LaboratoryError(
            f"found {len(trust.reference_values.entries)} reference entries, expected a laboratory's one"
        )
    return trust.reference_values.entries[0].image


def _admin_authority(laboratory: Laboratory) -> bytes:
    """The certificate of the project's authority, DER."""
    path = laboratory.administration / "authority.pem"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LaboratoryError(f"the project's authority {path} cannot be read: {error}") from error
    return certificate.public_bytes(serialization.Encoding.DER)
