"""Who of a job's sites has approved it, has refused it, and is ready to train: each for the boot that said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fl_runtime.errors import JobRefusedError
from fl_runtime.server.sites import SiteLink, Sites
from policies.documents import Envelope
from policies.job_manifest import APPROVAL_KIND, JobApproval, JobManifest


@dataclass(eq=False, kw_only=True)
class Muster:
    """What the sites of one job have said. A site that returns with a new boot says it anew."""

    sites: Sites
    manifest: JobManifest
    digest: bytes  # 32 bytes: what an approval is of
    _approvals: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # site -> (boot, envelope)
    _refusals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _ready: dict[str, bytes] = field(default_factory=dict)  # site -> boot

    # --- what they say ---

    def approve(self, link: SiteLink, raw: bytes) -> None:
        """Take a site's signed approval.

        Raises:
            PolicyError: It is not signed with the key of the site's boot.
            JobRefusedError: It is for another job, site or boot.
        """
        envelope = Envelope.parse(raw)
        approval = envelope.open(JobApproval, APPROVAL_KIND, [link.result.cnf.sign_pk])
        if (approval.site, approval.boot, approval.job_sha256) != (link.site, link.boot, self.digest):
            raise JobRefusedError(f"the approval of {link.site} is for another job, site or boot")
        self._approvals[link.site] = (link.boot, raw)
        self._refusals.pop(link.site, None)

    def refuse(self, link: SiteLink, reasons: tuple[str, ...]) -> None:
        """Note that a site does not take part, or cannot."""
        self._ready.pop(link.site, None)
        self._refusals[link.site] = reasons

    def make_ready(self, link: SiteLink) -> None:
        """Note that a site has the key, the code and a trainer."""
        self._ready[link.site] = link.boot

    # --- who that leaves ---

    @property
    def approvals(self) -> list[bytes]:
        """The envelopes of all approvals."""
        return [raw for _, raw in self._approvals.values()]

    def approving(self) -> tuple[SiteLink, ...]:
        """The connected sites that have approved."""
        return self._present({site: boot for site, (boot, _) in self._approvals.items()})

    def ready(self) -> tuple[SiteLink, ...]:
        """The connected sites that are ready."""
        return self._present(self._ready)

    def asked(self) -> tuple[SiteLink, ...]:
        """The connected sites that have not refused."""
        return self.sites.present(set(self.manifest.sites) - self._refusals.keys())

    def missing(self, here: tuple[SiteLink, ...]) -> list[str]:
        """The sites that have not refused and are not `here`."""
        return sorted(set(self.manifest.sites) - {link.site for link in here} - self._refusals.keys())

    def require_possible(self) -> None:
        """Raise `JobRefusedError`, with every site's reasons, once too many sites have refused."""
        possible = len(self.manifest.sites) - len(self._refusals)
        if possible < self.manifest.min_sites:
            said = "; ".join(f"{site}: {', '.join(why)}" for site, why in sorted(self._refusals.items()))
            raise JobRefusedError(
                f"{possible} sites are left, {self.manifest.min_sites} are needed; refused by {said}",
                hint="change the job so that the sites' policies allow it, or ask their organisations",
            )

    def _present(self, boots: Mapping[str, bytes]) -> tuple[SiteLink, ...]:
        """The connected links of those sites whose boot is the one that spoke."""
        return tuple(link for link in self.sites.present(boots) if boots[link.site] == link.boot)
