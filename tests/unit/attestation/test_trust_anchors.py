import hashlib

import pytest

from attestation.errors import SignatureError
from attestation.trust_anchors import GENUINE, TrustAnchor, TrustAnchors, with_development
from policies.errors import UsageError

ROOT = b"a development root"


def anchor(*, vendor="amd", der=ROOT, mock=True) -> TrustAnchor:
    return TrustAnchor(vendor=vendor, product="Milan", sha256=hashlib.sha256(der).digest(), mock=mock)


def test_genuine_anchors_are_not_mock_and_cover_every_product_line():
    assert [(found.vendor, found.product, found.mock) for found in GENUINE.anchors] == [
        ("amd", "Milan", False),
        ("amd", "Genoa", False),
        ("amd", "Turin", False),
        ("intel", "SGX Root", False),
        ("nvidia", "Device Identity", False),
        ("nvidia", "CoRIM signing", False),
    ]


def test_root_that_is_pinned_is_found_with_its_label():
    assert with_development([anchor()]).find("amd", ROOT) == anchor()


def test_root_that_is_not_pinned_is_rejected_by_its_fingerprint():
    with pytest.raises(SignatureError, match=hashlib.sha256(ROOT).hexdigest()):
        GENUINE.find("amd", ROOT)


def test_root_of_another_vendor_does_not_count():
    with pytest.raises(SignatureError, match="pinned nvidia roots"):
        with_development([anchor()]).find("nvidia", ROOT)


def test_root_for_another_purpose_does_not_count_where_one_is_asked_for():
    pinned = with_development([anchor()])
    assert pinned.find("amd", ROOT, product="Milan") == anchor()
    with pytest.raises(SignatureError, match=r"pinned amd roots \(Genoa\)"):
        pinned.find("amd", ROOT, product="Genoa")


def test_development_anchor_must_be_labelled_mock():
    with pytest.raises(UsageError, match="not labelled mock"):
        with_development([anchor(mock=False)])


def test_fingerprint_pinned_twice_is_refused():
    with pytest.raises(UsageError, match="pinned twice"):
        TrustAnchors((anchor(), anchor(mock=False)))


def test_fingerprint_of_another_size_is_refused():
    short = TrustAnchor(vendor="amd", product="Milan", sha256=b"short", mock=True)
    with pytest.raises(UsageError, match="fingerprint of 5 bytes"):
        TrustAnchors((short,))
