"""`cloister demo`: a whole federation on this machine, from nothing to a record that is checked offline.

1. a laboratory in a fresh folder; the mock TEE and the attestation service start, and found the federation
2. server and four sites prove what they are; a job is submitted, its key released, its rounds run
3. ten attacks are tried, while the job's model is compared with what it competes with
4. everything stops; the record is verified; summary and report are written
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from fl_runtime.demo import federation
from fl_runtime.demo.digits import FEDERATED, example_folder
from fl_runtime.demo.errors import DemoError
from fl_runtime.demo.federation import Prepared
from fl_runtime.demo.ground import AttackOutcome, DemoGround, cloister, python
from fl_runtime.demo.job import EPOCHS, JobStory, write_job
from fl_runtime.demo.processes import Processes
from fl_runtime.demo.record import certify_record, verify_record
from fl_runtime.demo.report import write_report
from fl_runtime.demo.screen import Screen
from fl_runtime.demo.summary import Audited, Outcome, Scores, write_summary
from policies.audit import AuditTrust
from policies.errors import AuditError
from provisioning.laboratory import create_laboratory
from provisioning.layout import ADMINISTRATOR, Laboratory

VENDOR_CACHE = ".mock-vendor"  # beside the folder of the run
DIGITS_CACHE = ".digits"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOW_PRIORITY = 10  # nice(1)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What a person chooses."""

    rounds: int = 5
    seed: int = 1
    output: Path = Path("runs/demo")
    attacks: bool = True
    keep: bool = False  # leave the federation running at the end, until interrupted


@dataclass(slots=True)
class _Phases:
    """When each phase had ended, in seconds since the first began."""

    started: float = field(default_factory=time.monotonic)
    ended: dict[str, float] = field(default_factory=dict)

    def end(self, name: str, *, ago: float = 0.0) -> None:
        self.ended[name] = time.monotonic() - self.started - ago


async def run(options: DemoOptions, *, console: Console | None = None) -> None:
    """Run the demonstration.

    Args:
        options: What a person chose.
        console: Where it is shown; the terminal where not said.

    Raises:
        UsageError: The output folder holds something else, or the example is not there.
        ProgramError: One of the programs failed.
        DemoError: Something was not as it must be: an attack that was not refused, a record that does not verify.
        KeyboardInterrupt: A signal ended it; nothing is left running.
    """
    screen = Screen(console or Console(highlight=False))
    outcome: Outcome
    async with _ended_by_signals():
        with screen.live():
            outcome = await _Demo(options, screen).run()
    screen.scores(outcome)
    screen.attacks(outcome.attacks)
    screen.end(outcome, folder=options.output)
    if outcome.failure is not None:
        raise DemoError(outcome.failure, hint=f"what each program said is in {options.output / 'logs'}")


class _Demo:
    """One run; each method is one of its steps."""

    def __init__(self, options: DemoOptions, screen: Screen) -> None:
        self.options = options
        self.screen = screen
        self.output = options.output.absolute()  # a link is not followed: what it names would be removed
        self.phases = _Phases()
        self.story = JobStory()
        self.admitted: list[str] = []
        self.image: tuple[Path, ...] = ()

    async def run(self) -> Outcome:
        """Everything, from the first folder to the last file."""
        example = example_folder()
        laboratory = self._found_laboratory()
        self.screen.header(sites=federation.SITES)
        ended: tuple[Prepared, Scores, tuple[AttackOutcome, ...]]
        async with Processes(
            self.output / "logs",
            environment=os.environ | dict.fromkeys(THREADS, "1"),
            stop_order=federation.STOP_ORDER,
        ) as processes:
            ended = await processes.guard(self._show(laboratory, processes, example))
            self.screen.now("the programs close their logs, and witness each other's last heads")
        self.phases.end("stopped")
        return await asyncio.to_thread(self._conclude, laboratory, *ended)

    def _found_laboratory(self) -> Laboratory:
        federation.clear_folder(self.output)
        laboratory = create_laboratory(
            self.output,
            sites=federation.SITES,
            trust_domain=federation.TRUST_DOMAIN,
            base_port=0,
            now=_now(),
        )
        federation.mark_folder(self.output, seed=self.options.seed)
        (self.output / "logs").mkdir(mode=0o700)
        self.image = federation.freeze_image(self.output / "image")
        return laboratory

    async def _show(
        self, laboratory: Laboratory, processes: Processes, example: Path
    ) -> tuple[Prepared, Scores, tuple[AttackOutcome, ...]]:
        """What happens while programs run."""
        prepared = await self._bring_up(laboratory, processes, example)
        job = self.output / "job"
        write_job(job, example=example, prepared=prepared.folder, rounds=self.options.rounds, seed=self.options.seed)
        await asyncio.gather(self._start_sites(laboratory, processes), self._train(laboratory, processes, job))
        self.phases.end("trained")
        ground = DemoGround(
            laboratory=laboratory,
            job=job,
            job_id=self.story.job_id,
            image=self.image,
            programs=processes,
        )
        scores, attacks = await asyncio.gather(self._score(processes, prepared, example), self._attack(ground))
        self.phases.end("attacked and compared")
        if self.options.keep:
            self.screen.kept(admin=self.options.output / "kits" / ADMINISTRATOR / "admin.toml")
            self.screen.now("the federation runs")
            await _interrupted()
        return prepared, scores, attacks

    async def _bring_up(self, laboratory: Laboratory, processes: Processes, example: Path) -> Prepared:
        """Data and documents, at the same time."""
        caches = self.output.parent
        prepared, _ = await asyncio.gather(
            federation.prepare_digits(processes, example=example, cache=caches / DIGITS_CACHE, seed=self.options.seed),
            federation.found(
                laboratory, processes, image=self.image, vendor_cache=caches / VENDOR_CACHE, tell=self.screen.now
            ),
        )
        federation.hand_out(prepared, laboratory)
        self.phases.end("founded")
        return prepared

    async def _start_sites(self, laboratory: Laboratory, processes: Processes) -> None:
        self.screen.now("server and sites prove what they are")
        await federation.start_sites(laboratory, processes, admitted=self.admitted.append)

    async def _train(self, laboratory: Laboratory, processes: Processes, job: Path) -> None:
        """Start the server, submit the job, and tell of it until it has ended."""
        server = await federation.start_server(laboratory, processes)
        command = cloister(
            *("job", "submit", job, "--config", laboratory.kit(ADMINISTRATOR) / "admin.toml"),
            *("--format", "json", "--output", self.output / "model.safetensors"),
        )
        async for line in processes.follow("job", command):
            waiting, done = self.story.waiting, self.story.take(line)
            if done is None:
                self.screen.now(f"the job's key is released to nodes that have just attested: {len(self.story.keys)}")
                if self.story.waiting != waiting and self.story.waiting:
                    self.screen.remark(self.story.waiting)
                continue
            if done.number == 1:
                self.phases.end("first round begun", ago=done.seconds)
                self._say_ready(server)
            self.screen.round(done, sites=len(federation.SITES), attested=len(set(done.sites) & set(self.admitted)))

    def _say_ready(self, server: str) -> None:
        # It says, for instance: server ready at …: server admitted as server (affirming): snp, 1 gpu (mock TEE, …)
        hardware = server.rpartition("): ")[2].partition(" (")[0]
        self.screen.ready(
            server=hardware, sites=len(self.admitted), of=len(federation.SITES), keys=len(self.story.keys)
        )

    async def _score(self, processes: Processes, prepared: Prepared, example: Path) -> Scores:
        """Compare the model with one of all data and with each site's own, on pictures that nobody trained on."""
        model = self.output / "model.safetensors"
        settings = (self.options.seed, self.options.rounds, EPOCHS)
        seed, rounds, epochs = map(str, settings)
        said = await processes.require(
            "score",
            python("fl_runtime.demo.digits", "score", example, prepared.folder, seed, model, rounds, epochs),
            nice=LOW_PRIORITY,
        )
        found: Mapping[str, float] = json.loads(said.output[-1])
        alone = {site: found[site] for site in federation.SITES}
        return Scores(federated=found[FEDERATED], centralised=found["centralised"], alone=alone)

    async def _attack(self, ground: DemoGround) -> tuple[AttackOutcome, ...]:
        if not self.options.attacks:
            self.screen.now("the model is compared with what it competes with")
            return ()
        from fl_runtime.demo.attacks import run_attacks

        self.screen.now("attacks are tried: each must be refused, for its own reason")
        return await run_attacks(ground)

    def _conclude(
        self, laboratory: Laboratory, prepared: Prepared, scores: Scores, attacks: tuple[AttackOutcome, ...]
    ) -> Outcome:
        """Verify the record, attack it, and write down what was shown."""
        self.screen.now("the record is verified")
        audit = _audited(laboratory)
        if attacks and audit.verified:
            from fl_runtime.demo.attacks import tamper_with_audit

            trust = AuditTrust.parse(laboratory.audit_trust.read_bytes())
            attacks = (*attacks, tamper_with_audit(laboratory.directory / "audit", trust))
        self.phases.end("verified")
        outcome = Outcome(
            job_id=self.story.job_id,
            seed=self.options.seed,
            sites=federation.SITES,
            samples=prepared.counts,
            rounds=tuple(self.story.rounds),
            rounds_asked=self.options.rounds,
            scores=scores,
            attacks=attacks,
            audit=audit,
            phases=self.phases.ended,
        )
        write_summary(outcome, self.output / "summary.json")
        write_report(outcome, self.output / "report.html", now=_now())
        return outcome


def _audited(laboratory: Laboratory) -> Audited:
    try:
        certify_record(laboratory, now=_now())
        return Audited(verified=True, reason="", verification=verify_record(laboratory))
    except (AuditError, DemoError) as error:
        return Audited(verified=False, reason=error.message, verification=None)


@asynccontextmanager
async def _ended_by_signals() -> AsyncIterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the block, once: what stops the programs is not interrupted itself.

    Raises:
        KeyboardInterrupt: One of them did.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        received.append(number)
        if task is not None and len(received) == 1:
            task.cancel()

    for number in ENDING:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if received:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in ENDING:
            loop.remove_signal_handler(number)


async def _interrupted() -> None:
    """Return at Ctrl-C, which from then on ends nothing else."""
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    await interrupted.wait()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
