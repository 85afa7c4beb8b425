"""Who the organisations are, and how many of them decide."""

import pytest
from pydantic import ValidationError

from policies.documents import Envelope
from policies.errors import DocumentSignatureError, MalformedDocumentError
from policies.root import KIND, DevelopmentAnchor, Organisation, Root, ServiceIdentity, open_first_root
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
    with pytest.raises(DocumentSignatureError, match=r"expected application/vnd\.cloister\.root"):
        open_first_root(Envelope.parse(signed(draft_root(), "roster")))


@pytest.mark.parametrize("change", [{"version": 2}, {"version": 2, "previous": bytes(32)}, {"previous": bytes(32)}])
def test_root_that_is_not_the_first_is_refused(change):
    with pytest.raises(MalformedDocumentError, match="expected version 1, which succeeds none"):
        opened(draft_root(**change))


KEY = signing_key("east").public_key().public_bytes_raw()
ANCHOR = DevelopmentAnchor(vendor="amd", product="Milan", certificate_sha256=bytes(32))


def organisations(count):
    return {f"o-{number}": Organisation(signing_key=number.to_bytes(32, "big")) for number in range(count)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threshold": 4}, "threshold 4 exceeds the 3 organisations"),
        ({"threshold": 0}, "threshold"),
        ({"organisations": {}}, r"organisations\n.*at least 1 item"),
        ({"organisations": organisations(257)}, r"organisations\n.*at most 256 items"),
        ({"admin_ca_certificate": b""}, "admin_ca_certificate"),
        ({"admin_ca_certificate": bytes(4097)}, "admin_ca_certificate"),
        ({"development_anchors": (ANCHOR,) * 17}, "development_anchors"),
        ({"organisations": {name: Organisation(signing_key=KEY) for name in "ab"}}, "the same signing key"),
        ({"trust_domain": "cloister.example"}, "development anchors are for trust domains that end in .mock"),
    ],
)
def test_root_that_contradicts_itself_cannot_be_made(change, said):
    with pytest.raises(ValidationError, match=said):
        draft_root(**change)


def test_root_without_development_anchors_takes_no_mock_evidence():
    assert not draft_root(trust_domain="cloister.example", development_anchors=()).mock


@pytest.mark.parametrize("size", [0, 4097])
def test_certificate_of_the_service_is_there_and_bounded(size):
    with pytest.raises(ValidationError, match="ca_certificate"):
        ServiceIdentity(image=bytes(48), ca_certificate=bytes(size), result_key=bytes(32), log_key=bytes(32))


def test_root_travels_unchanged():
    assert Root.parse(draft_root().encode()) == draft_root()
