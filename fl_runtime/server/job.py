"""One job, from its submission to its end: approvals, key, rounds, release.

1. offered to its sites; each approves or refuses by its own policy
2. with enough approvals the server attests, and is released the job's key
3. the sites are told; each gets the key for itself and says when it is ready
4. the workflow runs: each `reduce` is a round, each round at most three attempts at a secure sum
5. the final model is sealed, recorded and released to the submitter
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from attestation.retry import persistently
from fl_runtime.arrays import ModelArrays, decode
from fl_runtime.errors import JobFailedError
from fl_runtime.jobs.model_blob import open_model
from fl_runtime.jobs.terms import terms_of
from fl_runtime.server.attempt import STEP_SECONDS, Attempt
from fl_runtime.server.bell import Bell
from fl_runtime.server.events import Events
from fl_runtime.server.muster import Muster
from fl_runtime.server.rounds import Rounds
from fl_runtime.server.sites import SiteLink
from fl_runtime.server.surroundings import Surroundings, reasons
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.sealed import SealingKey
from fl_runtime.workflows.fedavg import fedavg
from policies.documents import Envelope
from policies.errors import CloisterError
from policies.job_manifest import JobManifest, job_digest

logger = logging.getLogger(__name__)

WORKFLOWS = {"fedavg": fedavg}


@dataclass(eq=False)
class Job:
    """Conducts one job; the edge hands answers to it."""

    around: Surroundings
    envelope: Envelope
    manifest: JobManifest
    code: bytes  # name of the blob
    initial: bytes  # name of the blob
    events: Events = field(default_factory=Events)
    state: str = "submitted"
    reason: str = ""
    _bell: Bell = field(default_factory=Bell)
    _rounds: Rounds | None = None  # once the key is here
    _aborted: str | None = None

    def __post_init__(self) -> None:
        self.terms = terms_of(self.manifest)
        self.muster = Muster(sites=self.around.sites, manifest=self.manifest, digest=job_digest(self.envelope.payload))

    @property
    def job_id(self) -> str:
        """The job's name, as all of the federation call it."""
        return self.manifest.job

    # --- what others tell it ---

    def joined(self, link: SiteLink) -> None:
        """A site's new boot is here: offer the job to it."""
        if link.site in self.manifest.sites and self.state in {"offered", "running", "parked"}:
            self._offer(link)
        self._bell.ring()

    def answer(self, link: SiteLink, answer: pb.SiteAnswer) -> None:
        """Take an approval, a refusal, a ready or a failure outside of rounds, or hand it to the open attempt.

        Raises:
            CloisterError: It is not what is asked for; the site is told.
        """
        match answer.WhichOneof("what"):
            case "approval":
                self.muster.approve(link, answer.approval)
                if self._rounds is not None:  # the job runs already: this site has returned
                    self._start(link)
            case "refusal":
                self.muster.refuse(link, tuple(answer.refusal.reasons))
            case "ready":
                self.muster.make_ready(link)
            case "failure" if answer.failure.phase == "prepare":
                self.muster.refuse(link, (answer.failure.message,))
            case _:
                self.attempt(answer.round, answer.attempt).answer(link.site, answer)
        self._bell.ring()

    def attempt(self, number: int, attempt: int) -> Attempt:
        """The open attempt, which must be the one that a site speaks of.

        Raises:
            JobFailedError: It is another, or there is none.
        """
        open_one = self._rounds.attempt if self._rounds is not None else None
        if open_one is None or (open_one.context.round, open_one.context.attempt) != (number, attempt):
            raise JobFailedError(f"round {number} attempt {attempt} of {self.job_id} is not open")
        return open_one

    def serves(self, blob: bytes) -> bool:
        """Whether a blob is part of this job: its code, or the model of the open round."""
        offered = self._rounds.offered if self._rounds is not None else None
        return blob == self.code or (offered is not None and blob == offered.blob)

    def ring(self) -> None:
        """Look again: something outside has changed."""
        self._bell.ring()
        if self._rounds is not None and self._rounds.attempt is not None:
            self._rounds.attempt.ring()

    def abort(self, reason: str) -> None:
        """End the job at the next opportunity."""
        self._aborted = reason
        self._bell.ring()
        if self._rounds is not None and self._rounds.attempt is not None:
            self._rounds.attempt.abort(reason)

    # --- its life ---

    async def run(self) -> None:
        """Conduct the job to its end, whatever that is; nothing is raised, the state says how it ended."""
        try:
            with self.around.sites.rings(self._bell):
                await self._run()
        except CloisterError as error:
            await self._end("aborted" if self._aborted else "failed", error.message, code=error.code, hint=error.hint)
        except Exception as error:  # the edge of a job: whoever follows it is told, other jobs go on
            logger.critical("job ended by an error of the server itself", extra={"job": self.job_id}, exc_info=error)
            await self._end("failed", f"the server failed: {type(error).__name__}: {error}", code="server")
        finally:
            self._rounds = None  # and with it the key

    async def _run(self) -> None:
        await self._gather_approvals()  # 1
        key = await self._fetch_key()  # 2
        rounds = self._rounds = self._prepare_rounds(key)
        await self._start_sites()  # 3
        model = await asyncio.to_thread(self._open_initial, key)
        await self._enter("running")
        await asyncio.to_thread(WORKFLOWS[self.manifest.workflow], rounds, model, rounds=self.manifest.rounds)  # 4
        await self._release_model(rounds)  # 5

    async def _enter(self, state: str, reason: str = "", *, text: str = "") -> None:
        before, self.state, self.reason = self.state, state, reason
        await self.around.record(
            self.job_id, action="job.state", object=self.job_id, previous=before, next=state, reasons=reasons(reason)
        )
        await asyncio.to_thread(self.around.register.set_state, self.job_id, state, reason)
        await self.events.add(pb.JobEvent(kind="state", state=state, text=text or reason))

    async def _end(self, state: str, reason: str = "", *, code: str = "", hint: str | None = None) -> None:
        if state != "completed":
            await self.events.add(pb.JobEvent(kind="failure", text=reason, code=code, hint=hint or ""))
        before, self.state, self.reason = self.state, state, reason
        await self.around.record(
            self.job_id, action="job.state", object=self.job_id, previous=before, next=state, reasons=reasons(reason)
        )
        await asyncio.to_thread(self.around.register.set_state, self.job_id, state, reason)
        end = pb.Instruction(end=pb.JobEnd(job_id=self.job_id, state=state, reason=reason))
        for link in self.around.sites.present(self.manifest.sites):
            link.send(end)
        await self.events.add(pb.JobEvent(kind="state", state=state, text=reason), last=True)

    # --- 1 approvals ---

    async def _gather_approvals(self) -> None:
        await self._enter("offered")
        for link in self.around.sites.present(self.manifest.sites):
            self._offer(link)

        def approved() -> tuple[SiteLink, ...]:
            self.muster.require_possible()
            return self.muster.approving()

        await self._wait_for(approved, what="to approve the job", all_connected=True)

    def _offer(self, link: SiteLink) -> None:
        link.send(pb.Instruction(offer=pb.JobOffer(job_id=self.job_id, manifest=self.envelope.encode())))

    def _raise_if_aborted(self) -> None:
        if self._aborted:
            raise JobFailedError(self._aborted)

    # --- 2 key ---

    async def _fetch_key(self) -> SealingKey:
        node, manifest = self.around.node, self.manifest

        async def fetch() -> bytes:
            self._raise_if_aborted()
            return await node.enrolment.fetch_key(
                await self.around.greeter.attest_for_release(),
                key_id=manifest.model.key_id,
                job=self.envelope,
                approvals=self.muster.approvals,
                purpose="aggregate",
            )

        secret = await persistently(fetch, what=f"the release of {self.job_id}'s key", say=logger.warning)
        await self.events.add(pb.JobEvent(kind="key", text=node.name, sites=[node.name]))
        return SealingKey(id=manifest.model.key_id, secret=secret)

    def _prepare_rounds(self, key: SealingKey) -> Rounds:
        return Rounds(
            around=self.around,
            manifest=self.manifest,
            key=key,
            terms=self.terms,
            events=self.events,
            cohort=self._cohort,
            ready=self.muster.ready,
            loop=asyncio.get_running_loop(),
        )

    def _open_initial(self, key: SealingKey) -> ModelArrays:
        sealed = self.around.blobs.read(self.initial)
        encoded = open_model(sealed, key, trust_domain=self.manifest.trust_domain, job=self.job_id, round_number=0)
        return decode(encoded, self.terms.layout)

    # --- 3 sites ---

    async def _start_sites(self) -> None:
        for link in self.muster.approving():
            self._start(link)

        def ready() -> tuple[SiteLink, ...]:
            self.muster.require_possible()
            return self.muster.ready()

        for link in await self._wait_for(ready, what="to be ready", all_connected=True):
            await self.events.add(pb.JobEvent(kind="key", text=link.site, sites=[link.site]))

    def _start(self, link: SiteLink) -> None:
        link.send(pb.Instruction(start=pb.JobStart(job_id=self.job_id, approvals=self.muster.approvals)))

    async def _wait_for(
        self, here: Callable[[], tuple[SiteLink, ...]], *, what: str, all_connected: bool = False
    ) -> tuple[SiteLink, ...]:
        """Wait until enough sites are `here`, as long as it takes, and return them; after a moment, say who is missing.

        With `all_connected`, those that are connected and have not refused are worth that moment too: a job that could do
        without one of them would otherwise begin without whoever answers last.

        Raises:
            JobFailedError: The job was aborted.
        """

        def enough() -> bool:
            self._raise_if_aborted()
            return len(here()) >= self.manifest.min_sites

        def all_here() -> bool:
            return enough() and (not all_connected or set(self.muster.asked()) <= set(here()))

        if await self._bell.until(all_here, deadline=time.monotonic() + self.around.park_after_seconds) or enough():
            return here()
        before = self.state
        missing = self.muster.missing(here())
        text = f"waiting for {', '.join(missing)} {what}: {len(here())} of at least {self.manifest.min_sites} sites are here"
        await self._enter("parked", text)
        await self.events.add(pb.JobEvent(kind="waiting", text=text, sites=missing))
        await self._bell.until(enough, deadline=None)
        await self._enter(before, text=f"{', '.join(missing)} returned")
        return here()

    # --- 4 rounds ---

    async def _cohort(self) -> tuple[SiteLink, ...]:
        """The sites that open the next attempt: all that are ready and here, and no fewer than the job asks for."""
        return await self._wait_for(self.muster.ready, what="to return")

    # --- 5 release ---

    async def _release_model(self, rounds: Rounds) -> None:
        newest = rounds.newest
        if newest is None:
            raise JobFailedError(
                "every round of the job was lost, so there is no model",
                hint="see the record for why each was abandoned",
            )
        await self.around.watched.publish()
        deadline = time.monotonic() + STEP_SECONDS
        if not await self._bell.until(lambda: rounds.is_witnessed(self.manifest.sites), deadline=deadline):
            raise JobFailedError(
                "fewer than half of the sites have cosigned the server's log: the model is not released"
            )
        await self.around.record(
            self.job_id,
            action="model.release",
            object=self.manifest.submitter,
            round=newest.round - 1,
            decision="allow",
            digests={"blob": newest.blob},
        )
        await self._end("completed", "")
