"""What a Verifier starts from: root, roster, reference values and vendor anchors, opened and in force."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from attestation import reference_values
from attestation.reference_values import ReferenceValues
from attestation.trust_anchors import GENUINE, TrustAnchor, TrustAnchors, with_development
from policies import roster as roster_document
from policies.documents import Envelope
from policies.errors import DocumentSignatureError, MalformedDocumentError
from policies.root import Root, open_first_root
from policies.roster import Roster


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustContext:
    """The documents of one trust domain, each verified under the one it rests on."""

    root: Root
    root_sha256: bytes  # 32 bytes, of the payload
    roster: Roster
    roster_sha256: bytes  # 32 bytes, of the payload
    reference_values: ReferenceValues
    reference_values_sha256: bytes  # 32 bytes, of the payload
    anchors: TrustAnchors

    def organisation_key(self, node: str) -> bytes:
        """The Ed25519 key of the organisation that `node` belongs to, by the roster.

        Raises:
            DeniedError: The node is not in the roster.
        """
        return self.root.organisations[self.roster.member(node).organisation].signing_key


def open_trust(
    root: bytes, roster: bytes, reference: bytes, *, now: datetime, root_sha256: bytes | None = None
) -> TrustContext:
    """Open the three envelopes of a trust domain.

    Args:
        root: Envelope of root version 1.
        roster: Envelope, signed by k organisations of the root.
        reference: Envelope of the reference values, signed by k organisations of the root.
        now: When they must be in force.
        root_sha256: The digest that this reader has pinned (its init_data); None for one who has no pin.

    Raises:
        MalformedDocumentError: One does not follow its format, or they speak of different trust domains.
        DocumentSignatureError: One is not signed by those who must, or the root is not the pinned one.
        DocumentExpiredError: One is not in force.
    """
    root_envelope, roster_envelope, reference_envelope = (Envelope.parse(raw) for raw in (root, roster, reference))
    if root_sha256 is not None and root_envelope.digest != root_sha256:
        raise DocumentSignatureError(
            f"the root has digest {root_envelope.digest.hex()}, expected the pinned {root_sha256.hex()}",
            hint="this root is of another federation, or was replaced; get the one your organisation signed",
        )
    opened_root = open_first_root(root_envelope)
    keys, threshold = opened_root.signing_keys, opened_root.threshold
    opened_roster = roster_envelope.open(Roster, roster_document.KIND, keys, threshold=threshold)
    opened_reference = reference_envelope.open(ReferenceValues, reference_values.KIND, keys, threshold=threshold)
    for document in (opened_root, opened_roster, opened_reference):
        document.require_in_force(now)
    domains = {opened_root.trust_domain, opened_roster.trust_domain, opened_reference.trust_domain}
    if len(domains) != 1:
        raise MalformedDocumentError(f"root, roster and reference values speak of different trust domains: {domains}")
    strangers = {member.organisation for member in opened_roster.nodes.values()} - set(opened_root.organisations)
    if strangers:
        raise MalformedDocumentError(f"the roster names organisations that the root does not: {sorted(strangers)}")
    return TrustContext(
        root=opened_root,
        root_sha256=root_envelope.digest,
        roster=opened_roster,
        roster_sha256=roster_envelope.digest,
        reference_values=opened_reference,
        reference_values_sha256=reference_envelope.digest,
        anchors=anchors_of(opened_root),
    )


def anchors_of(root: Root) -> TrustAnchors:
    """The vendor roots that this trust domain believes: the genuine ones, and a mock vendor's if the root names it."""
    if not root.development_anchors:
        return GENUINE
    return with_development(
        TrustAnchor(vendor=anchor.vendor, product=anchor.product, sha256=anchor.certificate_sha256, mock=True)
        for anchor in root.development_anchors
    )
