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
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attestation.errors import AttestationError
from attestation.node import Node
from attestation.retry import persistently
from attestation.witnessing import Watched, witness_name
from fl_runtime.arrays import Layout, ModelArrays, decode, encode, flatten, unflatten
from fl_runtime.errors import JobFailedError, JobRefusedError
from fl_runtime.federation import Total, Train
from fl_runtime.jobs.model_blob import open_model, seal_model
from fl_runtime.secure_aggregation.cohort import Cohort, Member
from fl_runtime.secure_aggregation.context import MAX_ATTEMPTS, RoundContext
from fl_runtime.secure_aggregation.encoding import decode as decode_sum
from fl_runtime.secure_aggregation.errors import AggregationError
from fl_runtime.secure_aggregation.parameters import Parameters
from fl_runtime.secure_aggregation.ring import new_vector_digest
from fl_runtime.secure_aggregation.stages import Sum
from fl_runtime.server.attempt import STEP_SECONDS, Attempt
from fl_runtime.server.bell import Bell
from fl_runtime.server.blobs import Blobs
from fl_runtime.server.events import Events
from fl_runtime.server.greeter import Greeter
from fl_runtime.server.register import JobRegister
from fl_runtime.server.sites import SiteLink, Sites
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.model_hash import model_hash
from fl_runtime.transport.sealed import SealingKey
from fl_runtime.transport.spool import Spool, SpooledSum
from fl_runtime.workflows.fedavg import fedavg
from policies.audit.record import Event, printable
from policies.documents import Envelope
from policies.errors import CloisterError
from policies.job_manifest import APPROVAL_KIND, JobApproval, JobManifest, job_digest

logger = logging.getLogger(__name__)

MAX_ABANDONED_ROUNDS = 3  # in a row; then the job fails
SEGMENT = "model"  # the one segment of a vector that averaging has
WORKFLOWS = {"fedavg": fedavg}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every job of one server shares."""

    node: Node
    greeter: Greeter
    sites: Sites
    watched: Watched
    register: JobRegister
    blobs: Blobs
    scratch: Path
    park_after_seconds: float  # a job waits so long for sites before it says for whom


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model that a round begins with, sealed and durable."""

    digest: bytes  # `model_hash`, 32 bytes
    round: int  # that begins with it, from 0
    blob: bytes  # its name, 32 bytes
    size: int  # of the blob


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
    rounds_done: int = 0
    _bell: Bell = field(default_factory=Bell)
    _approvals: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # site -> (boot, envelope)
    _refusals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _ready: dict[str, bytes] = field(default_factory=dict)  # site -> boot
    _attempt: Attempt | None = None
    _unmask_asked: bool = False  # in the open attempt
    _abandoned_rounds: int = 0  # in a row
    _offered: StoredModel | None = None  # what sites train on
    _newest: StoredModel | None = None  # what the last round has made
    _key: SealingKey | None = None
    _aborted: str | None = None
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _scratch_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _cosign_sizes: list[int] = field(default_factory=list)  # of the log when each round opened

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.parameters = Parameters.parse(self.manifest.aggregation_parameters())
        self.layout = Layout.parse(self.manifest.model_layout())

    @property
    def job_id(self) -> str:
        """The job's name, as all of the federation call it."""
        return self.manifest.job

    @property
    def digest(self) -> bytes:
        """What the sites approve, 32 bytes."""
        return job_digest(self.envelope.payload)

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
        what = answer.WhichOneof("what")
        if what == "approval":
            self._take_approval(link, answer.approval)
        elif what == "refusal":
            self._refusals[link.site] = tuple(answer.refusal.reasons)
        elif what == "ready":
            self._ready[link.site] = link.boot
        elif what == "failure" and answer.failure.phase == "prepare":
            self._ready.pop(link.site, None)
            self._refusals[link.site] = (answer.failure.message,)
        else:
            self.attempt(answer.round, answer.attempt).answer(link.site, answer)
        self._bell.ring()

    def attempt(self, number: int, attempt: int) -> Attempt:
        """The open attempt, which must be the one that a site speaks of.

        Raises:
            JobFailedError: It is another, or there is none.
        """
        open_one = self._attempt
        if open_one is None or (open_one.context.round, open_one.context.attempt) != (number, attempt):
            raise JobFailedError(f"round {number} attempt {attempt} of {self.job_id} is not open")
        return open_one

    def serves(self, blob: bytes) -> bool:
        """Whether a blob is part of this job: its code, or the model of the open round."""
        return blob == self.code or (self._offered is not None and blob == self._offered.blob)

    def ring(self) -> None:
        """Look again: something outside has changed."""
        self._bell.ring()
        if self._attempt is not None:
            self._attempt.ring()

    def abort(self, reason: str) -> None:
        """End the job at the next opportunity."""
        self._aborted = reason
        self._bell.ring()
        if self._attempt is not None:
            self._attempt.abort(reason)

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
            self._key = None

    async def _run(self) -> None:
        await self._gather_approvals()  # 1
        key = self._key = await self._fetch_key()  # 2
        await self._start_sites()  # 3
        model = decode(self._open(await asyncio.to_thread(self.around.blobs.read, self.initial), key, 0), self.layout)
        await self._enter("running")
        workflow = WORKFLOWS[self.manifest.workflow]
        await asyncio.to_thread(workflow, self, model, rounds=self.manifest.rounds)  # 4
        await self._release_model()  # 5

    async def _enter(self, state: str, reason: str = "", *, text: str = "") -> None:
        before, self.state, self.reason = self.state, state, reason
        await self._record(
            action="job.state", object=self.job_id, previous=before, next=state, reasons=_reasons(reason)
        )
        await asyncio.to_thread(self.around.register.set_state, self.job_id, state, reason)
        await self.events.add(pb.JobEvent(kind="state", state=state, text=text or reason))

    async def _end(self, state: str, reason: str = "", *, code: str = "", hint: str | None = None) -> None:
        if state != "completed":
            await self.events.add(pb.JobEvent(kind="failure", text=reason, code=code, hint=hint or ""))
        before, self.state, self.reason = self.state, state, reason
        await self._record(
            action="job.state", object=self.job_id, previous=before, next=state, reasons=_reasons(reason)
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
            self._raise_if_refused()
            return self._present(self._approvals_by_boot())

        await self._wait_for(approved, what="to approve the job", all_connected=True)

    def _offer(self, link: SiteLink) -> None:
        link.send(pb.Instruction(offer=pb.JobOffer(job_id=self.job_id, manifest=self.envelope.encode())))

    def _take_approval(self, link: SiteLink, raw: bytes) -> None:
        envelope = Envelope.parse(raw)
        approval = envelope.open(JobApproval, APPROVAL_KIND, [link.result.cnf.sign_pk])
        if (approval.site, approval.boot, approval.job_sha256) != (link.site, link.boot, self.digest):
            raise JobRefusedError(f"the approval of {link.site} is for another job, site or boot")
        self._approvals[link.site] = (link.boot, raw)
        self._refusals.pop(link.site, None)
        if self._key is not None:  # the job runs already: this site has returned
            self._start(link)

    def _approvals_by_boot(self) -> Mapping[str, bytes]:
        return {site: boot for site, (boot, _) in self._approvals.items()}

    def _raise_if_refused(self) -> None:
        possible = len(self.manifest.sites) - len(self._refusals)
        if possible < self.manifest.min_sites:
            reasons = "; ".join(f"{site}: {', '.join(why)}" for site, why in sorted(self._refusals.items()))
            raise JobRefusedError(
                f"{possible} sites are left, {self.manifest.min_sites} are needed; refused by {reasons}",
                hint="change the job so that the sites' policies allow it, or ask their organisations",
            )

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
                approvals=[raw for _, raw in self._approvals.values()],
                purpose="aggregate",
            )

        secret = await persistently(fetch, what=f"the release of {self.job_id}'s key", say=logger.warning)
        await self.events.add(pb.JobEvent(kind="key", text=node.name, sites=[node.name]))
        return SealingKey(id=manifest.model.key_id, secret=secret)

    def _open(self, blob: bytes, key: SealingKey, round_number: int) -> memoryview:
        return open_model(
            blob, key, trust_domain=self.manifest.trust_domain, job=self.job_id, round_number=round_number
        )

    # --- 3 sites ---

    async def _start_sites(self) -> None:
        for link in self._present(self._approvals_by_boot()):
            self._start(link)

        def ready() -> tuple[SiteLink, ...]:
            self._raise_if_refused()
            return self._present(self._ready)

        for link in await self._wait_for(ready, what="to be ready", all_connected=True):
            await self.events.add(pb.JobEvent(kind="key", text=link.site, sites=[link.site]))

    def _start(self, link: SiteLink) -> None:
        approvals = [raw for _, raw in self._approvals.values()]
        link.send(pb.Instruction(start=pb.JobStart(job_id=self.job_id, approvals=approvals)))

    def _present(self, boots: Mapping[str, bytes]) -> tuple[SiteLink, ...]:
        """The connected links of those sites whose boot is the one that answered."""
        return tuple(link for link in self.around.sites.present(boots) if boots[link.site] == link.boot)

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
            asked = self.around.sites.present(set(self.manifest.sites) - set(self._refusals))
            return enough() and (not all_connected or set(asked) <= set(here()))

        if await self._bell.until(all_here, deadline=time.monotonic() + self.around.park_after_seconds) or enough():
            return here()
        before = self.state
        missing = sorted(set(self.manifest.sites) - {link.site for link in here()} - set(self._refusals))
        text = f"waiting for {', '.join(missing)} {what}: {len(here())} of at least {self.manifest.min_sites} sites are here"
        await self._enter("parked", text)
        await self.events.add(pb.JobEvent(kind="waiting", text=text, sites=missing))
        await self._bell.until(enough, deadline=None)
        await self._enter(before, text=f"{', '.join(missing)} returned")
        return here()

    # --- 4 rounds ---

    def reduce(self, task: Train) -> Total:
        """One round; called by the workflow, in its thread."""
        return asyncio.run_coroutine_threadsafe(self._round(task), self._loop).result()

    async def _round(self, task: Train) -> Total:
        started = time.monotonic()
        offered = self._offered = await asyncio.to_thread(self._store, task.model, task.round)
        for number in range(1, MAX_ATTEMPTS + 1):
            try:
                attempt, total = await self._try(task, number, offered)
            except AggregationError as error:
                await self._abandon(task, number, error)
                if self._unmask_asked:  # sites answer for one set of survivors a round: no further attempt can succeed
                    break
                continue
            self._abandoned_rounds = 0
            return await self._commit(task, attempt, total, offered, started=started)
        return await self._leave_model(task, offered)

    async def _leave_model(self, task: Train, offered: StoredModel) -> Total:
        """The round is lost: the model stays as it was, and the next round trains again.

        Raises:
            JobFailedError: Too many rounds in a row were lost.
        """
        self._abandoned_rounds += 1
        if self._abandoned_rounds == MAX_ABANDONED_ROUNDS:
            raise JobFailedError(
                f"{MAX_ABANDONED_ROUNDS} rounds in a row were abandoned, round {task.round + 1} the last of them",
                hint="see the record for why; submit the job again when all sites are well",
            )
        if self._newest is not None:
            await self._keep(await asyncio.to_thread(self._store, task.model, task.round + 1), offered)
        text = f"round {task.round + 1} was lost: the model stays as it was, the next round trains again"
        await self.events.add(pb.JobEvent(kind="waiting", text=text))
        return Total(model=task.model, sample_count=0.0, survivors=(), clipped=0, metrics={})

    async def _keep(self, newest: StoredModel, before: StoredModel) -> None:
        """Take `newest` as what the rounds so far have led to; the model before it is let go."""
        self.rounds_done, self._newest = newest.round, newest
        await asyncio.to_thread(
            self.around.register.commit_round, self.job_id, rounds_done=newest.round, model=newest.blob
        )
        await asyncio.to_thread(self.around.blobs.discard, before.blob)

    def _store(self, model: ModelArrays, round_number: int) -> StoredModel:
        """Seal the model that a round begins with, durably; the one that the round before has stored is used again."""
        encoded = encode(model, self.layout)
        digest = model_hash(self.layout, encoded)
        newest = self._newest
        if newest is not None and (newest.digest, newest.round) == (digest, round_number):
            return newest
        sealed = seal_model(
            encoded,
            self._required_key(),
            trust_domain=self.manifest.trust_domain,
            job=self.job_id,
            round_number=round_number,
        )
        return StoredModel(digest=digest, round=round_number, blob=self.around.blobs.put(sealed), size=len(sealed))

    async def _try(self, task: Train, number: int, offered: StoredModel) -> tuple[Attempt, Sum]:
        links = await self._cohort()
        cohort = Cohort.of(
            Member(
                site=link.site, organisation=link.result.organisation, sign_pk=link.result.cnf.sign_pk, boot=link.boot
            )
            for link in links
        )
        context = RoundContext.of(
            job=self.job_id,
            round_number=task.round,
            attempt=number,
            model_hash=offered.digest,
            cohort=cohort,
            parameters=self.parameters,
        )
        word = np.uint32 if self.parameters.ring_bits == 32 else np.uint64
        spool = Spool(
            self.around.scratch,
            key=self._scratch_key,
            word=word,
            length=self.parameters.words,
            new_digest=new_vector_digest,
        )
        self._unmask_asked = False
        attempt = self._attempt = Attempt(
            context=context,
            cohort=cohort,
            parameters=self.parameters,
            links={link.site: link for link in links},
            sites=self.around.sites,
            spool=spool,
            upload_seconds=float(self.manifest.round_timeout_seconds),
        )
        await self._record(
            action="round.open",
            object=", ".join(cohort.names),
            round=task.round,
            digests={"model": offered.digest, "cohort": cohort.digest(), "params": self.parameters.digest()},
        )
        self._cosign_sizes.append(await self.around.watched.publish())
        members = [pb.CohortMember(site=link.site, boot=link.boot, jti=link.result.jti) for link in links]
        for link in links:
            opening = pb.RoundOpen(
                job_id=self.job_id,
                round=task.round,
                attempt=number,
                model_blob=offered.blob,
                model_blob_size=offered.size,
                cohort=members,
            )
            link.send(pb.Instruction(round_open=opening))
        try:
            total = await attempt.conduct(
                before_unmask=lambda masked, survivors: self._before_unmask(attempt, masked, survivors),
                may_unmask=lambda: self._is_witnessed(cohort.names),
            )
        finally:
            self._attempt = None
        return attempt, total

    async def _cohort(self) -> tuple[SiteLink, ...]:
        """The sites that open the next attempt: all that are ready and here, and no fewer than the job asks for."""
        return await self._wait_for(lambda: self._present(self._ready), what="to return")

    def _is_witnessed(self, sites: Sequence[str]) -> bool:
        """Whether more than half of these sites have cosigned the log as it stood at most two rounds ago."""
        recent = self._cosign_sizes[-2:][0]
        cosigned, domain = self.around.watched.cosigned, self.manifest.trust_domain
        witnesses = (witness_name(domain, site) for site in sites)
        return sum(1 for witness in witnesses if cosigned.get(witness, 0) >= recent) > len(sites) // 2

    def _before_unmask(self, attempt: Attempt, masked: SpooledSum, survivors: tuple[str, ...]) -> None:
        """Make the masked sum durable, and put the unmask into the record, before any site is asked."""
        self._unmask_asked = True
        path = self.around.scratch / f"{self.job_id}.sum"
        digest = masked.save(path, self._required_key(), context=attempt.context.encode())
        self.around.node.log.append_critical(
            Event(
                action="unmask",
                actor=self.around.node.name,
                object=", ".join(survivors),
                job=self.job_id,
                round=attempt.context.round,
                decision="allow",
                digests={"masked-sum": digest},
            )
        )

    async def _abandon(self, task: Train, number: int, error: CloisterError) -> None:
        await self._record(
            action="round.abandon",
            object=f"attempt {number}",
            round=task.round,
            decision="deny",
            reasons=_reasons(error.message),
        )
        await self._close_round(task, number, "abandoned", error.message)
        await self.events.add(
            pb.JobEvent(kind="waiting", text=f"round {task.round + 1} attempt {number} abandoned: {error.message}")
        )

    async def _commit(
        self, task: Train, attempt: Attempt, total: Sum, offered: StoredModel, *, started: float
    ) -> Total:
        means = await asyncio.to_thread(decode_sum, total)
        base = await asyncio.to_thread(flatten, task.model, self.layout)
        base += means.segments[SEGMENT]
        model = unflatten(base, self.layout, task.model)
        stored = await asyncio.to_thread(self._store, model, task.round + 1)
        await self._record(
            action="round.commit",
            object=", ".join(total.survivors),
            round=task.round,
            decision="allow",
            digests={"model": stored.digest},
        )
        await self._keep(stored, offered)
        (self.around.scratch / f"{self.job_id}.sum").unlink(missing_ok=True)
        await self._close_round(task, attempt.context.attempt, "committed", "")
        metrics = self._metrics(attempt, total.survivors)
        event = pb.JobEvent(
            kind="round",
            round=self.rounds_done,
            rounds=self.manifest.rounds,
            sites=total.survivors,
            bytes_up=attempt.bytes_up,
            bytes_down=offered.size * len(attempt.links),
            seconds=time.monotonic() - started,
            text="; ".join(f"{site}: {failure.message}" for site, failure in attempt.failures.items()),
        )
        for name, by_site in metrics.items():
            event.metrics[name].by_site.update(by_site)
            event.metrics[name].mean = sum(by_site.values()) / len(by_site)
        await self.events.add(event)
        return Total(
            model=model,
            sample_count=means.sample_count or 0.0,
            survivors=total.survivors,
            clipped=sum(total.clipped_counts.values()),
            metrics=metrics,
        )

    def _metrics(self, attempt: Attempt, survivors: tuple[str, ...]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for site in survivors:
            for name, value in attempt.announced[site].metrics.items():
                if name in self.manifest.metrics:
                    found.setdefault(name, {})[site] = value
        return found

    async def _close_round(self, task: Train, number: int, outcome: str, reason: str) -> None:
        close = pb.RoundClose(job_id=self.job_id, round=task.round, attempt=number, outcome=outcome, reason=reason)
        for link in self._present(self._ready):
            link.send(pb.Instruction(round_close=close))

    # --- 5 release ---

    async def _release_model(self) -> None:
        newest = self._newest
        if newest is None:
            raise JobFailedError("the job ended without a model")
        await self.around.watched.publish()
        deadline = time.monotonic() + STEP_SECONDS
        if not await self._bell.until(lambda: self._is_witnessed(self.manifest.sites), deadline=deadline):
            raise JobFailedError(
                "fewer than half of the sites have cosigned the server's log: the model is not released"
            )
        await self._record(
            action="model.release",
            object=self.manifest.submitter,
            round=self.rounds_done - 1,
            decision="allow",
            digests={"blob": newest.blob},
        )
        await self._end("completed", "")

    # --- all ---

    def _required_key(self) -> SealingKey:
        if self._key is None:
            raise AttestationError(f"the key of {self.job_id} has not been released to this server")
        return self._key

    async def _record(self, **fields: Any) -> None:  # noqa: ANN401 - the fields of an Event
        event = Event(actor=self.around.node.name, job=self.job_id, **fields)
        await asyncio.to_thread(self.around.node.log.append_critical, event)


def _reasons(text: str) -> tuple[str, ...]:
    return (printable(text)[:500],) if text else ()
