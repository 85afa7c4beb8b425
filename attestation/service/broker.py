"""The key broker: holds the keys of jobs and releases one only to a node that has just proved what it is.

The record of a release is durable before its reply leaves, and the key leaves sealed to the HPKE key that was in the evidence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from attestation.channel.caller import Administrator, AttestedPeer
from attestation.errors import AttestationError, ReleaseDeniedError, ReplayError
from attestation.release_context import deposit_info, release_info
from attestation.sealing import SealingKey, seal_to
from attestation.service.keyring import KEY_BYTES, Keyring
from attestation.service.register import Register, StoredKey
from attestation.trust import TrustContext
from policies import job_manifest, release
from policies.attestation_result import verify_result
from policies.audit.log import AuditLog
from policies.audit.record import Decision, Event, printable
from policies.decide import ReleaseRequest, decide_release
from policies.documents import Envelope
from policies.errors import CloisterError, DeniedError, PolicyError, UsageError
from policies.job_manifest import JobApproval, JobManifest, job_digest, open_job
from policies.release import ReleasePolicy

logger = logging.getLogger(__name__)

RELEASE_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedKey:
    """One request for the key of a job, as it came over an attested channel."""

    release_id: bytes  # 16 random bytes; the same id asks for the same reply
    attest_jti: str
    key_id: str
    job: bytes  # envelope of the manifest
    approvals: Sequence[bytes]  # envelopes
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedKey:
    """A key on its way to one node."""

    sealed: bytes  # HPKE to the node's attested key
    version: int
    policy_sha256: bytes  # 32 bytes, of the release policy that allowed it


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Takes keys into keeping and releases them. Synchronous: the edge calls it in a thread."""

    name: str
    trust: TrustContext
    keyring: Keyring
    sealing: SealingKey  # of this boot
    register: Register
    log: AuditLog
    clock: Callable[[], datetime]
    # One key goes in or out at a time: a limit on releases counts those that have been, and names are given out once.
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def deposit(self, caller: Administrator, *, key_id: str, sealed: bytes, policy: bytes, job: bytes) -> int:
        """Take the key of a job into keeping, with the policy of its release; returns the key's version.

        Raises:
            PolicyError: Manifest and policy are not both signed by the submitter, or speak of different jobs or keys.
            UsageError: A key of this name is there already.
            SignatureError: The key was not sealed to this boot of the service for this purpose.
        """
        job_envelope, policy_envelope = Envelope.parse(job), Envelope.parse(policy)
        manifest = open_job(job_envelope)
        opened = policy_envelope.open(ReleasePolicy, release.KIND, [manifest.submitter_key])
        digest = job_digest(job_envelope.payload)
        for what, found, expected in (
            ("key of the policy", opened.key_id, key_id),
            ("key of the model", manifest.model.key_id, key_id),
            ("job of the policy", opened.job_sha256.hex(), digest.hex()),
            ("submitter", manifest.submitter, caller.name),
            ("trust domain", manifest.trust_domain, self.trust.root.trust_domain),
        ):
            if found != expected:
                raise DeniedError(f"{what} is {found}, expected {expected}")
        key = self.sealing.open(sealed, info=deposit_info(manifest.trust_domain, key_id, digest))
        if len(key) != KEY_BYTES:
            raise UsageError(f"the key has {len(key)} bytes, expected {KEY_BYTES}")
        with self._turn:
            return self._deposit(key, key_id=key_id, policy=policy_envelope, job=job_envelope, manifest=manifest)

    def _deposit(self, key: bytes, *, key_id: str, policy: Envelope, job: Envelope, manifest: JobManifest) -> int:
        if self.register.key(key_id) is not None:
            raise UsageError(f"there is a key {key_id} already", hint="give the job another name")
        version = 1
        self.log.append_critical(
            Event(
                action="key.deposit",
                actor=self.name,
                object=key_id,
                via="DepositKey",
                job=manifest.job,
                decision="allow",
                digests={"job": job_digest(job.payload), "policy": policy.digest},
            )
        )
        wrapped = self.keyring.wrap(key, key_id=key_id, version=version)
        self.register.deposit(
            key_id, StoredKey(version=version, wrapped=wrapped, policy=policy.encode(), job=job.encode())
        )
        return version

    def release(self, caller: AttestedPeer, wanted: WantedKey) -> ReleasedKey:
        """Return the key, sealed to the caller's attested HPKE key.

        Raises:
            UsageError: The release id does not have 16 bytes.
            ReplayError: It was used for another release.
            ReleaseDeniedError: The policy does not allow it; every field that fails is listed and recorded.
        """
        if len(wanted.release_id) != RELEASE_ID_BYTES:
            raise UsageError(f"the release id has {len(wanted.release_id)} bytes, expected {RELEASE_ID_BYTES}")
        with self._turn:
            return self._released(caller, wanted)

    def _released(self, caller: AttestedPeer, wanted: WantedKey) -> ReleasedKey:
        stored = self.register.key(wanted.key_id)
        if stored is None:
            raise ReleaseDeniedError(f"there is no key {wanted.key_id}", hint="has the job been submitted to the end?")
        policy_sha256 = Envelope.parse(stored.policy).digest
        before = self.register.released(wanted.release_id)
        if before is not None:
            if (before.key_id, before.node, before.jti) != (wanted.key_id, caller.name, wanted.attest_jti):
                raise ReplayError("this release id was used for another release")
            return ReleasedKey(sealed=before.reply, version=stored.version, policy_sha256=policy_sha256)
        try:
            sealed = self._release(caller, wanted, stored)
        except CloisterError as error:
            self._record(caller, wanted, decision="deny", reasons=(printable(f"{error.code}: {error.message}")[:500],))
            raise
        return ReleasedKey(sealed=sealed, version=stored.version, policy_sha256=policy_sha256)

    def _release(self, caller: AttestedPeer, wanted: WantedKey, stored: StoredKey) -> bytes:
        result = verify_result(self.register.by_jti(wanted.attest_jti).result, self.trust.root.service.result_key)
        envelope = Envelope.parse(wanted.job)
        manifest = open_job(envelope)
        digest = job_digest(envelope.payload)
        policy_envelope = Envelope.parse(stored.policy)
        policy = policy_envelope.open(ReleasePolicy, release.KIND, [manifest.submitter_key])
        request = ReleaseRequest(
            key_id=wanted.key_id,
            job_sha256=digest,
            approvals=len(self._approving_sites(wanted.approvals, manifest, digest)),
            releases=self.register.releases_of(wanted.key_id),
            requester_tls_spki=caller.tls_spki,
            repeated=False,
        )
        decision = decide_release(policy, result, request, now=self.clock(), revocation_epoch=0)
        if not decision.allowed:
            raise ReleaseDeniedError(
                f"{caller.name} may not have the key {wanted.key_id}: {'; '.join(decision.reasons)}",
                hint="the release policy was signed by the job's submitter; attest again if only the age is wrong",
            )
        self._record(
            caller,
            wanted,
            decision="allow",
            job=manifest.job,
            digests={"job": digest, "policy": policy_envelope.digest},
        )
        key = self.keyring.unwrap(stored.wrapped, key_id=wanted.key_id, version=stored.version)
        info = release_info(
            result,
            key_id=wanted.key_id,
            version=stored.version,
            job_sha256=digest,
            policy_sha256=policy_envelope.digest,
            release_id=wanted.release_id,
        )
        reply = seal_to(result.cnf.hpke_pk, key, info=info)
        self.register.record_release(
            wanted.release_id, key_id=wanted.key_id, node=caller.name, jti=wanted.attest_jti, reply=reply
        )
        self.log.checkpoint()  # witnesses see the release before its receiver does
        return reply

    def _approving_sites(self, approvals: Sequence[bytes], manifest: JobManifest, digest: bytes) -> frozenset[str]:
        """The sites of the job whose approval of this very manifest verifies under the key they attested with."""
        if len(approvals) > len(manifest.sites):
            raise ReleaseDeniedError(f"{len(approvals)} approvals came for a job of {len(manifest.sites)} sites")
        sites = set()
        for raw in approvals:
            try:
                sites.add(self._approving_site(raw, manifest, digest))
            except (PolicyError, AttestationError) as error:  # of an earlier boot, say: it counts for nothing
                logger.info("approval does not count", extra={"job": manifest.job, "reason": error.message})
        return frozenset(sites)

    def _approving_site(self, raw: bytes, manifest: JobManifest, digest: bytes) -> str:
        envelope = Envelope.parse(raw)
        claimed = JobApproval.parse(envelope.payload)  # unverified: read only to learn whose key must have signed it
        result = verify_result(self.register.latest_of(claimed.site).result, self.trust.root.service.result_key)
        approval = envelope.open(JobApproval, job_manifest.APPROVAL_KIND, [result.cnf.sign_pk])
        if approval.job_sha256 != digest or approval.site not in manifest.sites or approval.boot != result.boot:
            raise DeniedError(f"the approval of {approval.site} is for another job, or of another boot")
        return approval.site

    def _record(
        self,
        caller: AttestedPeer,
        wanted: WantedKey,
        *,
        decision: Decision,
        job: str | None = None,
        reasons: tuple[str, ...] = (),
        digests: dict[str, bytes] | None = None,
    ) -> None:
        self.log.append_critical(
            Event(
                action="key.release",
                actor=self.name,
                object=printable(f"{wanted.key_id} to {caller.name}"),
                via="ReleaseKey",
                job=job,
                decision=decision,
                reasons=reasons,
                digests=digests or {},
                jti=printable(wanted.attest_jti),
                request=wanted.release_id.hex(),
            )
        )
