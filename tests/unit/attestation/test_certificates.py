from base64 import encodebytes

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.certificates import MAX_CERTIFICATE_SIZE, common_name, read_der, split_pem
from attestation.errors import MalformedEvidenceError
from tests.fakes.lab_snp import endorsements
from tests.fakes.lab_x509 import certificate, ec_key, pem

ROOT = endorsements().root
PEM = pem(ROOT)


def test_pem_file_gives_each_certificate_in_order():
    assert split_pem(PEM + b"\n\n" + pem(endorsements().vek), what="chain") == (ROOT, endorsements().vek)


@pytest.mark.parametrize(
    "raw",
    [b"", b"text", b"text" + PEM, PEM + b"text" + PEM, PEM + b"text", PEM * 9, PEM.replace(b"MII", b"M!I")],
    ids=["empty", "text", "before", "between", "behind", "nine", "not-base64"],
)
def test_pem_file_with_anything_but_certificates_is_malformed(raw):
    with pytest.raises(MalformedEvidenceError):
        split_pem(raw, what="chain")


@pytest.mark.parametrize("raw", [b"", b"\0", ROOT[:-1], ROOT + b"\0", PEM])
def test_bytes_that_are_not_one_der_certificate_are_malformed(raw):
    with pytest.raises(MalformedEvidenceError, match="ARK certificate does not decode"):
        read_der(raw, what="ARK")


def test_certificate_of_an_unknown_version_is_malformed_in_der_and_in_pem():
    other = ROOT.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", 1)
    assert other != ROOT
    with pytest.raises(MalformedEvidenceError, match="9 is not a valid X509 version"):
        read_der(other, what="ARK")
    text = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(other) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(MalformedEvidenceError, match="9 is not a valid X509 version"):
        split_pem(text, what="chain")


def test_certificate_that_is_too_large_is_malformed():
    with pytest.raises(MalformedEvidenceError, match=f"expected at most {MAX_CERTIFICATE_SIZE}"):
        read_der(bytes(MAX_CERTIFICATE_SIZE + 1), what="ARK")


def test_certificate_with_an_extension_twice_is_malformed():
    key = ec_key()
    extensions = {"1.2.3.4": b"one", "1.2.3.5": b"two"}
    der = certificate("A", "A", key=key, signer=key, extensions=extensions)
    twice = der.replace(b"\x06\x03\x2a\x03\x05", b"\x06\x03\x2a\x03\x04")
    assert twice != der
    with pytest.raises(MalformedEvidenceError, match=r"[Dd]uplicate"):
        read_der(twice, what="VEK")


def test_name_with_two_common_names_has_none():
    twice = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in ("SEV-VCEK", "x")])
    assert common_name(twice) == ""
