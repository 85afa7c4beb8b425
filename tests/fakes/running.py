"""A whole federation as processes: mock TEE, attestation service, server and sites, and jobs that take a second.

    async with federation(tmp_path / "lab", sites=4) as fed:
        job = await fed.submit(rounds=2)
        await job.ended()

The training script is numpy alone. Round r adds `site's number` to every weight; a site whose data folder holds a fifo named
`gate-R` waits in round R until the test opens it (`fed.gate`), which is also how the test knows that it trains.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fl_runtime.arrays import decode, encode, read_layout
from fl_runtime.jobs.administrator import AdministratorSettings, Session
from fl_runtime.jobs.job_file import load_job
from fl_runtime.jobs.narrate import has_ended
from fl_runtime.transport.federation_pb2 import JobEvent
from policies.audit import AuditTrust, Verification, verify_folder
from policies.errors import AuditError
from policies.settings import load_settings
from provisioning.audit_trust import certify_audit
from provisioning.laboratory import default_sites
from provisioning.layout import SERVER, Laboratory
from tests.fakes.federation import RunningLaboratory, laboratory
from tests.fakes.programs import WAIT_SECONDS, Program

SHAPE = (3, 4)
ROUNDING = 2e-5  # of one weight, by the encoding of an update that counts for 10 of 10 000 samples
NAMES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d", "hospital-e")

SCRIPT = """\
from pathlib import Path

import numpy as np

import fl_runtime.client as flare

flare.init()
folder = Path(flare.get_config()["data"])
step = float((folder / "step.txt").read_text())
while flare.is_running():
    received = flare.receive()
    gate = folder / f"gate-{received.current_round}"
    if gate.exists():
        gate.read_text()
    params = {name: value + np.float32(step) for name, value in received.params.items()}
    #CHANGE
    flare.send(flare.FLModel(params=params, metrics={"accuracy": step}, meta={"NUM_STEPS_CURRENT_ROUND": 10}))
"""


def script(change: str = "") -> str:
    """Return the training script, with a line of Python between training and sending."""
    return SCRIPT.replace("#CHANGE", change)


@dataclass
class RunningJob:
    """A submitted job and what has been told of it so far."""

    job_id: str
    events: list[JobEvent] = field(default_factory=list)
    _told: asyncio.Condition = field(default_factory=asyncio.Condition)
    _watching: asyncio.Task[None] | None = None

    def follow(self, session: Session) -> None:
        async def watch() -> None:
            try:
                async for event in session.watch(self.job_id):
                    async with self._told:
                        self.events.append(event)
                        self._told.notify_all()
            finally:
                async with self._told:
                    self._told.notify_all()

        self._watching = asyncio.create_task(watch())

    async def told(self, holds: Callable[[JobEvent], bool]) -> JobEvent:
        """Wait for an event, and return it."""

        def found() -> JobEvent | None:
            return next((event for event in self.events if holds(event)), None)

        assert self._watching is not None
        async with self._told:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._told.wait_for(lambda: found() is not None or self._watching.done())
        event = found()
        assert event is not None, f"this was not told of {self.job_id}, but: {self.events}"
        return event

    async def ended(self) -> JobEvent:
        """Wait for the end and return the event that says how it ended."""
        return await self.told(has_ended)

    @property
    def has_ended(self) -> bool:
        return any(map(has_ended, self.events))

    async def round(self, number: int) -> JobEvent:
        """Wait until a round (from 1) is committed."""
        return await self.told(lambda event: event.kind == "round" and event.round == number)

    @property
    def failures(self) -> list[JobEvent]:
        return [event for event in self.events if event.kind == "failure"]

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)


@dataclass
class RunningFederation:
    """A federation whose programs run."""

    lab: RunningLaboratory
    jobs_folder: Path
    programs: dict[str, Program] = field(default_factory=dict)
    session: Session | None = None
    said: list[str] = field(default_factory=list)  # to the administrator
    _jobs: list[RunningJob] = field(default_factory=list)
    _number: int = 0

    @property
    def laboratory(self) -> Laboratory:
        return self.lab.laboratory

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self.laboratory.layout.sites))

    @property
    def admin_settings(self) -> Path:
        return self.laboratory.kit("admin") / "admin.toml"

    def work(self, site: str) -> Path:
        """Where the trainers of a site work."""
        return self.laboratory.state(site) / "work"

    async def emptied(self, site: str) -> None:
        """Wait until a site keeps nothing of its jobs."""
        deadline = time.monotonic() + 10
        while left := [path.name for path in self.work(site).glob("**/*")]:
            assert time.monotonic() < deadline, f"{site} still has {left}"
            await asyncio.sleep(0.01)  # nothing tells of it

    # --- programs ---

    async def start(self, name: str) -> Program:
        """Start the server or a site, without waiting for anything."""
        group = SERVER if name == SERVER else "site"
        config = self.laboratory.kit(name) / f"{group}.toml"
        program = await Program.start(name, group, "start", "--config", config, "--log-level", "info")
        self.programs[name] = program
        return program

    async def start_server(self) -> Program:
        program = await self.start(SERVER)
        await program.said("server ready")
        return program

    async def start_site(self, site: str) -> Program:
        program = await self.start(site)
        await program.said("channel open")
        return program

    async def stop_service(self) -> None:
        await self.lab.stop_service()
        self.session = None  # an administrator's next command verifies the service anew

    async def restore(self, names: Sequence[str] | None = None) -> None:
        """Start the programs of these names, all where not said, that do not run."""
        missing = [name for name in names or (SERVER, *self.sites) if name not in self.programs]
        if SERVER in missing:
            await self.start_server()
        await asyncio.gather(*(self.start_site(name) for name in missing if name != SERVER))

    async def kill(self, name: str) -> None:
        """End a program as a power cut would."""
        program = self.programs.pop(name)
        await program.kill()
        await program.__aexit__()

    async def stop(self, name: str) -> Program:
        """Stop a program as an operator would."""
        program = self.programs.pop(name)
        assert await program.stop() == 0, program.text
        await program.__aexit__()
        return program

    async def settle(self) -> None:
        """End the jobs that a test has left."""
        for job in self._jobs:
            if not job.has_ended:
                assert self.session is not None
                await self.session.abort(job.job_id)
                await job.ended()
            await job.close()
        self._jobs.clear()

    async def close(self) -> None:
        for job in self._jobs:
            await job.close()
        for name in (SERVER, *self.sites):
            if name in self.programs:
                await self.programs.pop(name).__aexit__()

    # --- jobs ---

    def job_folder(
        self,
        *,
        rounds: int = 1,
        code: str = SCRIPT,
        sites: Sequence[str] | None = None,
        min_sites: int | None = None,
        settings: str = "",
    ) -> Path:
        """Write what a submitter would hand to `cloister job submit`."""
        self._number += 1
        folder = self.jobs_folder / f"job-{self._number}"
        folder.mkdir(parents=True)
        lines = [f'name = "tiny-{self._number}"', f"rounds = {rounds}", settings]
        if sites is not None:
            lines.append(f"sites = {list(sites)}")
        if min_sites is not None:
            lines.append(f"min_sites = {min_sites}")
        (folder / "job.toml").write_text("\n".join(lines) + "\n")
        (folder / "train.py").write_text(code)
        (folder / "model.safetensors").write_bytes(encode({"weight": np.zeros(SHAPE, np.float32)}))
        return folder

    async def submit(self, **how: object) -> RunningJob:
        """Submit a job and follow it."""
        if self.session is None:
            settings = load_settings(self.admin_settings, AdministratorSettings)
            self.session = await Session.open(settings, say=self.said.append)
        composed = await self.session.submit(load_job(self.job_folder(**how)))  # type: ignore[arg-type]
        job = RunningJob(composed.job_id)
        job.follow(self.session)
        self._jobs.append(job)
        return job

    async def model(self, job: RunningJob) -> np.ndarray:
        """Fetch the final model of a completed job, all of whose weights are equal; returns them."""
        assert self.session is not None
        path = self.jobs_folder / f"{job.job_id}.safetensors"
        await self.session.fetch_model(job.job_id, path)
        encoded = path.read_bytes()
        return decode(encoded, read_layout(encoded))["weight"]

    # --- the record ---

    async def verify_record(self) -> Verification:
        """Verify the record as it is now, while the programs run: a copy of it, once the witnesses have seen its last head."""
        certify_audit(self.laboratory, now=datetime.now(UTC), closed=False)
        trust = AuditTrust.parse(self.laboratory.audit_trust.read_bytes())
        deadline = time.monotonic() + 10
        while True:
            with tempfile.TemporaryDirectory() as copy:
                folder = Path(copy) / "audit"
                shutil.copytree(self.laboratory.directory / "audit", folder)
                try:
                    return await asyncio.to_thread(verify_folder, folder, trust)
                except AuditError:
                    if time.monotonic() > deadline:
                        raise
            await asyncio.sleep(0.1)

    # --- gates ---

    @contextlib.contextmanager
    def gates(self, sites: Iterable[str], *, round_number: int) -> Iterator[None]:
        """Let these sites' trainers wait in a round (from 0) until their gate is opened."""
        paths = [self.laboratory.data(site) / f"gate-{round_number}" for site in sites]
        for path in paths:
            os.mkfifo(path)
        try:
            yield
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    async def trains(self, site: str, *, round_number: int) -> Callable[[], None]:
        """Wait until the trainer of a site stands before its gate; returns what opens it."""
        path = self.laboratory.data(site) / f"gate-{round_number}"
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # ENXIO: nobody reads yet
                told = [event for job in self._jobs for event in job.events]
                over = time.monotonic() > deadline or any(job.has_ended for job in self._jobs)
                assert not over, f"no trainer of {site} came to its gate: {told}"
                await asyncio.sleep(0.01)
            else:
                return lambda: os.close(descriptor)


@contextlib.asynccontextmanager
async def federation(
    directory: Path, *, sites: int = 4, start: Sequence[str] | None = None
) -> AsyncIterator[RunningFederation]:
    """Bring up a federation of so many sites, each of its own organisation; `start` names programs, where not all."""
    async with laboratory(directory / "lab", sites=default_sites(sites)) as lab:
        fed = RunningFederation(lab=lab, jobs_folder=directory / "jobs")
        for number, site in enumerate(fed.sites, start=1):
            data = lab.laboratory.data(site)
            data.mkdir()
            (data / "step.txt").write_text(str(number / 8))
            _append(lab.laboratory.kit(site) / "site.toml", "preload = []")
        _append(lab.laboratory.kit(SERVER) / "server.toml", "return_grace_seconds = 1\npark_after_seconds = 2")
        try:
            await fed.restore(start)
            yield fed
        finally:
            await fed.close()


def _append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text()}{line}\n")
