import pytest

from attestation.errors import BindingMismatchError, EndorsementError, MalformedEvidenceError, SignatureError
from attestation.nvidia_gpu.verify import verify
from tests.fakes.lab_nvidia import (
    FWID,
    NONCE,
    SWITCH,
    SWITCH_NAMES,
    LabReport,
    anchors,
    chain,
    good_pem,
    measurement,
)
from tests.fakes.lab_x509 import NOW, ec_key, pem

GOOD = LabReport()


def check(report: bytes, *, chain_pem=None, nonce=NONCE, trusted=None):
    return verify(report, chain_pem or good_pem(), nonce=nonce, anchors=trusted or anchors(), now=NOW)


def test_report_of_a_gpu_gives_claims():
    claims = check(GOOD.encode())
    assert (claims.device_class, claims.hwmodel, claims.fwid, claims.feature) == ("gpu", "GH100", FWID, "spt")
    assert (claims.driver_version, claims.vbios_version) == ("580.95.05", "96.00.9f.00.01")
    assert claims.measurements[64] == measurement(64)
    assert len(claims.ueid) == 32


def test_report_of_a_switch_gives_claims_without_a_firmware_id():
    ders = chain(names=SWITCH_NAMES)
    claims = check(SWITCH.encode(), chain_pem=pem(*ders), trusted=anchors(root=ders[-1]))
    assert (claims.device_class, claims.fwid, claims.driver_version) == ("switch", None, None)


@pytest.mark.parametrize("mock", [True, False])
def test_claims_are_mock_if_and_only_if_the_anchor_is(mock):
    assert check(GOOD.encode(), trusted=anchors(mock=mock)).mock is mock


def test_malformed_report_is_rejected():
    with pytest.raises(MalformedEvidenceError):
        check(GOOD.encode() + b"\0")


@pytest.mark.parametrize("nonce", [bytes(32), b"\xee" * 32, NONCE[:31]], ids=["zero", "the-responders", "short"])
def test_report_with_another_request_nonce_is_rejected(nonce):
    with pytest.raises(BindingMismatchError, match="GPU report has request nonce 0001"):
        check(GOOD.encode(), nonce=nonce)


def test_report_under_a_root_that_is_not_pinned_is_rejected():
    with pytest.raises(SignatureError, match="root certificate has SHA-256"):
        check(GOOD.encode(), trusted=anchors(root=b"another"))


def test_report_signed_by_another_device_is_rejected():
    with pytest.raises(SignatureError, match="does not verify with the device's key"):
        check(GOOD.encode(ec_key()))


def test_report_with_a_zero_signature_is_rejected():
    with pytest.raises(SignatureError, match="does not verify with the device's key"):
        check(GOOD.signed() + bytes(96))


@pytest.mark.parametrize("offset", [60, 37 + 8 + 10, -96 - 3, -1])
def test_report_edited_after_it_was_signed_is_rejected(offset):
    raw = bytearray(GOOD.with_fields(_40=bytes(16)).encode())
    raw[offset] ^= 1
    with pytest.raises((SignatureError, BindingMismatchError)):
        check(bytes(raw), nonce=bytes(raw[4:36]))


@pytest.mark.parametrize("fwid", [b"\xf2" * 48, None], ids=["another", "leaf-has-none"])
def test_firmware_id_that_is_not_the_certificates_is_rejected(fwid):
    chain_pem, trusted, report = good_pem(), anchors(), GOOD
    if fwid is None:
        ders = chain(fwid={})
        chain_pem, trusted = pem(*ders), anchors(root=ders[-1])
    else:
        report = GOOD.with_fields(_20=fwid)
    with pytest.raises(EndorsementError, match="leaf certificate has firmware id"):
        check(report.encode(), chain_pem=chain_pem, trusted=trusted)


def test_report_without_a_firmware_id_has_none_in_its_claims_though_the_leaf_has_one():
    assert check(GOOD.with_fields(_20=None).encode()).fwid is None
