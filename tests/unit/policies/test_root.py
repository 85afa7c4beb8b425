"""Who the organisations are, and how many of them decide."""

import pytest
from pydantic import ValidationError

from policies.documents import Envelope
from policies.errors import DocumentSignatureError, MalformedDocumentError
from policies.root import KIND, Organisation, Root, open_first_root
from tests.fakes.trust_domain import draft_root, signed, signing_key


def opened(root, *signers):
    return open_first_root(Envelope.parse(signed(root, KIND, *signers)))


def test_root_opens_with_the_signatures_of_k_of_its_own_organisations():
    root = draft_root()
    assert opened(root, "east", "north") == root
    assert root.mock
    assert len(root.signing_keys) == 3


@pytest.mark.parametrize("signers", [("east",), ("east", "stranger"), ("east", "east")])
def test_root_that_fewer_than_k_organisations_signed_is_refused(signers):
    with pytest.raises(DocumentSignatureError, match="1 valid signatures"):
        opened(draft_root(), *signers)


def test_document_of_another_kind_is_no_root():
    with pytest.raises(DocumentSignatureError, match="expected application/vnd.cloister.root"):
        open_first_root(Envelope.parse(signed(draft_root(), "roster")))


@pytest.mark.parametrize("change", [{"version": 2}, {"version": 2, "previous": bytes(32)}, {"previous": bytes(32)}])
def test_root_that_is_not_the_first_is_refused(change):
    with pytest.raises(MalformedDocumentError, match="expected version 1, which succeeds none"):
        opened(draft_root(**change))


KEY = signing_key("east").public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threshold": 4}, "threshold 4 exceeds the 3 organisations"),
        ({"threshold": 0}, "threshold"),
        ({"organisations": {}}, "organisations"),
        ({"organisations": {name: Organisation(signing_key=KEY) for name in "ab"}}, "the same signing key"),
        ({"trust_domain": "cloister.example"}, "development anchors are for trust domains that end in .mock"),
    ],
)
def test_root_that_contradicts_itself_cannot_be_made(change, said):
    with pytest.raises(ValidationError, match=said):
        draft_root(**change)


def test_root_without_development_anchors_takes_no_mock_evidence():
    assert not draft_root(trust_domain="cloister.example", development_anchors=()).mock


def test_root_travels_unchanged():
    assert Root.parse(draft_root().encode()) == draft_root()
