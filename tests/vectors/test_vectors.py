"""Evidence cases, genuine and tampered, from the folder of CLOISTER_VECTORS (by default ../shared/vectors).

Every SNP case runs. Of the NVIDIA cases, those run that need a report, a chain and a nonce; the others are skipped, and
say what is not proven.
"""

import hashlib
import json
import os
from base64 import b64decode
from datetime import datetime
from pathlib import Path

import pytest

from attestation.certificates import split_pem
from attestation.errors import AppraisalError, AttestationError, MalformedEvidenceError
from attestation.nvidia_gpu.appraise import GpuExpectations
from attestation.nvidia_gpu.appraise import appraise as appraise_gpu
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
from attestation.trust_anchors import GENUINE, TrustAnchor, TrustAnchors, with_development

VECTORS = Path(os.environ.get("CLOISTER_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
CASES = json.loads((VECTORS / "cases.json").read_bytes()) if (VECTORS / "cases.json").is_file() else []

RIM = "that measurements match NVIDIA's reference manifests (RIM)"
OCSP = "that NVIDIA's certificates are not revoked (OCSP)"
TOPOLOGY = "that the devices are distinct and complete (admission decides)"
NRAS = "that a token of NVIDIA's remote service is sound"

# Cases whose only fault lies in what these verifiers do not look at.
NOT_PROVEN = {
    **dict.fromkeys(("lab-index-conflict", "lab-measurement-mismatch", "lab-measurement-missing"), RIM),
    **dict.fromkeys(("lab-rim-all-inactive", "lab-rim-duplicate-index", "lab-rim-leaf-expired"), RIM),
    **dict.fromkeys(("lab-rim-selfsigned", "lab-rim-signed-by-device-key", "lab-rim-version-mismatch"), RIM),
    **dict.fromkeys(("real-gh100-580.95.05-stale-vbios-rim", "variant-switch-rim-notyet-c438"), RIM),
    "multi-duplicate-gpu": TOPOLOGY,
}
NOT_PROVEN_PREFIXES = {"tamper-rim-": RIM, "tamper-switch-rim-": RIM, "lab-ocsp-": OCSP, "nras-": NRAS}

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
NVIDIA_REFUSALS = {
    "attestation.malformed": (
        "tamper-dupindex tamper-empty tamper-measspec tamper-no-request tamper-numblocks tamper-only-request "
        "tamper-opaquelen tamper-reclen tamper-respcode tamper-sig-der tamper-spdm12 tamper-trailing tamper-trunc "
        "lab-feature-unknown lab-measurement-short lab-opaque-duplicate"
    ),
    "attestation.signature": (
        "tamper-chain- tamper-driver-version tamper-measurement tamper-respnonce tamper-sig-c438 tamper-sig-zero "
        "bad- lab-chain- lab-untrusted-roots"
    ),
    "attestation.endorsement": "lab-fwid-mismatch",
    "attestation.binding": "tamper-nonce tamper-reqnonce lab-nonce-other multi-one-other-nonce",
    "attestation.appraisal": "lab-driver-version-denied",
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


def gpu_claims(case: dict, *, report: bytes, chain: bytes, nonce: str) -> GpuClaims:
    root = files(case)["device-root"]
    return verify_gpu(
        report,
        chain,
        nonce=bytes.fromhex(nonce),
        anchors=anchors(case, vendor="nvidia", product="Device Identity", root=root),
        now=datetime.fromisoformat(case["verify_at"]),
    )


def accept_gpus(case: dict) -> tuple[GpuClaims, ...]:
    given = files(case)
    if "evidence.json" in given:
        devices = json.loads(given["evidence.json"])
        nonce = devices[0]["nonce"]
        return tuple(
            gpu_claims(case, report=b64decode(one["evidence"]), chain=b64decode(one["certificate"]), nonce=nonce)
            for one in devices
        )
    nonce = case.get("expected_nonce") or case["nonce"]
    claims = gpu_claims(case, report=given["report.bin"], chain=given["chain.pem"], nonce=nonce)
    asked = GpuExpectations(
        device_class=claims.device_class, min_driver=case["require"].get("min_driver"), features=None, ueids=None
    )
    if findings := appraise_gpu(claims, asked):
        raise AppraisalError(case["id"], findings=findings)
    return (claims,)


@pytest.mark.parametrize("case", cases("nvidia"))
def test_nvidia_case(case):
    reasons = [why for start, why in NOT_PROVEN_PREFIXES.items() if case["id"].startswith(start)]
    if case["id"] in NOT_PROVEN or reasons:
        pytest.skip(f"not proven: {NOT_PROVEN.get(case['id']) or reasons[0]}")
    if case["expect"].startswith("valid"):  # as far as report, chain and nonce go
        accepted = accept_gpus(case)
        assert len({claims.ueid for claims in accepted}) == case.get("count", 1)
        assert case.get("vbios_version", accepted[0].vbios_version) == accepted[0].vbios_version
        assert case.get("driver_version", accepted[0].driver_version) == accepted[0].driver_version
    else:  # "policy" cases too: this verifier refuses chains that are not five certificates, leaf first
        with pytest.raises(AttestationError) as refused:
            accept_gpus(case)
        assert refused.value.code == refusal(case["id"], NVIDIA_REFUSALS)


@pytest.mark.parametrize("case", cases("snp"))
def test_report_of_every_snp_case_parses_or_is_malformed(case):
    given = files(case)
    try:
        SnpReport.parse(given["outblob"] if "outblob" in given else given["report.bin"])
    except MalformedEvidenceError:
        assert case["expect"] == "invalid"
