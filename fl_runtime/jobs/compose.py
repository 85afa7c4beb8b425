"""From a job as it is written to a job as it travels: the manifest, who may have its key, and the sealed model.

Pure: the key, the time and the randomness are handed in. What no site could ever accept is refused here, in words, before
anything leaves the submitter's machine.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.trust import TrustContext
from fl_runtime.arrays import Layout
from fl_runtime.errors import JobRefusedError
from fl_runtime.jobs.job_file import JobFile, JobPackage
from fl_runtime.jobs.model_blob import seal_model
from fl_runtime.jobs.terms import MODEL_SEGMENT
from fl_runtime.secure_aggregation.parameters import (
    FEWEST_ORGANISATIONS,
    SMALLEST_COHORT,
    Parameters,
    Segment,
    threshold_for,
)
from fl_runtime.transport.sealed import Random, SealingKey
from policies import job_manifest, release
from policies.documents import MAX_DOCUMENT_BYTES, Envelope, raw_public_key
from policies.encoding import lp, sha256
from policies.job_manifest import CodeReference, JobManifest, ModelReference, job_digest
from policies.release import ReleasePolicy
from policies.roster import Roster

RELEASES_PER_NODE = (
    64  # each boot of a node asks once; a key that is asked for more often has a node that keeps crashing
)
MAX_RESULT_AGE_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Who submits: the name in their certificate and the key that site policies name."""

    name: str
    signing_key: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedJob:
    """A job, ready to be deposited and sent."""

    manifest: JobManifest
    envelope: bytes  # DSSE of the manifest
    digest: bytes  # 32 bytes: names the job in approvals and release policy
    release_policy: bytes  # DSSE
    key: SealingKey
    code: bytes
    sealed_model: bytearray = field(repr=False)

    @property
    def job_id(self) -> str:
        """How everybody calls it."""
        return self.manifest.job


def compose(
    package: JobPackage,
    *,
    trust: TrustContext,
    server_node: str,
    submitter: Submitter,
    key: bytes,
    now: datetime,
    random: Random = os.urandom,
) -> ComposedJob:
    """Put a job together and sign it.

    Args:
        package: From `load_job`.
        trust: Roster and reference values of the federation.
        server_node: The node that runs the job.
        submitter: Signs manifest and release policy.
        key: 32 random bytes, used for no other job.
        now: When it is submitted.
        random: Cryptographic source of the sealed model's salt.

    Raises:
        JobRefusedError: The roster lacks a site, or the sites are too few to hide anyone.
        ParametersRefusedError: The sum would hide too little or overflow.
    """
    file = package.file
    sites = choose_sites(file, trust.roster)
    parameters = aggregation_parameters(file, package.layout, len(sites))
    min_sites = _min_sites(file, parameters, len(sites))
    job_id = f"{file.name}-{_distinction(package, parameters, submitter, now)}"
    sealing_key = SealingKey(id=job_id, secret=key)
    domain = trust.root.trust_domain
    sealed = seal_model(package.model, sealing_key, trust_domain=domain, job=job_id, round_number=0, random=random)
    manifest = JobManifest(
        job=job_id,
        trust_domain=domain,
        submitter=submitter.name,
        submitter_key=raw_public_key(submitter.signing_key),
        submitted_at=now,
        workflow=file.workflow,
        rounds=file.rounds,
        sites=sites,
        min_sites=min_sites,
        profile=file.profile,
        aggregation=parameters.model_dump(mode="json"),
        metrics=file.metrics,
        code=CodeReference(
            sha256=hashlib.sha256(package.code).digest(), size=len(package.code), script=file.script, args=file.args
        ),
        model=ModelReference(
            sealed_sha256=hashlib.sha256(sealed).digest(),
            sealed_size=len(sealed),
            key_id=job_id,
            layout=package.layout.model_dump(mode="json"),
            layout_sha256=package.layout.digest,
        ),
        config=file.config,
        round_timeout_seconds=file.round_timeout_seconds,
    )
    envelope = Envelope.sign(manifest, job_manifest.KIND, [submitter.signing_key])
    digest = job_digest(envelope.payload)
    policy = _release_policy(manifest, digest, trust=trust, server_node=server_node)
    return ComposedJob(
        manifest=manifest,
        envelope=_bounded(envelope.encode(), package.layout),
        digest=digest,
        release_policy=Envelope.sign(policy, release.KIND, [submitter.signing_key]).encode(),
        key=sealing_key,
        code=package.code,
        sealed_model=sealed,
    )


def choose_sites(file: JobFile, roster: Roster) -> tuple[str, ...]:
    """Return the job's sites in order: those it names, or all of the roster.

    Raises:
        JobRefusedError: One is not in the roster, or they and their organisations are too few to hide anyone.
    """
    known = roster.sites
    chosen = tuple(sorted(set(known if file.sites is None else file.sites)))
    if strangers := [site for site in chosen if site not in known]:
        raise JobRefusedError(
            f"not in roster version {roster.version}: {', '.join(strangers)}",
            hint=f"its sites are {', '.join(sorted(known))}",
        )
    if len(chosen) < SMALLEST_COHORT:
        raise JobRefusedError(
            f"the job has {len(chosen)} sites, expected at least {SMALLEST_COHORT}: a sum over fewer hides nobody",
            hint="name more sites in job.toml, or have them join the federation",
        )
    organisations = {known[site].organisation for site in chosen}
    if len(organisations) < FEWEST_ORGANISATIONS:
        raise JobRefusedError(
            f"the sites belong to {len(organisations)} organisations, expected at least {FEWEST_ORGANISATIONS}",
            hint="of two organisations, each could read the other out of a sum",
        )
    return chosen


def aggregation_parameters(file: JobFile, layout: Layout, sites: int) -> Parameters:
    """Return how updates of a model of this layout are summed over so many sites.

    Raises:
        JobRefusedError: The model has nothing that can be summed.
        ParametersRefusedError: They hide too little or overflow the ring.
    """
    if layout.vector_length == 0:
        raise JobRefusedError("the model has no float tensor", hint="only float tensors are summed over the sites")
    wanted = file.aggregation
    threshold = threshold_for(sites) if wanted.threshold is None else wanted.threshold
    segment = Segment(name=MODEL_SEGMENT, length=layout.vector_length, clip_micros=wanted.clip_micros, weight="samples")
    return Parameters(
        n_max=sites,
        ring_bits=wanted.ring_bits,
        threshold=threshold,
        min_survivors=threshold if wanted.min_survivors is None else wanted.min_survivors,
        min_organisations=FEWEST_ORGANISATIONS,
        weight_cap=wanted.weight_cap,
        segments=(segment,),
    )


def _min_sites(file: JobFile, parameters: Parameters, sites: int) -> int:
    found = sites if file.min_sites is None else file.min_sites
    least = max(parameters.threshold, parameters.min_survivors)
    if not least <= found <= sites:
        raise JobRefusedError(
            f"min_sites is {found}, expected {least} to {sites}: a round that {found} sites open could not be summed"
        )
    return found


def _distinction(package: JobPackage, parameters: Parameters, submitter: Submitter, now: datetime) -> str:
    """Return 8 hex digits that part this submission from others of the same name. They are no secret and prove nothing."""
    parts = (
        hashlib.sha256(package.code).digest(),
        package.layout.digest,
        parameters.digest(),
        raw_public_key(submitter.signing_key),
        lp(now.isoformat()),
    )
    return sha256("job-id", *parts).hex()[:8]


def _release_policy(manifest: JobManifest, digest: bytes, *, trust: TrustContext, server_node: str) -> ReleasePolicy:
    """Who may have the key: the server and the job's sites, each in an image that the organisations expect."""
    if (server := trust.roster.member(server_node)).role != "server":
        raise JobRefusedError(f"{server_node} is a {server.role} in the roster, expected a server")
    nodes = (server_node, *manifest.sites)
    return ReleasePolicy(
        key_id=manifest.model.key_id,
        job_sha256=digest,
        nodes={node: trust.roster.member(node).role for node in nodes},
        tiers=frozenset(trust.roster.member(node).tier for node in nodes),
        images=frozenset(entry.image for entry in trust.reference_values.entries),
        accepted_statuses=frozenset({"affirming", "warning"}),
        allow_mock=trust.root.mock,
        max_result_age_seconds=MAX_RESULT_AGE_SECONDS,
        min_approvals=manifest.min_sites,
        max_releases=RELEASES_PER_NODE * len(nodes),
    )


def _bounded(envelope: bytes, layout: Layout) -> bytes:
    if len(envelope) > MAX_DOCUMENT_BYTES:
        raise JobRefusedError(
            f"the manifest has {len(envelope)} bytes, at most {MAX_DOCUMENT_BYTES} are read",
            hint=f"the model has {len(layout.tensors)} tensors; join some, or shorten their names",
        )
    return envelope
