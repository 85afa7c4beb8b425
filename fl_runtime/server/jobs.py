"""All jobs of one server: submitted, found, resumed after a restart only as far as saying what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fl_runtime.errors import JobError, JobRefusedError
from fl_runtime.server.job import WORKFLOWS, Job
from fl_runtime.server.register import ENDED
from fl_runtime.server.sites import SiteLink
from fl_runtime.server.submission import SubmittedJob
from fl_runtime.server.surroundings import Surroundings
from fl_runtime.transport import federation_pb2 as pb
from policies.audit.record import Event
from policies.documents import Envelope
from policies.errors import DeniedError
from policies.job_manifest import job_digest, open_job


class Jobs:
    """The server's jobs. They run at the same time; each has its own attempt and its own key."""

    def __init__(self, around: Surroundings) -> None:
        """Serve jobs within `around`; sites that join are offered what runs."""
        self._around = around
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        around.sites.on_join(self._joined)

    async def settle(self) -> tuple[str, ...]:
        """Mark what a restart interrupted, and say which jobs those are."""
        around = self._around
        interrupted = [row.job_id for row in around.register.jobs() if row.state not in ENDED]
        for job_id in interrupted:
            reason = "the server stopped while the job was running"
            event = Event(
                action="job.state", actor=around.node.name, object=job_id, job=job_id, next="failed", reasons=(reason,)
            )
            await asyncio.to_thread(around.node.log.append_critical, event)
            await asyncio.to_thread(around.register.set_state, job_id, "failed", reason)
        return tuple(interrupted)

    async def submit(self, submitted: SubmittedJob) -> str:
        """Take a job and begin with it; returns its id.

        Raises:
            JobRefusedError: Another trust domain, an unknown workflow or profile, or an id that was used.
        """
        manifest, around = submitted.manifest, self._around
        domain = around.node.documents.trust.root.trust_domain
        if manifest.trust_domain != domain:
            raise JobRefusedError(f"the job is of {manifest.trust_domain}, this server of {domain}")
        if manifest.workflow not in WORKFLOWS:
            raise JobRefusedError(f"there is no workflow {manifest.workflow}, expected one of {', '.join(WORKFLOWS)}")
        if manifest.profile != "tee+mask":
            raise JobRefusedError(f"this server sums with the profile tee+mask, the job asks for {manifest.profile}")
        digest = job_digest(submitted.envelope.payload)
        event = Event(
            action="job.submit",
            actor=around.node.name,
            object=manifest.submitter,
            via="Submit",
            job=manifest.job,
            decision="allow",
            digests={"job": digest, "code": manifest.code.sha256, "model": manifest.model.sealed_sha256},
        )
        await asyncio.to_thread(around.node.log.append_critical, event)
        code = await asyncio.to_thread(around.blobs.put, submitted.code)
        initial = await asyncio.to_thread(around.blobs.put, submitted.model)
        if not await asyncio.to_thread(around.register.add, manifest.job, submitted.envelope.encode()):
            raise JobRefusedError(f"there is a job {manifest.job} already", hint="give the job another name")
        job = Job(around=around, envelope=submitted.envelope, manifest=manifest, code=code, initial=initial)
        self._jobs[manifest.job] = job
        task = asyncio.create_task(job.run(), name=manifest.job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return manifest.job

    async def stop(self) -> None:
        """End every running job, so that nobody waits for it."""
        for job in self._jobs.values():
            if job.state not in ENDED:
                job.abort("the server is shutting down")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=3)

    def job(self, job_id: str) -> Job:
        """A job of this boot.

        Raises:
            JobError: There is none of that id, or it ran before this server was started.
        """
        if job_id in self._jobs:
            return self._jobs[job_id]
        row = self._around.register.job(job_id)
        if row is None:
            raise JobError(f"there is no job {job_id[:64]!r}", hint="`cloister job list` names those that there are")
        raise JobError(f"{job_id} has {row.state}: {row.reason or 'it ended before this server was started'}")

    def job_of(self, job_id: str, *, site: str) -> Job:
        """A job of this boot that `site` takes part in.

        Raises:
            JobError: As for `job`.
            DeniedError: The site is not in the job.
        """
        job = self.job(job_id)
        if site not in job.manifest.sites:
            raise DeniedError(f"{site} is not a site of {job_id}")
        return job

    async def follow(self, job_id: str) -> AsyncIterator[pb.JobEvent]:
        """Yield the events of a job; of one that ended before this boot, only its end."""
        row = await asyncio.to_thread(self._around.register.job, job_id)
        if job_id not in self._jobs and row is not None:
            yield pb.JobEvent(kind="state", state=row.state, text=row.reason, round=row.rounds_done)
            return
        async for event in self.job(job_id).events.follow():
            yield event

    def summaries(self) -> list[pb.JobSummary]:
        """Every job that this server has known."""
        return [
            pb.JobSummary(
                job_id=row.job_id,
                state=row.state,
                round=row.rounds_done,
                rounds=self._jobs[row.job_id].manifest.rounds if row.job_id in self._jobs else row.rounds_done,
                reason=row.reason,
            )
            for row in self._around.register.jobs()
        ]

    def final_model(self, job_id: str, administrator: str) -> bytes:
        """Name the blob of a completed job's model, for its submitter.

        Raises:
            JobError: There is no such job, or it has not completed.
            DeniedError: Somebody else's.
        """
        row = self._around.register.job(job_id)
        if row is None or row.state != "completed" or row.model is None:
            state = "unknown" if row is None else row.state
            raise JobError(f"{job_id[:64]} is {state}: only a completed job has a model")
        submitter = open_job(Envelope.parse(row.manifest)).submitter
        if submitter != administrator:
            raise DeniedError(f"the model of {job_id} is for {submitter}, not for {administrator}")
        return row.model

    def require_blob(self, job_id: str, name: bytes, *, site: str) -> None:
        """Let a site have only what its own job consists of.

        Raises:
            DeniedError: The site is not in the job, or the blob is not of it.
        """
        if not self.job_of(job_id, site=site).serves(name):
            raise DeniedError(f"{site} may not have blob {name.hex()[:16]} of {job_id}")

    def ring(self) -> None:
        """A cosignature came: attempts that wait for it look again."""
        for job in self._jobs.values():
            job.ring()

    def _joined(self, link: SiteLink) -> None:
        for job in self._jobs.values():
            job.joined(link)
