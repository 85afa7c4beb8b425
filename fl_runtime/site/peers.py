"""The other sites of a cohort, each verified by this one: a server cannot invent them, nor can the attestation service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from attestation.admission import AdmittedNode, admit
from attestation.errors import BindingMismatchError
from attestation.node import Node
from fl_runtime.secure_aggregation.cohort import Cohort, Member
from fl_runtime.secure_aggregation.errors import PeerRefusedError
from fl_runtime.transport import federation_pb2 as pb
from policies.audit.record import Event, printable
from policies.errors import CloisterError
from policies.job_manifest import JobManifest
from policies.site_policy import SitePolicy


class Peers:
    """Admits cohort members; each boot is verified once."""

    def __init__(self, node: Node, policy: SitePolicy) -> None:
        """Verify for `node` under `policy`."""
        self._node = node
        self._policy = policy
        self._admitted: dict[tuple[str, bytes], AdmittedNode] = {}  # (site, boot)

    async def cohort(self, members: Iterable[pb.CohortMember], manifest: JobManifest) -> Cohort:
        """Return the cohort of a round, every member of it verified here.

        Raises:
            PeerRefusedError: A member is not in the job, or did not prove what it is; names it.
        """
        found = await asyncio.gather(*(self._member(member, manifest) for member in members))
        return Cohort.of(found)

    async def _member(self, member: pb.CohortMember, manifest: JobManifest) -> Member:
        if member.site not in manifest.sites:
            raise PeerRefusedError(f"{member.site!r:.80} is not a site of {manifest.job}", sites=(member.site,))
        if member.site == self._node.name:
            result = self._node.identity.result
            if member.boot != result.boot:
                raise PeerRefusedError(
                    f"{member.site} is in the cohort with another boot than this one", sites=(member.site,)
                )
            return Member(
                site=result.node, organisation=result.organisation, sign_pk=self._node.keys.sign_pk, boot=result.boot
            )
        admitted = self._admitted.get((member.site, member.boot)) or await self._admit(member)
        core = admitted.claims.core
        return Member(site=core.node, organisation=admitted.organisation, sign_pk=core.sign_pk, boot=core.boot)

    async def _admit(self, member: pb.CohortMember) -> AdmittedNode:
        try:
            shown = await self._node.enrolment.fetch_attestation(self._node.identity, node=member.site, jti=member.jti)
            admitted = admit(
                shown,
                node=member.site,
                role="site",
                trust=self._node.documents.trust,
                accept_mock=self._policy.receive.accept_mock,
                now=self._node.clock(),
            )
            if admitted.claims.core.boot != member.boot:
                raise BindingMismatchError(f"the evidence of {member.site} is of another boot than the cohort's")
            if admitted.result.tier not in self._policy.receive.peer_tiers:
                raise BindingMismatchError(
                    f"{member.site} is of tier {admitted.result.tier}, which this site does not accept"
                )
        except CloisterError as error:
            await self._record(member.site, None, error)
            raise PeerRefusedError(
                f"{member.site} is not accepted as a peer: {error.message}", sites=(member.site,)
            ) from error
        self._admitted[member.site, member.boot] = admitted
        await self._record(member.site, admitted, None)
        return admitted

    async def _record(self, site: str, admitted: AdmittedNode | None, error: CloisterError | None) -> None:
        event = Event(
            action="peer.appraise",
            actor=self._node.name,
            object=printable(site)[:64] or "unnamed",
            decision="allow" if error is None else "deny",
            reasons=() if error is None else (printable(f"{error.code}: {error.message}")[:500],),
            digests={} if admitted is None else {"evidence": admitted.claims.evidence_sha256},
            jti=None if admitted is None else admitted.result.jti,
        )
        await asyncio.to_thread(self._node.log.append, event)
