import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from attestation.errors import EndorsementError, MalformedEvidenceError, SignatureError
from attestation.snp.report import SnpReport
from attestation.snp.verify import P384_ORDER, verify
from tests.fakes.lab_snp import CHIP_ID, CSP, LabReport, anchors, endorsements, with_signature
from tests.fakes.lab_x509 import NOW, ec_key

GOOD = LabReport()
TURIN = LabReport(product="Turin")


def check(report: bytes, *, product="Milan", kind="vcek", mock=True):
    return verify(report, endorsements(product, kind), anchors=anchors(product, mock=mock), now=NOW)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_report_of_each_version_gives_claims(version):
    claims = check(GOOD.but(version=version).encode())
    assert (claims.product, claims.signing_key, claims.chip_id, claims.csp_id) == ("Milan", "vcek", CHIP_ID, None)
    assert claims.report.version == version


def test_turin_report_gives_claims():
    assert check(TURIN.encode(), product="Turin").product == "Turin"


def test_report_signed_by_a_vlek_names_the_cloud_and_no_chip():
    claims = check(GOOD.but(key_info=1 << 2, chip_id=bytes(64)).encode(), kind="vlek")
    assert (claims.signing_key, claims.csp_id, claims.chip_id) == ("vlek", CSP, bytes(64))


@pytest.mark.parametrize("mock", [True, False])
def test_claims_are_mock_if_and_only_if_the_anchor_is(mock):
    assert check(GOOD.encode(), mock=mock).mock is mock


def test_malformed_report_is_rejected():
    with pytest.raises(MalformedEvidenceError):
        check(GOOD.encode() + b"\0")


def test_report_of_another_tcb_than_the_keys_is_rejected():
    with pytest.raises(EndorsementError, match="expected the reported TCB"):
        check(GOOD.but(reported_tcb="04000000000018da").encode())


def test_turin_report_with_another_fmc_than_the_keys_is_rejected():
    with pytest.raises(EndorsementError, match="expected the reported TCB"):
        check(TURIN.but(reported_tcb="0001010400000051").encode(), product="Turin")


@pytest.mark.parametrize("chip_id", [bytes(64), CHIP_ID[::-1]], ids=["masked", "another"])
def test_report_of_another_chip_is_rejected(chip_id):
    with pytest.raises(EndorsementError, match="VCEK is for chip"):
        check(GOOD.but(chip_id=chip_id).encode())


@pytest.mark.parametrize("kind", ["vcek", "vlek"])
def test_report_that_names_another_kind_of_key_is_rejected(kind):
    key_info = {"vcek": 1 << 2, "vlek": 0}[kind]
    with pytest.raises(EndorsementError, match=f"expected {kind}"):
        check(GOOD.but(key_info=key_info).encode(), kind=kind)


def test_report_that_says_it_is_not_signed_is_rejected():
    with pytest.raises(EndorsementError, match="key kind none"):
        check(GOOD.but(key_info=7 << 2).encode())


def test_report_of_another_product_than_the_certificates_is_rejected():
    with pytest.raises(EndorsementError, match="certificates are for Milan, expected Genoa"):
        check(GOOD.but(patches={0x189: b"\x11"}).encode())


def test_version_2_report_under_turin_certificates_is_rejected():
    with pytest.raises(EndorsementError, match=r"VEK is for TCB \(fmc 1"):
        check(GOOD.but(version=2).encode(), product="Turin")


def test_report_signed_by_another_key_is_rejected():
    with pytest.raises(SignatureError, match="does not verify with the platform's key"):
        check(GOOD.encode(ec_key()))


@pytest.mark.parametrize("offset", [0x004, 0x050, 0x090, 0x0C0, 0x0E0, 0x140, 0x1E8, 0x1F0, 0x1F8, 0x200])
def test_report_edited_after_it_was_signed_is_rejected(offset):
    raw = bytearray(GOOD.encode())
    raw[offset] ^= 1
    with pytest.raises(SignatureError, match="does not verify"):
        check(bytes(raw))


@pytest.mark.parametrize(
    ("r", "s"), [(0, 0), (0, 1), (1, 0), (P384_ORDER, 1), (1, P384_ORDER)], ids=["zero", "r0", "s0", "rn", "sn"]
)
def test_signature_outside_the_group_is_rejected(r, s):
    with pytest.raises(SignatureError, match="outside 1 to n-1"):
        check(with_signature(GOOD.encode(), r=r, s=s))


def test_big_endian_signature_is_rejected():
    raw = bytearray(GOOD.encode())
    raw[0x2A0:0x2D0] = raw[0x2A0:0x2D0][::-1]
    raw[0x2E8:0x318] = raw[0x2E8:0x318][::-1]
    with pytest.raises(SignatureError):
        check(bytes(raw))


def test_negated_signature_verifies_too_so_bytes_are_no_replay_key():
    raw = GOOD.encode()
    parsed = SnpReport.parse(raw)
    r, s = decode_dss_signature(encode_dss_signature(parsed.r, P384_ORDER - parsed.s))
    other = with_signature(raw, r=r, s=s)
    assert other != raw
    assert check(other).report.measurement == check(raw).report.measurement


@pytest.mark.parametrize(
    "tcbs",
    [
        {"committed_tcb": "04000000000018da"},
        {"current_tcb": "04000000000018da"},
        {"committed_tcb": "04000000000019dd", "current_tcb": "04000000000018dd"},
    ],
    ids=["committed-below-reported", "current-below-reported", "current-below-committed"],
)
def test_tcbs_in_an_order_that_firmware_never_writes_are_rejected(tcbs):
    with pytest.raises(MalformedEvidenceError, match="expected reported <= committed <= current"):
        check(GOOD.but(**tcbs).encode())


def test_reported_tcb_may_lag_behind_committed_and_current():
    claims = check(GOOD.but(committed_tcb="04000000000018dc", current_tcb="04000000000018dd").encode())
    assert claims.report.reported_tcb.microcode == 0xDB
