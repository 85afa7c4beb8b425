"""One attempt at one round, at a site: fetch the model, train, clip, mask, send, agree, unmask.

The keys are exchanged while the trainer works. What the server says is only ever one of the four things that the protocol
lets it say next; anything else ends the attempt here.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from fl_runtime.arrays import Layout, ModelArrays, decode, flatten
from fl_runtime.client.model import ParamsType
from fl_runtime.errors import FederationError
from fl_runtime.jobs.model_blob import open_model
from fl_runtime.jobs.terms import MODEL_SEGMENT
from fl_runtime.secure_aggregation.context import RoundContext
from fl_runtime.secure_aggregation.encoding import encode
from fl_runtime.secure_aggregation.errors import BelowThresholdError
from fl_runtime.secure_aggregation.parameters import Parameters
from fl_runtime.secure_aggregation.ring import new_vector, vector_digest
from fl_runtime.secure_aggregation.site import SiteRound
from fl_runtime.secure_aggregation.stages import ClippedUpdate, RingVector, Update
from fl_runtime.site.session import Session
from fl_runtime.site.trainer import Trainer
from fl_runtime.site.trainer_result import FLModelResult
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.model_hash import model_hash
from fl_runtime.transport.sealed import SealingKey
from policies.audit.record import Event
from policies.job_manifest import JobManifest

ADVERTS, SHARES, SURVIVORS, AGREEMENT = 1, 2, 3, 4  # SumStep.step
STEP_SECONDS = 120.0  # the server's next word; the step in which the slowest site trains has the job's own time


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of one training."""

    result: FLModelResult
    seconds: float


@dataclass(slots=True, kw_only=True)
class Workplace:
    """What a job keeps from round to round."""

    manifest: JobManifest
    layout: Layout
    parameters: Parameters
    key: SealingKey
    trainer: Trainer
    vector: RingVector  # reused
    training: tuple[bytes, asyncio.Task[Trained]] | None = None  # hash of the model, and what comes of it

    @classmethod
    def furnish(
        cls, manifest: JobManifest, *, layout: Layout, parameters: Parameters, key: SealingKey, trainer: Trainer
    ) -> Workplace:
        """Allocate what the rounds reuse."""
        return cls(
            manifest=manifest,
            layout=layout,
            parameters=parameters,
            key=key,
            trainer=trainer,
            vector=new_vector(parameters),
        )

    def train(self, model: ModelArrays, digest: bytes, *, round_number: int) -> asyncio.Task[Trained]:
        """Train on a model, or go on with what the trainer does with this very one: attempts share its answer.

        An attempt that ends does not end the training, and nobody has to wait for it; a trainer does one task at a time.
        """
        if self.training is not None and self.training[0] == digest and not _has_failed(self.training[1]):
            return self.training[1]
        task = asyncio.create_task(asyncio.to_thread(self._train, model, round_number))
        task.add_done_callback(_has_failed)  # retrieved, whether or not an attempt still waits for it
        self.training = digest, task
        return task

    async def close(self) -> None:
        """End the trainer, in the middle of a task too."""
        await asyncio.to_thread(self.trainer.stop)
        if self.training is not None:
            await asyncio.gather(self.training[1], return_exceptions=True)

    def _train(self, model: ModelArrays, round_number: int) -> Trained:
        started = time.monotonic()
        result = self.trainer.train("train", model, round_number=round_number, total_rounds=self.manifest.rounds)
        return Trained(result, time.monotonic() - started)


@dataclass(slots=True, kw_only=True)
class Round:
    """One attempt; `run` ends when the sum needs nothing more of this site."""

    session: Session
    place: Workplace
    opening: pb.RoundOpen
    steps: asyncio.Queue[pb.SumStep] = field(default_factory=asyncio.Queue)

    async def run(self) -> None:
        """Take part in the attempt.

        Raises:
            AggregationError: The server or a peer does not keep to the protocol; this site gives nothing more.
            TrainerError, FederationError: Training failed.
        """
        opening, session, place = self.opening, self.session, self.place
        blob = await session.uplink.download(opening.job_id, sha256=opening.model_blob, size=opening.model_blob_size)
        encoded, model = await asyncio.to_thread(self._open, blob)
        digest = model_hash(place.layout, encoded)
        training = place.train(model, digest, round_number=opening.round)
        await self._sum(training, model, digest)

    async def _sum(self, training: asyncio.Task[Trained], model: ModelArrays, digest: bytes) -> None:
        opening, session, place = self.opening, self.session, self.place
        self._check_opening()
        cohort = await session.peers.cohort(opening.cohort, place.manifest)
        context = RoundContext.of(
            job=opening.job_id,
            round_number=opening.round,
            attempt=opening.attempt,
            model_hash=digest,
            cohort=cohort,
            parameters=place.parameters,
        )
        secure = SiteRound(
            context=context,
            cohort=cohort,
            parameters=place.parameters,
            site=session.node.name,
            signing_key=session.node.keys.sign,
            memory=session.rounds.memory,
            randomness=secrets.token_bytes,
        )
        await asyncio.to_thread(session.rounds.save)
        await self._answer(advertise=secure.advertise())
        adverts = await self._next(ADVERTS)
        await self._answer(share=await asyncio.to_thread(secure.share, adverts.messages))
        mailbox = await self._next(SHARES)

        trained = await asyncio.shield(training)
        update = await asyncio.to_thread(self._clip, trained.result, model)
        masked = await asyncio.to_thread(secure.mask, update, dict(zip(mailbox.sites, mailbox.messages, strict=True)))
        name = await asyncio.to_thread(vector_digest, masked.vector)
        await self._record_sent(name, masked.clipped_count)
        await session.uplink.upload(
            masked.vector, job_id=opening.job_id, round_number=opening.round, attempt=opening.attempt
        )
        statement = pb.MaskedUpdate(
            message=secure.announce(masked, digest=name),
            metrics=self._allowed_metrics(trained.result),
            clipped=masked.clipped_count,
            seconds=trained.seconds,
        )
        await self._answer(masked=statement)

        survivors = await self._next(SURVIVORS)
        await self._answer(consistency=secure.consistency(survivors.sites))
        agreement = await self._next(AGREEMENT)
        shares = secure.unmask(agreement.messages)
        await asyncio.to_thread(session.rounds.save)  # before it leaves: this site answers one set of survivors a round
        await self._answer(unmask=shares)

    def _check_opening(self) -> None:
        """A round is one of the job's, and as many sites open it as the job and this site's policy ask for."""
        opening, manifest = self.opening, self.place.manifest
        if opening.round >= manifest.rounds:
            raise FederationError(f"round {opening.round + 1} was opened, the job has {manifest.rounds}")
        sites = {member.site for member in opening.cohort}
        needed = max(manifest.min_sites, self.session.policy.returns.min_cohort)
        if len(sites) < needed:
            raise BelowThresholdError(
                f"round {opening.round + 1} was opened with {len(sites)} sites, expected at least {needed}",
                missing=tuple(sorted(set(manifest.sites) - sites)),
            )

    # --- training ---

    def _open(self, blob: memoryview) -> tuple[memoryview, ModelArrays]:
        manifest = self.place.manifest
        encoded = open_model(
            blob,
            self.place.key,
            trust_domain=manifest.trust_domain,
            job=manifest.job,
            round_number=self.opening.round,
        )
        return encoded, decode(encoded, self.place.layout)

    def _clip(self, result: FLModelResult, model: ModelArrays) -> ClippedUpdate:
        if result.params is None or result.sample_count is None:
            raise FederationError("the training script answered without params or without a sample count")
        difference = flatten(result.params, self.place.layout)
        if result.params_type is not ParamsType.DIFF:
            difference -= flatten(model, self.place.layout)
        update = Update(segments={MODEL_SEGMENT: difference}, sample_count=result.sample_count)
        return encode(update, parameters=self.place.parameters, randomness=secrets.token_bytes, out=self.place.vector)

    def _allowed_metrics(self, result: FLModelResult) -> dict[str, float]:
        """Only metrics that the job asks for and this site's policy lets out, by name."""
        allowed = self.session.policy.returns.metrics & set(self.place.manifest.metrics)
        return {name: float(value) for name, value in result.metrics.items() if name in allowed}

    # --- the server ---

    async def _next(self, expected: int) -> pb.SumStep:
        """Return what the server says next, which must be `expected`."""
        seconds = STEP_SECONDS + (self.place.manifest.round_timeout_seconds if expected == SURVIVORS else 0)
        try:
            step = await asyncio.wait_for(self.steps.get(), seconds)
        except TimeoutError:
            raise FederationError(f"the server said nothing for {seconds:.0f} s, expected step {expected}") from None
        if step.step != expected:
            raise FederationError(f"the server is at step {step.step} of the sum, expected {expected}")
        return step

    async def _answer(self, **what: Any) -> None:  # noqa: ANN401 - one field of SiteAnswer
        opening = self.opening
        await self.session.uplink.answer(
            pb.SiteAnswer(job_id=opening.job_id, round=opening.round, attempt=opening.attempt, **what)
        )

    async def _record_sent(self, name: bytes, clipped: int) -> None:
        event = Event(
            action="update.sent",
            actor=self.session.node.name,
            object=f"a masked vector of {self.place.parameters.words} words, {clipped} clipped",
            job=self.opening.job_id,
            round=self.opening.round,
            decision="allow",
            digests={"vector": name},
        )
        await asyncio.to_thread(self.session.node.log.append_critical, event)


def _has_failed(task: asyncio.Task[Trained]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
