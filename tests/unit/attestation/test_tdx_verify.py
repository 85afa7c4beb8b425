from dataclasses import replace
from datetime import timedelta

import pytest
from dcap_qvl import QuoteVerifier

from attestation.errors import (
    AppraisalError,
    EndorsementError,
    MalformedEvidenceError,
    RevokedError,
    SignatureError,
)
from attestation.tdx.dcap import verify_quote
from attestation.tdx.verify import verify
from tests.fakes.lab_tdx import (
    CPU_SVN,
    FMSPC,
    INSTANCE,
    PCK,
    PCK_CA,
    PPID,
    SEPT_VE_DISABLE,
    LabQuote,
    anchors,
    body,
    collateral,
    crl,
    level,
    pck,
    pck_ca,
    qe_identity,
    root,
    svn_level,
    tcb_info,
)
from tests.fakes.lab_x509 import NOW, pem

GOOD, EXTENDED = LabQuote(), LabQuote(version=5, extended=True)
GOOD_COLLATERAL = collateral()


def svn(*leading: int) -> bytes:
    return bytes(leading).ljust(16, b"\0")


def check(quote=GOOD, given=GOOD_COLLATERAL, *, mock=True, now=NOW):
    return verify(quote.encode(), given, anchors=anchors(mock=mock), now=now)


def check_dcap(quote=GOOD, given=GOOD_COLLATERAL, *, now=NOW):
    """Leave out what this package checks before dcap-qvl."""
    return verify_quote(quote.encode(), given, root_der=root(), now=now)


@pytest.mark.parametrize("quote", [GOOD, LabQuote(version=5), EXTENDED], ids=["4", "5, TD 1.0", "5, TD 1.5"])
def test_quote_of_each_version_gives_claims(quote):
    claims = check(quote)
    assert (claims.version, claims.report.report_data) == (quote.version, bytes(range(64)))
    assert (claims.tcb.status, claims.tcb.advisory_ids, claims.tcb.evaluation_data_number) == ("UpToDate", set(), 18)
    assert claims.tcb.current_status == ("UpToDate" if quote.extended else None)
    platform = claims.platform
    assert (platform.ppid, platform.platform_instance_id, platform.fmspc) == (PPID, INSTANCE, FMSPC)
    assert (platform.dynamic_platform, platform.cached_keys, platform.smt_enabled) == ("True", "True", "False")


@pytest.mark.parametrize("mock", [True, False])
def test_claims_are_mock_if_and_only_if_the_anchor_is(mock):
    assert check(mock=mock).mock is mock


def test_padded_quote_says_the_same_as_the_quote():
    assert check(GOOD.but(padding=bytes(70))).report == check().report


def test_bytes_behind_the_quote_are_rejected_though_dcap_qvl_takes_them():
    quote = GOOD.but(padding=b"EVIL")
    assert check_dcap(quote)
    with pytest.raises(MalformedEvidenceError, match="behind its end"):
        check(quote)


def test_collateral_out_of_force_is_named_before_certificates_that_are_too():
    with pytest.raises(EndorsementError, match="TCB info holds"):
        check(now=NOW + timedelta(days=365 * 40))


def test_revoked_platform_is_rejected():
    with pytest.raises(RevokedError):
        check(given=replace(GOOD_COLLATERAL, pck_crl=crl(PCK_CA, revoked=PCK)))


@pytest.mark.parametrize(
    "quote",
    [
        GOOD.but(report_signed_by=PCK),
        GOOD.but(vouched_key="impostor"),
        GOOD.but(qe_mr_signer=bytes(32)),
        GOOD.but(qe_prod_id=1),
        GOOD.but(qe_misc_select=1),
        GOOD.but(qe_attributes=svn(0x17)),
        GOOD.but(qe_attributes=svn(0x35)),
    ],
    ids=["report", "attestation key", "MRSIGNER", "ISVPRODID", "MISCSELECT", "QE in debug", "QE attributes"],
)
def test_quote_that_intels_quoting_enclave_did_not_sign_is_rejected(quote):
    with pytest.raises(SignatureError, match="quote does not verify"):
        check(quote)


@pytest.mark.parametrize(
    "given",
    [
        collateral(tcb_signer="impostor"),
        replace(GOOD_COLLATERAL, tcb_info=tcb_info(tcbEvaluationDataNumber=19)),
        replace(GOOD_COLLATERAL, qe_identity=qe_identity(tcbEvaluationDataNumber=19)),
        replace(GOOD_COLLATERAL, qe_identity_signature=bytes(64)),
    ],
    ids=["signer", "TCB info edited", "QE identity edited", "QE identity signature"],
)
def test_collateral_that_intel_did_not_sign_is_rejected(given):
    with pytest.raises(SignatureError, match="Signature is invalid for"):
        check(given=given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (collateral(tcb=tcb_info(fmspc="00" * 6)), "Fmspc mismatch"),
        (collateral(tcb=tcb_info(pceId="0001")), "TCB info is for PCE 0001, expected 0000"),
        (collateral(tcb=tcb_info(id="SGX")), "non-TDX TCB info"),
        (collateral(qe=qe_identity(id="QE")), "Unsupported QE Identity"),
        (collateral(qe=qe_identity(tcbLevels=[])), "No TCB levels found"),
        (collateral(tcb=tcb_info(tcbLevels=[level(tdx=bytes(3))])), "TDX component count"),
        (collateral(tcb=tcb_info(tcbLevels=[level(sgx=bytes(3))])), "SGX component count"),
    ],
)
def test_collateral_of_another_platform_is_rejected(given, reason):
    with pytest.raises(EndorsementError, match=reason):
        check(given=given)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"now": NOW + timedelta(days=20)}, "TCBInfo expired"),
        ({"now": NOW - timedelta(days=20)}, "TCBInfo issue date"),
        ({"given": collateral(qe=qe_identity(nextUpdate="2026-05-16T00:00:00Z"))}, "QE Identity expired"),
        ({"given": collateral(qe=qe_identity(issueDate="2026-06-14T00:00:00Z"))}, "QE Identity issue date"),
        ({"given": replace(GOOD_COLLATERAL, root_ca_crl=b"")}, "Failed to parse root CA CRL"),
        ({"given": replace(GOOD_COLLATERAL, pck_crl=b"")}, "Failed to parse PCK CRL"),
        (
            {
                "given": collateral(tcb=tcb_info(nextUpdate="2027-01-01T00:00:00Z")),
                "now": NOW + timedelta(days=40),
            },
            "CrlExpired",
        ),
    ],
)
def test_dcap_qvl_by_itself_calls_stale_collateral_an_endorsement(change, reason):
    with pytest.raises(EndorsementError, match=reason):
        check_dcap(**change)


@pytest.mark.parametrize(
    ("quote", "given", "reason"),
    [
        (GOOD.but(auth=bytes(33)), GOOD_COLLATERAL, "Invalid QE auth data"),
        (GOOD, collateral(tcb=tcb_info(tcbEvaluationDataNumber=None)), "Failed to decode TcbInfo"),
        (GOOD, collateral(tcb=tcb_info(tcbLevels=[level("Splendid")])), "Failed to decode TcbInfo"),
        (GOOD, collateral(tcb=tcb_info(tcbLevels=[level("TDRelaunchAdvised")])), "Unrecognized TCB status"),
        (GOOD, collateral(tcb=tcb_info(tcbLevels=[level() | {"tcbDate": "x"}])), "Invalid TCB level"),
        (GOOD, collateral(qe=qe_identity(mrsigner=None)), "Failed to decode QeIdentity"),
    ],
)
def test_part_that_does_not_follow_intels_format_is_malformed(quote, given, reason):
    with pytest.raises(MalformedEvidenceError, match=reason):
        check(quote, given)


@pytest.mark.parametrize(
    ("quote", "given", "field"),
    [
        (GOOD.but(attributes=SEPT_VE_DISABLE | 1), GOOD_COLLATERAL, "td_attributes.debug"),
        (GOOD.but(attributes=SEPT_VE_DISABLE | 1 << 29), GOOD_COLLATERAL, "td_attributes.migratable"),
        (GOOD.but(attributes=0), GOOD_COLLATERAL, "td_attributes.sept_ve_disable"),
        (GOOD.but(mr_signer_seam=b"\1" * 48), GOOD_COLLATERAL, "tdx_module"),
        (GOOD.but(seam_attributes=b"\1" * 8), GOOD_COLLATERAL, "tdx_module"),
        (EXTENDED.but(mr_service_td=b"\1" * 48), GOOD_COLLATERAL, "mr_service_td"),
        (EXTENDED.but(tee_tcb_svn_2=svn(7, 1, 3)), GOOD_COLLATERAL, "tee_tcb_svn_2"),
        (GOOD.but(tee_tcb_svn=svn(7, 1, 3)), GOOD_COLLATERAL, "tcb_level"),
        (GOOD, collateral(tcb=tcb_info(tcbLevels=[level(sgx=b"\4" + CPU_SVN[1:])])), "tcb_level"),
        (GOOD.but(tee_tcb_svn=svn(1, 1)), collateral(tcb=tcb_info(tcbLevels=[level(tdx=svn())])), "tdx_module.isv_svn"),
        (GOOD, collateral(tcb=tcb_info(tcbLevels=[level("Revoked")])), "tcb_status"),
        (GOOD, collateral(qe=qe_identity(tcbLevels=[svn_level(4, "Revoked")])), "tcb_status"),
        (GOOD.but(qe_isv_svn=3), GOOD_COLLATERAL, "qe.isv_svn"),
    ],
)
def test_genuine_quote_that_no_policy_can_want_is_refused_with_a_finding(quote, given, field):
    with pytest.raises(AppraisalError) as refused:
        check(quote, given)
    assert [finding.field for finding in refused.value.findings] == [f"tdx.{field}"]


@pytest.mark.parametrize(
    ("bit", "field"),
    [(2, "reserved"), (4, "profiling"), (5, "profiling"), (17, "servtd_ext"), (33, "reserved"), (40, "reserved")],
)
def test_dcap_qvl_by_itself_refuses_attributes_of_test_and_profiling(bit, field):
    with pytest.raises(AppraisalError) as refused:
        check_dcap(GOOD.but(attributes=SEPT_VE_DISABLE | 1 << bit))
    assert f"tdx.td_attributes.{field}" in str(refused.value)


@pytest.mark.parametrize(
    ("quote", "given", "status", "current"),
    [
        (GOOD, collateral(tcb=tcb_info(tcbLevels=[level("SWHardeningNeeded")])), "SWHardeningNeeded", None),
        (GOOD, collateral(tcb=tcb_info(tcbLevels=[level("OutOfDate")])), "OutOfDate", None),
        (GOOD, collateral(qe=qe_identity(tcbLevels=[svn_level(4, "OutOfDate")])), "OutOfDate", None),
        (GOOD.but(tee_tcb_svn=svn(6, 1, 4)), GOOD_COLLATERAL, "OutOfDate", None),
        (EXTENDED.but(tee_tcb_svn_2=svn(6, 1, 4)), GOOD_COLLATERAL, "UpToDate", "OutOfDate"),
        (EXTENDED.but(tee_tcb_svn=svn(6, 1, 4)), GOOD_COLLATERAL, "TDRelaunchAdvised", "UpToDate"),
    ],
    ids=["platform hardening", "platform", "quoting enclave", "module", "module now", "module at launch"],
)
def test_status_is_the_worst_of_platform_module_and_quoting_enclave(quote, given, status, current):
    tcb = check(quote, given).tcb
    assert (tcb.status, tcb.current_status) == (status, current)


def test_advisories_of_the_level_are_claimed():
    given = collateral(tcb=tcb_info(tcbLevels=[level("SWHardeningNeeded", advisories=["INTEL-SA-00615"])]))
    assert check(given=given).tcb.advisory_ids == {"INTEL-SA-00615"}


@pytest.mark.parametrize(
    "older", [{"tcb": tcb_info(**body(tcbEvaluationDataNumber=12))}, {"qe": qe_identity(tcbEvaluationDataNumber=12)}]
)
def test_evaluation_number_is_the_lower_of_the_two(older):
    assert check(given=collateral(**older)).tcb.evaluation_data_number == 12


def test_flags_of_the_platform_come_from_its_certificate():
    chain = pem(pck((False, False, True)), pck_ca(), root())
    platform = check(GOOD.but(pck_chain=chain)).platform
    assert (platform.dynamic_platform, platform.cached_keys, platform.smt_enabled) == ("False", "False", "True")


def test_certificate_under_a_processors_authority_has_no_instance_and_leaves_the_flags_undefined():
    platform = check(GOOD.but(pck_chain=pem(pck(None), pck_ca(), root()))).platform
    assert platform.platform_instance_id is None
    assert {platform.dynamic_platform, platform.cached_keys, platform.smt_enabled} == {"Undefined"}


class OtherRelease:
    """A release of dcap-qvl that knows a status of which nobody has decided what it means."""

    def __init__(self, root_der: bytes) -> None:
        self.real = QuoteVerifier(root_der)

    def verify_with_policy(self, *arguments):
        self.claims = self.real.verify_with_policy(*arguments).to_json()
        return self

    def to_json(self) -> str:
        return self.claims.replace('"status":"UpToDate"', '"status":"Splendid"')


def test_status_that_this_verifier_does_not_know_is_refused(monkeypatch):
    monkeypatch.setattr("attestation.tdx.dcap.QuoteVerifier", OtherRelease)
    with pytest.raises(EndorsementError, match=r"does not know: tcb\.status"):
        check()


def test_signature_negated_verifies_too_so_that_bytes_are_no_replay_defence():
    order = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
    raw = bytearray(GOOD.encode())
    s = slice(48 + 584 + 4 + 32, 48 + 584 + 4 + 64)
    raw[s] = (order - int.from_bytes(raw[s], "big")).to_bytes(32, "big")
    assert verify(bytes(raw), GOOD_COLLATERAL, anchors=anchors(), now=NOW).report == check().report
