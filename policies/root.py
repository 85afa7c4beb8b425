"""The root: who the organisations are, how many of them decide, and which attestation service they trust.

Root 1 is signed by k of the organisations it names. Root N + 1 is signed by k keys of N and by k keys of N + 1.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from policies.documents import Document, Ed25519Key, Envelope, Name, Sha256, Sha384, Versioned
from policies.errors import MalformedDocumentError

KIND = "root"


class Organisation(Document):
    """One organisation and the key it signs with."""

    signing_key: Ed25519Key


class ServiceIdentity(Document):
    """The attestation service as the organisations found it when they verified its evidence (genesis)."""

    image: Sha384  # launch measurement of the service's image
    ca_certificate: bytes = Field(min_length=1, max_length=4096)  # DER, self-signed: issues every node certificate
    result_key: Ed25519Key  # signs Attestation Results
    log_key: Ed25519Key  # signs the checkpoints of the service's audit log


class DevelopmentAnchor(Document):
    """A root of the mock vendor. Whatever it verifies is marked `mock` for good."""

    vendor: Literal["amd", "intel", "nvidia"]
    product: str
    certificate_sha256: Sha256


class Root(Versioned):
    """The document every other trust decision starts from."""

    trust_domain: Name
    organisations: dict[Name, Organisation] = Field(min_length=1, max_length=256)
    threshold: int = Field(ge=1)  # k: how many organisations sign root, roster and reference values
    service: ServiceIdentity
    admin_ca_certificate: bytes = Field(min_length=1, max_length=4096)  # DER: issues administrators, never nodes
    development_anchors: tuple[DevelopmentAnchor, ...] = Field(max_length=16)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.threshold > len(self.organisations):
            raise ValueError(f"threshold {self.threshold} exceeds the {len(self.organisations)} organisations")
        keys = [organisation.signing_key for organisation in self.organisations.values()]
        if len(set(keys)) != len(keys):
            raise ValueError("two organisations have the same signing key")
        if self.development_anchors and not self.trust_domain.endswith(".mock"):
            raise ValueError("development anchors are for trust domains that end in .mock")
        return self

    @property
    def signing_keys(self) -> frozenset[bytes]:
        """The keys of all organisations."""
        return frozenset(organisation.signing_key for organisation in self.organisations.values())

    @property
    def mock(self) -> bool:
        """Whether this trust domain takes evidence of the mock vendor."""
        return bool(self.development_anchors)


def open_first_root(envelope: Envelope) -> Root:
    """Open a root of version 1, signed by k of the organisations that it names.

    Whether these are the right organisations only its digest can tell: it is pinned in every node's `init_data`.

    Raises:
        MalformedDocumentError: Not a root, or a later one.
        DocumentSignatureError: Fewer than k of its own organisations signed it.
    """
    claimed = Root.parse(envelope.payload)  # unverified: read only to learn which keys must have signed it
    root = envelope.open(Root, KIND, claimed.signing_keys, threshold=claimed.threshold)
    if root.version != 1 or root.previous is not None:
        raise MalformedDocumentError(f"found root version {root.version}, expected version 1, which succeeds none")
    return root
