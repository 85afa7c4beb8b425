"""Evidence cases, genuine and tampered, from the folder of CLOISTER_VECTORS (by default ../shared/vectors).

Every case runs. Of GPUs that no manifest is given for, only report, chain and nonce are proven.
"""

import hashlib
import json
import os
from base64 import b64decode
from datetime import datetime
from pathlib import Path

import pytest

from attestation.certificates import split_pem
from attestation.errors import AppraisalError, AttestationError, EndorsementError, MalformedEvidenceError
from attestation.nvidia_gpu.appraise import GpuExpectations
from attestation.nvidia_gpu.appraise import appraise as appraise_gpu
from attestation.nvidia_gpu.chain import DEVICE_ROOT
from attestation.nvidia_gpu.nras import appraise_token, parse_keys, verify_token
from attestation.nvidia_gpu.ocsp import verify_status, verify_statuses
from attestation.nvidia_gpu.rim import RIM_ROOT, VerifiedRim, verify_rim
from attestation.nvidia_gpu.rim_match import rim_ids
from attestation.nvidia_gpu.topology import appraise_devices
from attestation.nvidia_gpu.verify import GpuClaims
from attestation.nvidia_gpu.verify import verify as verify_gpu
from attestation.snp.appraise import SnpExpectations, verify_binding
from attestation.snp.appraise import appraise as appraise_snp
from attestation.snp.certificate_table import CertificateTable
from attestation.snp.chain import SnpEndorsements
from attestation.snp.report import SnpReport
from attestation.snp.tcb import Tcb
from attestation.snp.verify import SnpClaims
from attestation.snp.verify import verify as verify_snp
from attestation.tdx.appraise import TdxExpectations
from attestation.tdx.appraise import appraise as appraise_tdx
from attestation.tdx.appraise import verify_binding as verify_tdx_binding
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.dcap import verify_quote
from attestation.tdx.event_log import verify_event_log
from attestation.tdx.quote import Quote
from attestation.tdx.report import parse_attributes
from attestation.tdx.verify import TdxClaims
from attestation.tdx.verify import verify as verify_tdx
from attestation.trust_anchors import GENUINE, TrustAnchor, TrustAnchors, with_development

VECTORS = Path(os.environ.get("CLOISTER_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
CASES = json.loads((VECTORS / "cases.json").read_bytes()) if (VECTORS / "cases.json").is_file() else []

# What each family of cases must be refused for: a tampered case that fails for another reason proves nothing.
SNP_REFUSALS = {
    "attestation.malformed": (
        "tamper-trailing- tamper-truncated- tamper-version- tamper-sigalgo- tamper-sig-pad- tamper-sig-r-plus-n "
        "tamper-policy-bit17 tamper-vcek-trailing lab-mbz- lab-version- lab-sigalgo- lab-keyinfo-reserved "
        "lab-pinfo-reserved lab-policy-bit17 lab-policy-reserved lab-authorkey tsm-auxblob-"
    ),
    "attestation.signature": (
        "tamper-measurement- tamper-policy-debug tamper-reportdata tamper-sig-zero tamper-sig-bigendian "
        "tamper-sig-r-bitflip tamper-sig-rs-swapped tamper-vmpl3 tamper-vcek-fake tamper-vcek-sig tamper-vcek-under "
        "tamper-vek-is-ask tamper-wrong-chain tamper-wrong-vcek-genoa tamper-after- tamper-before- expired- notyet- "
        "lab-ask- lab-leaf-expired lab-leaf-p256 lab-untrusted-root"
    ),
    "attestation.endorsement": (
        "tamper-cpuid tamper-swap tamper-tcb tamper-wrong-vcek-other lab-chipid- lab-crl-expired lab-crl-wrong "
        "lab-fms lab-keyinfo-none lab-keyinfo-vlek lab-leaf-no-hwid lab-product-ext lab-tcbext lab-turin-fmc"
    ),
    "attestation.revoked": "lab-crl-ask-revoked",
    "attestation.binding": "lab-bind-reportdata",
    "attestation.appraisal": (
        "lab-bind-measurement lab-mitvec lab-pinfo-no-alias lab-policy-debug lab-policy-migrate lab-tcb-below "
        "lab-tcb-launch lab-v2-when lab-vlek-not lab-vmpl"
    ),
}
TDX_REFUSALS = {
    "attestation.malformed": (
        "tamper-akt- tamper-certdata- tamper-empty tamper-sgx-quote- tamper-siglen- tamper-tee- tamper-trailing- "
        "tamper-truncated- tamper-vendor- tamper-version- lab-tee- lab-trailing- lab-tud- lab-v5-bodytype- lab-vendor- "
        "lab-version-"
    ),
    "attestation.signature": (
        "tamper-att-key- tamper-body-swap- tamper-hdr- tamper-mrtd- tamper-pck-of-other- tamper-qe- tamper-qeid-edited "
        "tamper-quote-sig tamper-reportdata- tamper-rtmr tamper-tcbchain- tamper-tcbinfo-edited tamper-tcbinfo-sig "
        "tamper-tdattributes- lab-pck-expired lab-qe-debug lab-qe-mrsigner lab-qe-report- lab-qe-wrong- "
        "lab-tcbinfo-edited lab-tcbinfo-signed- lab-untrusted-root"
    ),
    "attestation.endorsement": (
        "tamper-collateral- tamper-crl- tamper-now- tamper-qeid-is-sgx tamper-tcbinfo-other- lab-crl-pck-expired "
        "lab-crl-pck-forged lab-qeid-expired lab-tcbinfo-expired lab-tcbinfo-other- lab-tcbinfo-sgx"
    ),
    "attestation.revoked": "lab-crl-pck-revoked lab-crl-pckca-revoked",
    "attestation.binding": "lab-bind-reportdata eventlog-",
    "attestation.appraisal": (
        "lab-attr- lab-bind-mrtd lab-debug lab-module- lab-mrsignerseam lab-no- lab-qe-outofdate lab-qe-svn- "
        "lab-seamattributes lab-service-td lab-status- lab-tcbinfo-eval- real-tdx-"
    ),
}
NVIDIA_REFUSALS = {
    "attestation.malformed": (
        "tamper-dupindex tamper-empty tamper-measspec tamper-no-request tamper-numblocks tamper-only-request "
        "tamper-opaquelen tamper-reclen tamper-respcode tamper-sig-der tamper-spdm12 tamper-trailing tamper-trunc "
        "tamper-rim-comment tamper-rim-doctype lab-feature-unknown lab-measurement-short lab-opaque-duplicate "
        "lab-rim-duplicate"
    ),
    "attestation.signature": (
        "tamper-chain- tamper-driver-version tamper-measurement tamper-respnonce tamper-sig-c438 tamper-sig-zero "
        "tamper-rim-bad- tamper-rim-deactivate tamper-rim-expired tamper-rim-golden tamper-rim-nosig tamper-rim-sigvalue "
        "tamper-rim-two tamper-rim-xsw tamper-switch-rim- variant-switch-rim- bad- lab-chain- lab-untrusted-roots "
        "lab-rim-leaf-expired lab-rim-selfsigned lab-rim-signed-by nras-alg nras-no-detached nras-payload nras-sig"
    ),
    "attestation.endorsement": (
        "tamper-rim-swapped tamper-rim-wrong- lab-fwid-mismatch lab-rim-version lab-ocsp-no-eku lab-ocsp-stale "
        "lab-ocsp-wrong nras-expired nras-not-yet"
    ),
    "attestation.revoked": "lab-ocsp-hold lab-ocsp-revoked",
    "attestation.binding": "tamper-nonce tamper-reqnonce lab-nonce-other multi-one-other-nonce nras-other-nonce",
    "attestation.appraisal": (
        "tamper-rim-missing lab-driver-version-denied lab-index-conflict lab-measurement-mi lab-rim-all-inactive "
        "multi-duplicate real-gh100-580.95.05-stale"
    ),
}


def cases(tee: str, *, having: str = "id") -> list:
    found = [pytest.param(case, id=case["id"]) for case in CASES if case["tee"] == tee and having in case]
    absent = pytest.mark.skip(reason=f"no cases in {VECTORS}: not proven that {tee} verifiers agree with real evidence")
    return found or [pytest.param(None, marks=absent, id="absent")]


def files(case: dict) -> dict[str, bytes]:
    return {role: (VECTORS / case["tee"] / case["id"] / path).read_bytes() for role, path in case["files"].items()}


def der(raw: bytes) -> bytes:
    return split_pem(raw, what="root")[0] if raw.startswith(b"-----BEGIN") else raw


def anchors(case: dict, *, vendor, product: str, root: bytes) -> TrustAnchors:
    if case["trust_roots"] == "pinned":
        return GENUINE
    fingerprint = hashlib.sha256(der(root)).digest()
    return with_development([TrustAnchor(vendor=vendor, product=product, sha256=fingerprint, mock=True)])


def refusal(case_id: str, families: dict[str, str]) -> str:
    codes = {code for code, names in families.items() if any(case_id.startswith(name) for name in names.split())}
    assert len(codes) == 1, f"{case_id} must be refused for exactly one reason, listed are {codes}"
    return codes.pop()


def snp_claims(case: dict) -> SnpClaims:
    given = files(case)
    if "auxblob" in given:
        endorsements = CertificateTable.parse(given["auxblob"]).endorsements()
    else:
        endorsements = SnpEndorsements(
            vek=given["vek.der"],
            intermediate=der(given["intermediate"]),
            root=der(given["root"]),
            crl=given.get("crl.der"),
        )
    report = given["outblob"] if "outblob" in given else given["report.bin"]
    trusted = anchors(case, vendor="amd", product=case.get("product", ""), root=given["root"])
    return verify_snp(report, endorsements, anchors=trusted, now=datetime.fromisoformat(case["verify_at"]))


def snp_expectations(require: dict) -> SnpExpectations:
    def digest(key: str) -> bytes | None:
        return bytes.fromhex(require[key]) if key in require else None

    measurement = digest("measurement")
    return SnpExpectations(
        measurements=None if measurement is None else frozenset({measurement}),
        host_data=digest("host_data"),
        min_tcb=Tcb(**require["min_tcb"]) if "min_tcb" in require else None,
        chip_ids=None,
        id_key_digest=digest("id_key_digest"),
        author_key_digest=digest("author_key_digest"),
        signing_keys=frozenset(require.get("signing_keys", ["vcek"])),
        vlek_csps=frozenset(require.get("vlek_csp", [])),
        min_report_version=require.get("min_report_version", 2),
        alias_check_complete=require.get("alias_check_complete", False),
        ciphertext_hiding=require.get("ciphertext_hiding", False),
        allow_smt=require.get("smt", True),
        launch_mitigations=int(require.get("launch_mitigations", "0"), 16),
        current_mitigations=int(require.get("current_mitigations", "0"), 16),
    )


def accept_snp(case: dict) -> SnpClaims:
    """Verify, bind and appraise; return the claims or raise what refuses them."""
    claims = snp_claims(case)
    if "report_data" in case["require"]:
        verify_binding(claims, bytes.fromhex(case["require"]["report_data"]))
    findings = appraise_snp(claims, snp_expectations(case["require"]))
    if any(finding.status == "contraindicated" for finding in findings):
        raise AppraisalError(case["id"], findings=findings)
    return claims


@pytest.mark.parametrize("case", cases("snp"))
def test_snp_case(case):
    if case["expect"] == "valid":
        assert accept_snp(case).mock is (case["trust_roots"] == "case")
    elif case["expect"] == "valid-crypto":
        assert not snp_claims(case).mock
    else:
        with pytest.raises(AttestationError) as refused:
            accept_snp(case)
        assert refused.value.code == refusal(case["id"], SNP_REFUSALS)


@pytest.mark.parametrize("case", cases("snp", having="fields"))
def test_snp_report_fields(case):
    raw, expected = files(case)["report.bin"], case["fields"]
    report = SnpReport.parse(raw)
    assert (report.version, report.vmpl, report.guest_svn) == tuple(
        expected[k] for k in ("version", "vmpl", "guest_svn")
    )
    for name in ("author_key_digest", "chip_id", "host_data", "id_key_digest", "measurement", "report_data"):
        assert getattr(report, name).hex() == expected[name]
    for name in ("current_tcb", "committed_tcb", "launch_tcb", "reported_tcb"):
        assert getattr(report, name) == Tcb.parse(bytes.fromhex(expected[name]), product=expected["product"])
    assert str(report.current_version) == expected["current_version"]
    assert report.product in (None, expected["product"])
    assert report.signed == raw[:0x2A0]


def tdx_claims(case: dict) -> TdxClaims:
    given = files(case)
    root = given["root.der"] if "root.der" in given else given["root"]
    return verify_tdx(
        given["quote.bin"],
        TdxCollateral.parse(given["collateral.json"]),
        anchors=anchors(case, vendor="intel", product="SGX Root", root=root),
        now=datetime.fromisoformat(case["verify_at"]),
    )


def tdx_expectations(require: dict) -> TdxExpectations:
    def digest(key: str) -> bytes | None:
        return bytes.fromhex(require[key]) if key in require else None

    def digests(key: str) -> frozenset[bytes] | None:
        return frozenset({bytes.fromhex(require[key])}) if key in require else None

    def attributes(key: str) -> frozenset | None:
        return parse_attributes(int.from_bytes(bytes.fromhex(require[key]), "little")) if key in require else None

    return TdxExpectations(
        mr_tds=digests("mr_td"),
        mr_config_id=digest("mr_config_id"),
        mr_owner=digest("mr_owner"),
        ppids=None,
        rtmr3=digests("rtmr3"),
        attributes=attributes("td_attributes"),
        forbidden_attributes=attributes("forbid_attributes") or frozenset(),
        min_tcb_evaluation_data_number=require.get("min_tcb_evaluation_data_number", 0),
    )


def accept_tdx(case: dict) -> None:
    """Verify, bind and appraise a quote, or replay an event log; raise what refuses them."""
    given = files(case)
    if "ccel.bin" in given:
        verify_event_log(given["ccel.bin"], Quote.parse(given["quote.bin"]).report.rtmrs)
        return
    claims = tdx_claims(case)
    assert claims.tcb.status == (case.get("expect_tcb_status") or claims.tcb.status)
    if "report_data" in case["require"]:
        verify_tdx_binding(claims, bytes.fromhex(case["require"]["report_data"]))
    findings = appraise_tdx(claims, tdx_expectations(case["require"]))
    if any(finding.status == "contraindicated" for finding in findings):
        raise AppraisalError(case["id"], findings=findings)
    assert claims.mock is (case["trust_roots"] == "case")


def is_sgx(case: dict) -> bool:
    return files(case)["quote.bin"].startswith(b"\x03\0")  # version 3


@pytest.mark.parametrize("case", cases("tdx"))
def test_tdx_case(case):
    if case["expect"] == "valid":
        accept_tdx(case)
    elif case["expect"] == "valid-crypto" and is_sgx(case):
        # A quote of an SGX enclave: genuine, so the signatures must hold, and still no trust domain.
        given, now = files(case), datetime.fromisoformat(case["verify_at"])
        collateral = TdxCollateral.parse(given["collateral.json"])
        _, tcb = verify_quote(given["quote.bin"], collateral, root_der=given["root"], now=now)
        assert tcb.status == case["tcb_status"]
        with pytest.raises(MalformedEvidenceError, match="quote version is 3"):
            tdx_claims(case)
    elif case["expect"] == "valid-crypto":
        claims = tdx_claims(case)
        assert not claims.mock
        assert claims.tcb.status == case.get("tcb_status", claims.tcb.status)
    else:
        with pytest.raises(AttestationError) as refused:
            accept_tdx(case)
        assert refused.value.code == refusal(case["id"], TDX_REFUSALS)


@pytest.mark.parametrize("case", cases("tdx", having="fields"))
def test_tdx_quote_fields(case):
    if is_sgx(case):
        pytest.skip("a quote of an SGX enclave, which this verifier does not read: nothing to compare")
    expected, quote = case["fields"], Quote.parse(files(case)["quote.bin"])
    report = quote.report
    found = {
        "quote_version": quote.version,
        "mrtd": report.mr_td.hex(),
        "mrseam": report.mr_seam.hex(),
        "mrsignerseam": report.mr_signer_seam.hex(),
        "seamattributes": report.seam_attributes.hex(),
        "mrconfigid": report.mr_config_id.hex(),
        "mrowner": report.mr_owner.hex(),
        "mrownerconfig": report.mr_owner_config.hex(),
        "reportdata": report.report_data.hex(),
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "xfam": report.xfam.to_bytes(8, "little").hex(),
        **{f"rtmr{index}": rtmr.hex() for index, rtmr in enumerate(report.rtmrs)},
    }
    assert {name: expected[name] for name in found} == found
    assert parse_attributes(int.from_bytes(bytes.fromhex(expected["tdattributes"]), "little")) == report.attributes
    assert expected.get("tee_tcb_svn2") == (report.tee_tcb_svn_2.hex() if report.tee_tcb_svn_2 else None)
    assert expected.get("mrservicetd") == (report.mr_service_td.hex() if report.mr_service_td else None)
    if case["expect"].startswith("valid"):
        assert tdx_claims(case).platform.fmspc.hex() == expected["fmspc"].lower()


@pytest.mark.filterwarnings("ignore:Attribute's length:UserWarning")  # cryptography, about a flipped subject name
@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", cases("tdx", having="strict_notes"))
def test_byte_flipped_in_a_real_tdx_quote_is_refused_or_lies_in_the_armour_of_its_certificates(case, step):
    if not case["expect"].startswith("valid") or is_sgx(case):
        pytest.skip("only quotes that verify can show what a flipped byte does")
    given = files(case)
    original, parsed = tdx_claims(case), Quote.parse(given["quote.bin"])
    collateral, now = TdxCollateral.parse(given["collateral.json"]), datetime.fromisoformat(case["verify_at"])
    armour = given["quote.bin"].index(b"-----BEGIN")
    for position in range(0, len(given["quote.bin"]), step):
        flipped = bytearray(given["quote.bin"])
        flipped[position] ^= 1
        try:
            claims = verify_tdx(bytes(flipped), collateral, anchors=GENUINE, now=now)
        except AttestationError:
            continue
        # The text around base64 is no part of a certificate: the same certificates say the same.
        assert armour <= position < len(parsed.raw)
        assert claims == original


def nvidia_anchors(case: dict) -> TrustAnchors:
    if case["trust_roots"] == "pinned":
        return GENUINE
    given = files(case)
    return with_development(
        TrustAnchor(vendor="nvidia", product=product, sha256=hashlib.sha256(der(given[role])).digest(), mock=True)
        for role, product in (("device-root", DEVICE_ROOT), ("rim-root", RIM_ROOT))
    )


def gpu_claims(case: dict, *, report: bytes, chain: bytes, nonce: str) -> GpuClaims:
    now = datetime.fromisoformat(case["verify_at"])
    return verify_gpu(report, chain, nonce=bytes.fromhex(nonce), anchors=nvidia_anchors(case), now=now)


def gpu_rims(case: dict, claims: GpuClaims) -> tuple[VerifiedRim, ...] | None:
    """Verify the manifests of a case, each under the id that the report asks for, and their signers' status."""
    given, now, ids = files(case), datetime.fromisoformat(case["verify_at"]), rim_ids(claims)
    if not case["require"].get("rims"):
        return None
    roles = {"driver": "driver-rim.xml", "vbios": "vbios-rim.xml", "switch": "vbios-rim.xml"}
    rims = tuple(
        verify_rim(given[roles[kind]], rim_id=rim_id, anchors=nvidia_anchors(case), now=now)
        for kind, rim_id in ids.items()
        if roles[kind] in given
    )
    statuses = [raw for role, raw in given.items() if role.startswith(("ocsp-rim-", "ocsp-driver-", "ocsp-vbios-"))]
    if statuses:
        for rim in rims:
            assert len(verify_statuses(rim.chain, statuses, allow_hold=False, now=now)) == len(rim.chain) - 1
    return rims


def accept_gpus(case: dict) -> tuple[GpuClaims, ...]:
    """Verify the devices of a case and all that came with them, and appraise; return the claims or raise."""
    given, require = files(case), case["require"]
    if "evidence.json" in given:
        devices = json.loads(given["evidence.json"])
        nonce = devices[0]["nonce"]
        several = tuple(
            gpu_claims(case, report=b64decode(one["evidence"]), chain=b64decode(one["certificate"]), nonce=nonce)
            for one in devices
        )
        if findings := appraise_devices(several, [bytes.fromhex(nonce)] * len(several)):
            raise AppraisalError(case["id"], findings=findings)
        return several
    nonce = case.get("expected_nonce") or case["nonce"]
    claims = gpu_claims(case, report=given["report.bin"], chain=given["chain.pem"], nonce=nonce)
    if "ocsp-l4.der" in given:
        verify_status(
            given["ocsp-l4.der"],
            subject=claims.chain[1],
            issuer=claims.chain[2],
            nonce=None,
            allow_hold=require.get("allow_certificate_hold", False),
            now=datetime.fromisoformat(case["verify_at"]),
        )
    asked = GpuExpectations(
        device_class=claims.device_class,
        min_driver=require.get("min_driver"),
        features=frozenset({require["feature"].lower()}) if "feature" in require else None,
        ueids=None,
        rims=gpu_rims(case, claims),
    )
    if findings := appraise_gpu(claims, asked):
        raise AppraisalError(case["id"], findings=findings)
    return (claims,)


def accept_token(case: dict) -> None:
    """Verify and appraise a token of NVIDIA's service; raise what refuses it."""
    given = files(case)
    claims = verify_token(
        given["eat.json"],
        keys=parse_keys(given["jwks.json"]),
        nonce=bytes.fromhex(case.get("override_nonce") or case["expected_nonce"]),
        now=datetime.fromisoformat(case["verify_at"]),
        issuer=case["issuer"],
    )
    if findings := appraise_token(claims):
        raise AppraisalError(case["id"], findings=findings)


@pytest.mark.parametrize("case", cases("nvidia"))
def test_nvidia_case(case):
    token = "eat.json" in case["files"]
    if not case["expect"].startswith("valid"):
        # "policy" cases too: refused are chains that are not five certificates, leaf first, and manifests with comments.
        with pytest.raises(AttestationError) as refused:
            accept_token(case) if token else accept_gpus(case)
        assert refused.value.code == refusal(case["id"], NVIDIA_REFUSALS)
    elif token:
        accept_token(case)
    else:
        accepted = accept_gpus(case)
        assert len({claims.ueid for claims in accepted}) == case.get("count", 1)
        assert case.get("vbios_version", accepted[0].vbios_version) == accepted[0].vbios_version
        assert case.get("driver_version", accepted[0].driver_version) == accepted[0].driver_version


@pytest.mark.parametrize("case", [one for one in cases("nvidia") if "ocsp-gpu" in str(one.values)])
def test_genuine_device_has_good_status_on_the_day_its_answers_are_from_and_not_after(case):
    given = files(case)
    statuses = [raw for role, raw in given.items() if role.startswith("ocsp-gpu-")]
    chain = gpu_claims(case, report=given["report.bin"], chain=given["chain.pem"], nonce=case["nonce"]).chain[1:]
    then = datetime.fromisoformat("2025-08-21T12:00:00Z")  # the case's note
    found = verify_statuses(chain, statuses, allow_hold=False, now=then)
    assert [status.status for status in found] == ["good"] * 3
    with pytest.raises(EndorsementError, match="OCSP response holds from"):
        verify_statuses(chain, statuses, allow_hold=False, now=datetime.fromisoformat(case["verify_at"]))


@pytest.mark.parametrize("case", cases("snp"))
def test_report_of_every_snp_case_parses_or_is_malformed(case):
    given = files(case)
    try:
        SnpReport.parse(given["outblob"] if "outblob" in given else given["report.bin"])
    except MalformedEvidenceError:
        assert case["expect"] == "invalid"
