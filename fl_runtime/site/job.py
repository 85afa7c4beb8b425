"""One job at one site: decided by this site's own policy, prepared, trained round by round, cleaned up."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attestation.retry import persistently
from fl_runtime.errors import FederationError, JobRefusedError, TrainerError, TrainerLostError
from fl_runtime.jobs.archive import unpack
from fl_runtime.jobs.terms import terms_of
from fl_runtime.secure_aggregation.parameters import FEWEST_ORGANISATIONS, LARGEST_COHORT, Limits
from fl_runtime.site.round import Round, Workplace
from fl_runtime.site.session import Session
from fl_runtime.site.trainer import Trainer
from fl_runtime.site.trainer_spec import LOG_NAME, TrainerSpec
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport.sealed import SealingKey
from policies import job_manifest
from policies.audit.record import Event, printable
from policies.decide import Decision, decide_job
from policies.documents import Envelope
from policies.errors import CloisterError
from policies.job_manifest import JobApproval, JobManifest, job_digest, open_job

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class SiteJob:
    """Follows the server's instructions for one job, as far as this site's policy goes."""

    session: Session
    job_id: str
    envelope: Envelope | None = None
    manifest: JobManifest | None = None
    approved: bool = False
    place: Workplace | None = None
    _instructions: asyncio.Queue[pb.Instruction] = field(default_factory=asyncio.Queue)
    _round: Round | None = None
    _work: asyncio.Task[None] | None = None

    def tell(self, instruction: pb.Instruction) -> None:
        """Hand over the next instruction of the server."""
        self._instructions.put_nowait(instruction)

    async def run(self) -> None:
        """Follow instructions until the job ends."""
        try:
            while True:
                instruction = await self._instructions.get()
                match instruction.WhichOneof("what"):
                    case "offer":
                        await self._decide(instruction.offer)
                    case "start":
                        await self._guard("prepare", self._prepare(instruction.start))
                    case "round_open":
                        await self._begin(instruction.round_open)
                    case "step":
                        self._step(instruction.step)
                    case "round_close":
                        await self._close(instruction.round_close)
                    case "end":
                        self.session.say(
                            f"job {self.job_id} has {instruction.end.state}{_because(instruction.end.reason)}"
                        )
                        return
        finally:
            await self._stop_round()
            if self.place is not None:
                await self.place.close()
            await asyncio.to_thread(self._clean_up)

    # --- may it run here? ---

    async def _decide(self, offer: pb.JobOffer) -> None:
        try:
            envelope = Envelope.parse(offer.manifest)
            manifest = open_job(envelope)
            decision = self._decision(manifest)
        except CloisterError as error:
            decision, manifest, envelope = Decision((printable(error.message),)), None, None
        if manifest is not None and manifest.job != self.job_id:
            decision = Decision((f"offered as {self.job_id}, the manifest says {manifest.job}",))
        digest = job_digest(envelope.payload) if envelope is not None else None
        await self._record_decision(decision, digest)
        if not decision.allowed or manifest is None or envelope is None or digest is None:
            self.session.say(f"job {self.job_id} refused: {'; '.join(decision.reasons)}")
            await self._answer(refusal=pb.Refusal(reasons=decision.reasons))
            return
        self.envelope, self.manifest, self.approved = envelope, manifest, True
        self.session.say(
            f"job {self.job_id} approved ({manifest.rounds} rounds, {len(manifest.sites)} sites, {manifest.profile})"
        )
        node = self.session.node
        approval = JobApproval(
            trust_domain=manifest.trust_domain,
            site=node.name,
            boot=node.keys.boot,
            job=manifest.job,
            job_sha256=digest,
            site_policy_sha256=self.session.policy_sha256,
            approved_at=node.clock(),
        )
        signed = Envelope.sign(approval, job_manifest.APPROVAL_KIND, [node.keys.sign])
        await self._answer(approval=signed.encode())

    def _decision(self, manifest: JobManifest) -> Decision:
        policy = self.session.policy
        parameters = terms_of(manifest).parameters
        decision = decide_job(
            policy,
            manifest,
            roster=self.session.node.documents.trust.roster,
            clip_micros=parameters.largest_clip_micros,
            weight_cap=parameters.weight_cap,
            min_survivors=parameters.min_survivors,
        )
        if not decision.allowed:
            return decision
        returns = policy.returns
        parameters.check_against(
            Limits(
                max_sites=LARGEST_COHORT,
                max_words=policy.receive.max_model_bytes // 2,  # no element of a model is narrower than two bytes
                max_clip_micros=returns.max_clip_micros,
                max_weight_cap=returns.max_weight_cap,
                min_survivors=max(3, returns.min_survivors),
                min_organisations=FEWEST_ORGANISATIONS,
            )
        )
        return decision

    async def _record_decision(self, decision: Decision, digest: bytes | None) -> None:
        event = Event(
            action="job.approve",
            actor=self.session.node.name,
            object=self.job_id,
            job=self.job_id,
            decision="allow" if decision.allowed else "deny",
            reasons=tuple(printable(reason)[:500] for reason in decision.reasons)[:32],
            digests={"policy": self.session.policy_sha256, **({"job": digest} if digest else {})},
        )
        await asyncio.to_thread(self.session.node.log.append_critical, event)

    # --- key, code, trainer ---

    async def _prepare(self, start: pb.JobStart) -> None:
        if not self.approved or self.manifest is None or self.envelope is None:
            raise JobRefusedError(f"{self.job_id} was not approved here")
        if self.place is not None:
            return await self._say_ready(self.place.trainer)
        manifest, envelope, session = self.manifest, self.envelope, self.session

        async def fetch_key() -> bytes:
            return await session.node.enrolment.fetch_key(
                await session.node.attest(purpose="release"),
                key_id=manifest.model.key_id,
                job=envelope,
                approvals=list(start.approvals),
                purpose="train",
            )

        secret = await persistently(fetch_key, what=f"the release of {self.job_id}'s key", say=session.say)
        code = await session.uplink.download(self.job_id, sha256=manifest.code.sha256, size=manifest.code.size)
        trainer = await asyncio.to_thread(self._start_trainer, bytes(code), manifest)
        terms = terms_of(manifest)
        self.place = Workplace.furnish(
            manifest,
            layout=terms.layout,
            parameters=terms.parameters,
            key=SealingKey(id=manifest.model.key_id, secret=secret),
            trainer=trainer,
        )
        return await self._say_ready(trainer)

    def _start_trainer(self, code: bytes, manifest: JobManifest) -> Trainer:
        settings, folder = self.session.settings, self._folder
        if folder.exists():
            shutil.rmtree(folder)
        scratch, source = folder / "scratch", folder / "code"
        scratch.mkdir(parents=True)
        unpack(code, source, sha256=manifest.code.sha256)
        if settings.trainer_uid is not None:
            shutil.chown(scratch, settings.trainer_uid, settings.trainer_uid)
        spec = TrainerSpec(
            job=self.job_id,
            site=self.session.node.name,
            script=source / manifest.code.script,
            workdir=folder,
            scratch=scratch,
            config={"data": str(settings.data), "args": dict(manifest.config)},
            args=manifest.code.args,
            readable=(settings.data,),
            torch_threads=settings.trainer_threads,
            uid=settings.trainer_uid,
            gid=settings.trainer_uid,
        )
        return self.session.launcher.start_trainer(spec, progress_seconds=float(manifest.round_timeout_seconds))

    async def _say_ready(self, trainer: Trainer) -> None:
        missing = trainer.isolation.missing
        if missing:
            self.session.say(f"this host cannot offer the trainer: {', '.join(missing)}")
        await self._answer(ready=pb.Ready(isolation_missing=missing))

    @property
    def _folder(self) -> Path:
        return self.session.settings.work / self.job_id

    def _clean_up(self) -> None:
        """Keep after the job only what the policy lets stay."""
        _empty(self._folder, keep_logs=self.session.policy.persist.logs)

    # --- rounds ---

    async def _begin(self, opening: pb.RoundOpen) -> None:
        await self._stop_round()
        if self.place is None:
            return await self._fail(
                "sum", FederationError(f"round {opening.round + 1} was opened before this site was ready"), opening
            )
        self._round = Round(session=self.session, place=self.place, opening=opening)
        self._work = asyncio.create_task(self._take_part(self._round))
        return None

    async def _take_part(self, current: Round) -> None:
        try:
            await current.run()
        except TrainerError as error:
            self.session.say(error.message)
            await self._fail("train", self._outward(error), current.opening)
        except TrainerLostError as error:
            self.session.say(error.message)
            await self._fail("train", error, current.opening)
        except CloisterError as error:
            self.session.say(f"round {current.opening.round + 1}: {error.message}")
            await self._record_refusal(error, current.opening)
            await self._fail("sum", error, current.opening)
        except OSError as error:
            failed = FederationError(f"this site's disk or memory failed: {error.strerror}")
            self.session.say(f"round {current.opening.round + 1}: {error}")
            await self._fail("sum", failed, current.opening)

    def _step(self, step: pb.SumStep) -> None:
        current = self._round
        if current is not None and (current.opening.round, current.opening.attempt) == (step.round, step.attempt):
            current.steps.put_nowait(step)

    async def _close(self, close: pb.RoundClose) -> None:
        current = self._round
        if current is not None and (current.opening.round, current.opening.attempt) == (close.round, close.attempt):
            await self._stop_round()
        if close.outcome == "committed" and self.place is not None:
            self.place.training = None

    async def _stop_round(self) -> None:
        work, self._work, self._round = self._work, None, None
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    # --- failures ---

    async def _guard(self, phase: str, work: Awaitable[None]) -> None:
        try:
            await work
        except CloisterError as error:
            self.session.say(f"job {self.job_id}: {error.message}")
            await self._fail(phase, error, None)

    def _outward(self, error: TrainerError) -> TrainerError:
        """What of a script's error this site's policy lets out: the script could put data into its words."""
        if self.session.policy.returns.script_errors:
            return error
        return error.withheld(script=self.manifest.code.script if self.manifest is not None else "")

    async def _fail(self, phase: str, error: CloisterError, opening: pb.RoundOpen | None) -> None:
        failure = pb.Failure(code=error.code, message=error.message[:2000], hint=error.hint or "", phase=phase)
        answer = pb.SiteAnswer(job_id=self.job_id, failure=failure)
        if opening is not None:
            answer.round, answer.attempt = opening.round, opening.attempt
        try:
            await self.session.uplink.answer(answer)
        except CloisterError as refused:  # the attempt may be over already
            logger.info("failure was not taken", extra={"job": self.job_id, "reason": refused.message})

    async def _record_refusal(self, error: CloisterError, opening: pb.RoundOpen) -> None:
        event = Event(
            action="refuse",
            actor=self.session.node.name,
            object=f"attempt {opening.attempt}",
            job=self.job_id,
            round=opening.round,
            decision="deny",
            reasons=(printable(f"{error.code}: {error.message}")[:500],),
        )
        await asyncio.to_thread(self.session.node.log.append_critical, event)

    async def _answer(self, **what: Any) -> None:  # noqa: ANN401 - one field of SiteAnswer
        await self.session.uplink.answer(pb.SiteAnswer(job_id=self.job_id, **what))


def clear_work(work: Path, *, keep_logs: bool) -> None:
    """Remove what the jobs of a boot that was killed have left in the site's work folder."""
    for scratch in work.glob("*/scratch"):
        _empty(scratch.parent, keep_logs=keep_logs)


def _empty(folder: Path, *, keep_logs: bool) -> None:
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.name == LOG_NAME and keep_logs:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
