"""Root, roster and reference values: each is opened under the one it rests on."""

import re
from datetime import timedelta

import pytest

from attestation.trust import anchors_of, open_trust
from attestation.trust_anchors import GENUINE
from policies.documents import Envelope, raw_public_key
from policies.errors import DeniedError, DocumentExpiredError, DocumentSignatureError, MalformedDocumentError
from policies.roster import Member
from tests.fakes.trust_domain import (
    NOW,
    TrustDomain,
    domain,
    draft_reference_values,
    draft_root,
    draft_roster,
    signed,
    signing_key,
)

OTHER = "other.cloister.mock"


def test_documents_open_and_are_named_by_their_payloads():
    trust = domain().trust
    assert trust.root_sha256 == Envelope.parse(domain().root).digest
    assert trust.roster_sha256 == Envelope.parse(domain().roster).digest
    assert trust.reference_values_sha256 == Envelope.parse(domain().reference_values).digest
    assert trust.organisation_key("hospital-a") == raw_public_key(signing_key("north"))


def test_node_that_is_not_in_the_roster_has_no_organisation():
    with pytest.raises(DeniedError, match="hospital-z"):
        domain().trust.organisation_key("hospital-z")


def test_root_is_the_one_that_was_pinned():
    documents = (domain().root, domain().roster, domain().reference_values)
    assert open_trust(*documents, now=NOW, root_sha256=domain().trust.root_sha256) == domain().trust
    with pytest.raises(DocumentSignatureError, match="expected the pinned 0000"):
        open_trust(*documents, now=NOW, root_sha256=bytes(32))


@pytest.mark.parametrize(
    ("documents", "kind"),
    [
        ({"root": signed(draft_root(), "root", "east")}, "root"),
        ({"roster": signed(draft_roster(), "roster", "east")}, "roster"),
        ({"reference_values": signed(draft_reference_values(), "reference-values", "east")}, "reference-values"),
        ({"roster": signed(draft_roster(), "roster", "east", "stranger")}, "roster"),
    ],
)
def test_document_that_fewer_than_k_organisations_signed_is_refused(documents, kind):
    with pytest.raises(DocumentSignatureError, match=f"{kind}: 1 valid signatures of the 3 keys"):
        _ = TrustDomain(**documents).trust


EXPIRED = {"issued_at": NOW - timedelta(days=9), "expires_at": NOW}


@pytest.mark.parametrize(
    ("documents", "named"),
    [
        ({"root": signed(draft_root(**EXPIRED), "root")}, "Root"),
        ({"roster": signed(draft_roster(**EXPIRED), "roster")}, "Roster"),
        ({"reference_values": signed(draft_reference_values(**EXPIRED), "reference-values")}, "ReferenceValues"),
    ],
)
def test_document_that_is_not_in_force_is_refused(documents, named):
    with pytest.raises(DocumentExpiredError, match=f"{named} version 1 expired"):
        _ = TrustDomain(**documents).trust


@pytest.mark.parametrize(
    "documents",
    [
        {"root": signed(draft_root(trust_domain=OTHER), "root")},
        {"roster": signed(draft_roster(trust_domain=OTHER), "roster")},
        {"reference_values": signed(draft_reference_values(trust_domain=OTHER), "reference-values")},
    ],
)
def test_documents_of_different_trust_domains_are_refused(documents):
    with pytest.raises(MalformedDocumentError, match="speak of different trust domains"):
        _ = TrustDomain(**documents).trust


def test_roster_that_names_an_organisation_the_root_does_not_know_is_refused():
    nodes = {"hospital-a": Member(organisation="west", role="site", tier="attested")}
    with pytest.raises(MalformedDocumentError, match=re.escape("organisations that the root does not: ['west']")):
        _ = TrustDomain(roster=signed(draft_roster(nodes=nodes), "roster")).trust


def test_only_a_root_that_names_a_mock_vendor_believes_it():
    assert anchors_of(draft_root(development_anchors=())) is GENUINE
    added = set(anchors_of(draft_root()).anchors) - set(GENUINE.anchors)
    assert {(anchor.vendor, anchor.mock) for anchor in added} == {("amd", True), ("nvidia", True)}
