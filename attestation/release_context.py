"""What a sealed job key is meant for: HPKE has no associated data here, so all of it goes into `info`."""

from __future__ import annotations

from attestation.issue import spiffe_id
from policies.attestation_result import AttestationResult
from policies.encoding import domain, lp, u32


def deposit_info(trust_domain: str, key_id: str, job_sha256: bytes) -> bytes:
    """The HPKE context in which a job's key is handed to the broker."""
    return domain("deposit") + lp(trust_domain) + lp(key_id) + lp(job_sha256)


def release_info(
    result: AttestationResult, *, key_id: str, version: int, job_sha256: bytes, policy_sha256: bytes, release_id: bytes
) -> bytes:
    """The HPKE context in which a key is released: to whom, on what grounds, for what."""
    who = spiffe_id(result.trust_domain, result.node, result.role, result.boot)
    parts = (
        lp(result.trust_domain),
        lp(who),
        lp(result.jti),
        lp(key_id),
        u32(version),
        lp(job_sha256),
        lp(policy_sha256),
        lp(release_id),
    )
    return domain("release") + b"".join(parts)
