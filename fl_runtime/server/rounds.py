"""The rounds of one job: each a `reduce` of its workflow, each at most three attempts at a secure sum.

A round ends with a new model, sealed and durable, or leaves the model as it was: then the next one trains again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from attestation.witnessing import witness_name
from fl_runtime.arrays import ModelArrays, encode, flatten, unflatten
from fl_runtime.errors import JobFailedError
from fl_runtime.federation import Total, Train
from fl_runtime.jobs.model_blob import seal_model
from fl_runtime.jobs.terms import MODEL_SEGMENT, JobTerms
from fl_runtime.secure_aggregation.cohort import Cohort, Member
from fl_runtime.secure_aggregation.context import MAX_ATTEMPTS, RoundContext
from fl_runtime.secure_aggregation.encoding import decode as decode_sum
from fl_runtime.secure_aggregation.errors import AggregationError
from fl_runtime.secure_aggregation.ring import new_vector_digest
from fl_runtime.secure_aggregation.stages import Sum
from fl_runtime.server.attempt import Attempt
from fl_runtime.server.events import Events
from fl_runtime.server.sites import SiteLink
from fl_runtime.server.surroundings import Surroundings, reasons
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.model_hash import model_hash
from fl_runtime.transport.sealed import SealingKey
from fl_runtime.transport.spool import Spool, SpooledSum
from policies.audit.record import Event
from policies.errors import CloisterError
from policies.job_manifest import JobManifest

MAX_ABANDONED_ROUNDS = 3  # in a row; then the job fails


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model that a round begins with, sealed and durable."""

    digest: bytes  # `model_hash`, 32 bytes
    round: int  # that begins with it, from 0
    blob: bytes  # its name, 32 bytes
    size: int  # of the blob


@dataclass(eq=False, kw_only=True)
class Rounds:
    """The sites of one job as its workflow sees them: a `Federation`."""

    around: Surroundings
    manifest: JobManifest
    key: SealingKey  # of the job
    terms: JobTerms
    events: Events
    cohort: Callable[[], Awaitable[tuple[SiteLink, ...]]]  # who opens the next attempt: waits until enough are here
    ready: Callable[[], tuple[SiteLink, ...]]
    loop: asyncio.AbstractEventLoop
    attempt: Attempt | None = None  # the open one
    offered: StoredModel | None = None  # what sites train on
    newest: StoredModel | None = None  # what the rounds so far have led to
    _unmask_asked: bool = False  # in the open attempt
    _abandoned_rounds: int = 0  # in a row
    _scratch_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _cosign_sizes: list[int] = field(default_factory=list)  # of the log when each attempt opened

    def reduce(self, task: Train) -> Total:
        """One round; called by the workflow, in its thread."""
        return asyncio.run_coroutine_threadsafe(self._round(task), self.loop).result()

    async def _round(self, task: Train) -> Total:
        started = time.monotonic()
        offered = self.offered = await asyncio.to_thread(self._store, task.model, task.round)
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
        if self.newest is not None:
            await self._keep(await asyncio.to_thread(self._store, task.model, task.round + 1), offered)
        text = f"round {task.round + 1} was lost: the model stays as it was, the next round trains again"
        await self.events.add(pb.JobEvent(kind="waiting", text=text))
        return Total(model=task.model, sample_count=0.0, survivors=(), clipped=0, metrics={})

    async def _keep(self, newest: StoredModel, before: StoredModel) -> None:
        """Take `newest` as what the rounds so far have led to; the model before it is let go."""
        self.newest = newest
        await asyncio.to_thread(
            self.around.register.commit_round, self.manifest.job, rounds_done=newest.round, model=newest.blob
        )
        await asyncio.to_thread(self.around.blobs.discard, before.blob)

    def _store(self, model: ModelArrays, round_number: int) -> StoredModel:
        """Seal the model that a round begins with, durably; the one that the round before has stored is used again."""
        encoded = encode(model, self.terms.layout)
        digest = model_hash(self.terms.layout, encoded)
        newest = self.newest
        if newest is not None and (newest.digest, newest.round) == (digest, round_number):
            return newest
        sealed = seal_model(
            encoded,
            self.key,
            trust_domain=self.manifest.trust_domain,
            job=self.manifest.job,
            round_number=round_number,
        )
        return StoredModel(digest=digest, round=round_number, blob=self.around.blobs.put(sealed), size=len(sealed))

    async def _try(self, task: Train, number: int, offered: StoredModel) -> tuple[Attempt, Sum]:
        links = await self.cohort()
        cohort = Cohort.of(
            Member(
                site=link.site, organisation=link.result.organisation, sign_pk=link.result.cnf.sign_pk, boot=link.boot
            )
            for link in links
        )
        context = RoundContext.of(
            job=self.manifest.job,
            round_number=task.round,
            attempt=number,
            model_hash=offered.digest,
            cohort=cohort,
            parameters=self.terms.parameters,
        )
        word = np.uint32 if self.terms.parameters.ring_bits == 32 else np.uint64
        spool = Spool(
            self.around.scratch,
            key=self._scratch_key,
            word=word,
            length=self.terms.parameters.words,
            new_digest=new_vector_digest,
        )
        self._unmask_asked = False
        attempt = self.attempt = Attempt(
            context=context,
            cohort=cohort,
            parameters=self.terms.parameters,
            links={link.site: link for link in links},
            sites=self.around.sites,
            spool=spool,
            upload_seconds=float(self.manifest.round_timeout_seconds),
        )
        await self.around.record(
            self.manifest.job,
            action="round.open",
            object=", ".join(cohort.names),
            round=task.round,
            digests={"model": offered.digest, "cohort": cohort.digest(), "params": self.terms.parameters.digest()},
        )
        self._cosign_sizes.append(await self.around.watched.publish())
        members = [pb.CohortMember(site=link.site, boot=link.boot, jti=link.result.jti) for link in links]
        for link in links:
            opening = pb.RoundOpen(
                job_id=self.manifest.job,
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
                may_unmask=lambda: self.is_witnessed(cohort.names),
            )
        finally:
            self.attempt = None
        return attempt, total

    def is_witnessed(self, sites: Sequence[str]) -> bool:
        """Whether more than half of these sites have cosigned the log as it stood at most two rounds ago."""
        recent = self._cosign_sizes[-2:][0]
        cosigned, domain = self.around.watched.cosigned, self.manifest.trust_domain
        witnesses = (witness_name(domain, site) for site in sites)
        return sum(1 for witness in witnesses if cosigned.get(witness, 0) >= recent) > len(sites) // 2

    def _before_unmask(self, attempt: Attempt, masked: SpooledSum, survivors: tuple[str, ...]) -> None:
        """Make the masked sum durable, and put the unmask into the record, before any site is asked."""
        self._unmask_asked = True
        path = self.around.scratch / f"{self.manifest.job}.sum"
        digest = masked.save(path, self.key, context=attempt.context.encode())
        self.around.node.log.append_critical(
            Event(
                action="unmask",
                actor=self.around.node.name,
                object=", ".join(survivors),
                job=self.manifest.job,
                round=attempt.context.round,
                decision="allow",
                digests={"masked-sum": digest},
            )
        )

    async def _abandon(self, task: Train, number: int, error: CloisterError) -> None:
        await self.around.record(
            self.manifest.job,
            action="round.abandon",
            object=f"attempt {number}",
            round=task.round,
            decision="deny",
            reasons=reasons(error.message),
        )
        await self._close_round(task, number, "abandoned", error.message)
        await self.events.add(
            pb.JobEvent(kind="waiting", text=f"round {task.round + 1} attempt {number} abandoned: {error.message}")
        )

    async def _commit(
        self, task: Train, attempt: Attempt, total: Sum, offered: StoredModel, *, started: float
    ) -> Total:
        means = await asyncio.to_thread(decode_sum, total)
        base = await asyncio.to_thread(flatten, task.model, self.terms.layout)
        base += means.segments[MODEL_SEGMENT]
        model = unflatten(base, self.terms.layout, task.model)
        stored = await asyncio.to_thread(self._store, model, task.round + 1)
        await self.around.record(
            self.manifest.job,
            action="round.commit",
            object=", ".join(total.survivors),
            round=task.round,
            decision="allow",
            digests={"model": stored.digest},
        )
        await self._keep(stored, offered)
        (self.around.scratch / f"{self.manifest.job}.sum").unlink(missing_ok=True)
        await self._close_round(task, attempt.context.attempt, "committed", "")
        metrics = self._metrics(attempt, total.survivors)
        event = pb.JobEvent(
            kind="round",
            round=task.round + 1,
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
        close = pb.RoundClose(
            job_id=self.manifest.job, round=task.round, attempt=number, outcome=outcome, reason=reason
        )
        for link in self.ready():
            link.send(pb.Instruction(round_close=close))
