"""The decisions: may this job run here, may this node have this key. Pure; every field that fails is listed.

Property (tested): degrading any claim never turns a refusal into a permission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from policies.attestation_result import AttestationResult
from policies.errors import DeniedError
from policies.job_manifest import JobManifest
from policies.release import ReleasePolicy
from policies.roster import Roster
from policies.site_policy import SitePolicy


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed only if nothing speaks against it."""

    reasons: tuple[str, ...]  # what speaks against it, each naming the field, what was found, what is allowed

    @property
    def allowed(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    def require(self, what: str, *, hint: str | None = None) -> None:
        """Raise `DeniedError` with every reason unless allowed."""
        if self.reasons:
            raise DeniedError(what, reasons=self.reasons, hint=hint)


def decide_job(
    policy: SitePolicy, manifest: JobManifest, *, roster: Roster, clip_micros: int, weight_cap: int, min_survivors: int
) -> Decision:
    """Whether a site that has `policy` lets `manifest` run.

    Args:
        policy: In force and signed by the site's organisation.
        manifest: Opened under its submitter's key.
        roster: Where the cohort must come from.
        clip_micros: The largest clip bound of the manifest's aggregation parameters, in millionths.
        weight_cap: Their cap on samples.
        min_survivors: Their least number of survivors.
    """
    receive, execute, returns = policy.receive, policy.execute, policy.returns
    known_code = manifest.code.sha256 in execute.code_sha256
    known_submitter = manifest.submitter_key in execute.submitters
    sites = roster.sites
    strangers = [site for site in manifest.sites if site not in sites]
    tiers = {sites[site].tier for site in manifest.sites if site in sites}
    metrics = [metric for metric in manifest.metrics if metric not in returns.metrics]
    checks: tuple[tuple[bool, Callable[[], str]], ...] = (
        (
            manifest.trust_domain == policy.trust_domain,
            lambda: f"job is of {manifest.trust_domain}, this site of {policy.trust_domain}",
        ),
        (policy.site in manifest.sites, lambda: f"job does not name {policy.site}"),
        (not strangers, lambda: f"not in the roster: {', '.join(strangers)}"),
        (
            tiers <= receive.peer_tiers,
            lambda: f"receive.peer_tiers: job has {_list(tiers)} sites, allowed are {_list(receive.peer_tiers)}",
        ),
        (
            manifest.model.sealed_size <= receive.max_model_bytes,
            lambda: (
                f"receive.max_model_bytes: model has {manifest.model.sealed_size} bytes, allowed are {receive.max_model_bytes}"
            ),
        ),
        (
            known_code or known_submitter,
            lambda: (
                f"execute: neither submitter {manifest.submitter} nor code {manifest.code.sha256.hex()[:16]} is allowed"
            ),
        ),
        (
            manifest.rounds <= execute.max_rounds,
            lambda: f"execute.max_rounds: job has {manifest.rounds}, allowed are {execute.max_rounds}",
        ),
        (
            manifest.profile in returns.profiles,
            lambda: f"returns.profiles: job wants {manifest.profile}, allowed are {_list(returns.profiles)}",
        ),
        (not metrics, lambda: f"returns.metrics: job wants {', '.join(metrics)}, allowed are {_list(returns.metrics)}"),
        (
            manifest.min_sites >= returns.min_cohort,
            lambda: f"returns.min_cohort: job runs with {manifest.min_sites} sites, allowed from {returns.min_cohort}",
        ),
        (
            min_survivors >= returns.min_survivors,
            lambda: f"returns.min_survivors: job accepts {min_survivors}, allowed from {returns.min_survivors}",
        ),
        (
            clip_micros <= returns.max_clip_micros,
            lambda: f"returns.max_clip_micros: job clips at {clip_micros}, allowed up to {returns.max_clip_micros}",
        ),
        (
            weight_cap <= returns.max_weight_cap,
            lambda: f"returns.max_weight_cap: job caps at {weight_cap}, allowed up to {returns.max_weight_cap}",
        ),
    )
    return Decision(tuple(reason() for holds, reason in checks if not holds))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest:
    """What is asked of the key broker, as the broker found it."""

    key_id: str
    job_sha256: bytes  # 32 bytes, the job that the key is wanted for
    approvals: int  # distinct sites whose approval of this very job verified
    releases: int  # how often the key was released before
    requester_tls_spki: bytes  # 32 bytes, SHA-256 of the key that this request's TLS session was opened with
    repeated: bool  # the same release was granted before: it counts once


def decide_release(
    policy: ReleasePolicy, result: AttestationResult, request: ReleaseRequest, *, now: datetime, revocation_epoch: int
) -> Decision:
    """Whether the node that `result` is about may have the key that `policy` guards.

    Args:
        policy: Opened under the key of the job's submitter.
        result: Verified under the service's result key; found by the jti that the request names.
        request: As the broker found it.
        now: The service's time.
        revocation_epoch: The current one; a result of an earlier epoch is stale.
    """
    age = int(now.timestamp()) - result.iat
    role = policy.nodes.get(result.node)
    checks: tuple[tuple[bool, Callable[[], str]], ...] = (
        (request.key_id == policy.key_id, lambda: f"key {request.key_id} is not {policy.key_id}"),
        (
            request.job_sha256 == policy.job_sha256,
            lambda: f"job {request.job_sha256.hex()[:16]} is not {policy.job_sha256.hex()[:16]}",
        ),
        (result.purpose == "release", lambda: f"the attestation was made to {result.purpose}, expected release"),
        (
            age + 60 >= 0 and age <= policy.max_result_age_seconds,
            lambda: f"the attestation is {age} s old, allowed are {policy.max_result_age_seconds} s",
        ),
        (now.timestamp() < result.exp, lambda: "the attestation has expired"),
        (
            result.revocation_epoch >= revocation_epoch,
            lambda: f"the attestation is of revocation epoch {result.revocation_epoch}, current is {revocation_epoch}",
        ),
        (
            request.requester_tls_spki == result.cnf.tls_spki,
            lambda: "the request was made with a key that the attestation does not confirm",
        ),
        (
            role is not None,
            lambda: f"{result.node} is not among the nodes that may have the key: {_list(policy.nodes)}",
        ),
        (
            role is None or role == result.role,
            lambda: f"{result.node} attested as {result.role}, the policy names it as {role}",
        ),
        (result.tier in policy.tiers, lambda: f"tier {result.tier} is not among {_list(policy.tiers)}"),
        (result.image in policy.images, lambda: f"image {result.image.hex()[:16]} is not among the allowed images"),
        (
            result.status in policy.accepted_statuses,
            lambda: f"status {result.status} is not among {_list(policy.accepted_statuses)}",
        ),
        (
            policy.allow_mock or not result.mock,
            lambda: "the evidence is of a mock TEE, and the policy does not allow that",
        ),
        (
            request.approvals >= policy.min_approvals,
            lambda: f"{request.approvals} sites have approved the job, expected {policy.min_approvals}",
        ),
        (
            request.repeated or request.releases < policy.max_releases,
            lambda: f"the key was released {request.releases} times, allowed are {policy.max_releases}",
        ),
    )
    return Decision(tuple(reason() for holds, reason in checks if not holds))


def _list(items: Iterable[str]) -> str:
    return ", ".join(sorted(items)) or "none"
