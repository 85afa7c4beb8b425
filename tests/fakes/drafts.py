"""A job and an Attestation Result as they might be: every field can be said otherwise."""

from __future__ import annotations

from typing import Any

from policies.attestation_result import (
    PROFILE,
    AttestationResult,
    Confirmation,
    Status,
    Submodule,
    TrustVector,
)
from policies.documents import raw_public_key
from policies.grant import HardwareId
from policies.job_manifest import CodeReference, JobManifest, ModelReference
from tests.fakes.trust_domain import NOW, TRUST_DOMAIN, signing_key

CLAIMS = ("instance_identity", "configuration", "executables", "hardware", "runtime_opaque")
ISSUED = int(NOW.timestamp())


def draft_job(**changes: Any) -> JobManifest:
    """Return a job of both hospitals, submitted by `admin`."""
    fields = {
        "job": "digits-1",
        "trust_domain": TRUST_DOMAIN,
        "submitter": "admin",
        "submitter_key": raw_public_key(signing_key("admin")),
        "submitted_at": NOW,
        "workflow": "fedavg",
        "rounds": 5,
        "sites": ("hospital-a", "hospital-b"),
        "min_sites": 2,
        "profile": "tee+mask",
        "aggregation": {},
        "metrics": (),
        "code": CodeReference(sha256=bytes(32), size=1, script="train.py", args=()),
        "model": ModelReference(
            sealed_sha256=bytes(32), sealed_size=1, key_id="digits-1", layout={}, layout_sha256=bytes(32)
        ),
        "config": {},
        "round_timeout_seconds": 60,
    }
    return JobManifest(**(fields | changes))


def draft_part(status: Status = "warning", **claims: Status) -> Submodule:
    """Return what a result says of one component: every claim of this status, but for those that are named."""
    return Submodule(
        status=status,
        trust_vector=TrustVector(**(dict.fromkeys(CLAIMS, status) | claims)),
        hardware=HardwareId(kind="snp-chip-id", value=b"\x01" * 64),
        advisories=(),
    )


def draft_result(**changes: Any) -> AttestationResult:
    """Return a result about a mock `hospital-a`."""
    fields = {
        "eat_profile": PROFILE,
        "iss": f"attestation.{TRUST_DOMAIN}",
        "iat": ISSUED,
        "exp": ISSUED + 1800,
        "jti": "0" * 32,
        "eat_nonce": bytes(32),
        "purpose": "issue",
        "trust_domain": TRUST_DOMAIN,
        "node": "hospital-a",
        "role": "site",
        "tier": "attested",
        "organisation": "north",
        "boot": bytes(16),
        "image": bytes(48),
        "reference": "release-1",
        "status": "warning",
        "submods": {"cpu0": draft_part()},
        "cnf": Confirmation(tls_spki=bytes(32), sign_pk=bytes(32), hpke_pk=bytes(1216)),
        "revocation_epoch": 0,
        "evidence_sha256": bytes(32),
        "mock": True,
    }
    return AttestationResult(**(fields | changes))
