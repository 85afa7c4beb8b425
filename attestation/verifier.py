"""From bytes to Claims: is this evidence genuine, fresh for this session, and about the node that it names?

The same function serves the attestation service and every peer that checks for itself. What the evidence *says* is
compared with expectations in `attestation.appraisal`.

 1. sizes (done by `attestation.wire`), the core parsed
 2. init_data: trust domain, node, role and root are the ones of the core and of this reader
 3. grant: signed by the organisation that the roster names for this node, in force, for this node and role
 4. certificate request: its key is the TLS key of the core
 5. CPU evidence: chain to a pinned vendor root, signature; report data is the digest of core and devices;
    HOST_DATA is the digest of init_data
 6. hardware id and launch measurement are the organisation's own
 7. devices: each answers to its nonce, chain to a pinned root, distinct, the organisation's own
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import binding
from attestation.claims import Claims
from attestation.core import Core
from attestation.errors import AppraisalError, BindingMismatchError, MalformedEvidenceError
from attestation.evidence import CpuEvidence, DeviceEvidence
from attestation.findings import Finding
from attestation.keys import spki_sha256
from attestation.nvidia_gpu.verify import GpuClaims
from attestation.nvidia_gpu.verify import verify as verify_gpu
from attestation.snp.certificate_table import CertificateTable
from attestation.snp.verify import SnpClaims
from attestation.snp.verify import verify as verify_snp
from attestation.trust import TrustContext
from attestation.trust_anchors import TrustAnchors
from attestation.wire import ReceivedAttestation
from policies import grant as grant_document
from policies.documents import Envelope
from policies.errors import DeniedError, MalformedDocumentError
from policies.grant import Grant, HardwareKind
from policies.init_data import InitData, init_data_digest, parse_init_data


def parse_core(raw: bytes) -> Core:
    """Parse the core of an attestation.

    Raises:
        MalformedEvidenceError: It does not follow the format.
    """
    try:
        return Core.parse(raw)
    except MalformedDocumentError as error:
        raise MalformedEvidenceError(str(error)) from error


def verify_attestation(received: ReceivedAttestation, *, trust: TrustContext, now: datetime) -> Claims:
    """Verify one attestation; the numbered steps are those of the module's docstring.

    Raises:
        AttestationError: The narrowest class that says what does not hold.
        PolicyError: Its grant or init_data is malformed, expired, or not signed by the right organisation.
    """
    core = parse_core(received.core)  # 1
    member = trust.roster.member(core.node)
    _check_init_data(parse_init_data(received.init_data), core, trust)  # 2
    grant = _open_grant(received.grant, core, trust, now=now)  # 3
    _check_csr(received.csr, core)  # 4
    cpu = verify_cpu(received.evidence.cpu, anchors=trust.anchors, now=now)  # 5
    if core.tee != received.evidence.cpu.kind:
        raise BindingMismatchError(f"core says {core.tee}, the evidence is of kind {received.evidence.cpu.kind}")
    binding.require_equal(
        "report data",
        cpu.report.report_data,
        binding.report_data(core.tee, received.core, received.evidence.devices),
    )
    binding.require_equal("HOST_DATA", cpu.report.host_data, init_data_digest(received.init_data))
    binding.require_equal("core.image", core.image, cpu.report.measurement)
    _require_granted(grant, "snp-chip-id", cpu.chip_id)  # 6
    _require_granted_image(grant, cpu.report.measurement)
    devices = _verify_devices(received, core, trust=trust, now=now)  # 7
    for device in devices:
        _require_granted(grant, "gpu-ueid", device.ueid)
    return Claims(core=core, cpu=cpu, devices=devices, grant=grant, member=member, evidence_sha256=received.sha256)


def verify_cpu(evidence: CpuEvidence, *, anchors: TrustAnchors, now: datetime) -> SnpClaims:
    """Verify the CPU evidence of a kind that this version knows.

    Raises:
        MalformedEvidenceError: It is of another kind.
        AttestationError: It does not verify.
    """
    if evidence.kind != "snp":
        raise MalformedEvidenceError(f"evidence of kind {evidence.kind} cannot be verified yet, expected snp")
    return verify_snp(
        evidence.report, CertificateTable.parse(evidence.endorsements).endorsements(), anchors=anchors, now=now
    )


def _check_init_data(init_data: InitData, core: Core, trust: TrustContext) -> None:
    for field, found, expected in (
        ("trust domain", init_data.trust_domain, trust.root.trust_domain),
        ("trust domain of the core", core.td, trust.root.trust_domain),
        ("node", init_data.node, core.node),
        ("role", init_data.role, core.role),
        ("role in the roster", trust.roster.member(core.node).role, core.role),
        ("root", init_data.root_sha256.hex(), trust.root_sha256.hex()),
        ("root of the core", core.root.hex(), trust.root_sha256.hex()),
        ("roster of the core", core.roster.hex(), trust.roster_sha256.hex()),
        ("organisation key", init_data.organisation_key.hex(), trust.organisation_key(core.node).hex()),
    ):
        if found != expected:
            raise BindingMismatchError(
                f"init_data of {core.node}: {field} is {found}, expected {expected}",
                hint="the machine was launched for something else, or its documents are out of date",
            )


def _open_grant(raw: bytes, core: Core, trust: TrustContext, *, now: datetime) -> Grant:
    envelope = Envelope.parse(raw)
    grant = envelope.open(Grant, grant_document.KIND, [trust.organisation_key(core.node)])
    grant.require_in_force(now)
    binding.require_equal("grant of the core", core.grant, envelope.digest)
    member = trust.roster.member(core.node)
    for field, found, expected in (
        ("trust domain", grant.trust_domain, trust.root.trust_domain),
        ("node", grant.node, core.node),
        ("organisation", grant.organisation, member.organisation),
        ("role", grant.role, core.role),
        ("tier", grant.tier, member.tier),
    ):
        if found != expected:
            raise DeniedError(f"the grant of {core.node} has {field} {found}, expected {expected}")
    return grant


def _check_csr(der: bytes, core: Core) -> None:
    if hashlib.sha256(der).digest() != core.csr_sha256:
        raise BindingMismatchError("the certificate request is not the one whose digest the core holds")
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        holds = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedEvidenceError(f"not a certificate request: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedEvidenceError("the certificate request has another kind of key, expected P-256")
    if not holds:
        raise BindingMismatchError("the certificate request is not signed by its own key")
    binding.require_equal("key of the certificate request", spki_sha256(key), core.tls_spki)


def _require_granted(grant: Grant, kind: HardwareKind, value: bytes) -> None:
    if not grant.allows(kind, value):
        allowed = [item.value.hex()[:16] for item in grant.hardware if item.kind == kind]
        raise AppraisalError(
            f"{grant.node} runs on hardware that {grant.organisation} has not granted",
            findings=(
                Finding(
                    field=kind,
                    found=value.hex()[:16] + "…",
                    expected=f"one of {', '.join(allowed) or 'none'}",
                    status="contraindicated",
                    repair=f"run {grant.node} on its own machine, or have {grant.organisation} sign a grant for this one",
                ),
            ),
        )


def _require_granted_image(grant: Grant, measurement: bytes) -> None:
    if measurement not in grant.images:
        raise AppraisalError(
            f"{grant.node} runs an image that {grant.organisation} has not granted",
            findings=(
                Finding(
                    field="measurement",
                    found=measurement.hex()[:16] + "…",
                    expected=f"one of {', '.join(sorted(image.hex()[:16] for image in grant.images))}",
                    status="contraindicated",
                    repair="launch the released image, or grant this one after building it again yourself",
                ),
            ),
        )


def _verify_devices(
    received: ReceivedAttestation, core: Core, *, trust: TrustContext, now: datetime
) -> tuple[GpuClaims, ...]:
    devices = received.evidence.devices
    if len(devices) != core.n_devices:
        raise BindingMismatchError(f"evidence of {len(devices)} devices came, the core says {core.n_devices}")
    digest = binding.core_hash(received.core)
    claims = tuple(
        _verify_device(device, nonce=binding.device_nonce(digest, index, len(devices)), trust=trust, now=now)
        for index, device in enumerate(devices)
    )
    ueids = [device.ueid for device in claims]
    if len(set(ueids)) != len(ueids):
        raise BindingMismatchError("two pieces of device evidence come from the same device")
    return claims


def _verify_device(device: DeviceEvidence, *, nonce: bytes, trust: TrustContext, now: datetime) -> GpuClaims:
    if device.device_class != "gpu":
        raise MalformedEvidenceError(f"evidence of a {device.device_class} cannot be verified yet, expected a gpu")
    return verify_gpu(device.report, device.chain, nonce=nonce, anchors=trust.anchors, now=now)
