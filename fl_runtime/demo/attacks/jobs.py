"""Two attacks through a job: one that the sites' policies do not allow, and one that a lying server conducts.

What a site refused, and why, is read from that site's own record: the server's word on it counts for nothing.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from attestation.channel.status import RemoteError
from fl_runtime.demo.attacks.outcome import attempt, shortened
from fl_runtime.demo.errors import DemoError
from fl_runtime.demo.ground import AttackOutcome, DemoGround, Finished, cloister, python
from fl_runtime.jobs.job_file import JOB_FILE, JobFile
from policies.audit.folder import Folder
from policies.audit.frames import read_frames
from policies.audit.record import Record
from policies.errors import MalformedRecordError
from policies.settings import load_settings
from provisioning.layout import ADMINISTRATOR, SERVER

TOO_MANY_ROUNDS = 100_000
FORBIDDEN_METRIC = "worst-image"
LYING_SERVER = "lying-server"
CONNECTED = "channel open"  # what a site says of a server that it has verified


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job that was submitted and has ended."""

    job_id: str
    code: str  # of what it failed with; "" where it completed
    text: str


# --- a job that is not allowed ---------------------------------------------------------------------------------------


async def forbidden_job(ground: DemoGround) -> AttackOutcome:
    """Submit a job that trains for longer, and asks for more, than any site's policy allows."""

    async def submit() -> None:
        ended = await _submit(ground, "too-much", rounds=TOO_MANY_ROUNDS, metrics=("accuracy", FORBIDDEN_METRIC))
        if ended.code:
            raise RemoteError(ended.text, code=ended.code, retryable=False)

    return await attempt(
        "job that the sites' policies do not allow",
        submit(),
        code="federation.job_refused",
        says=f"returns.metrics: job wants {FORBIDDEN_METRIC}",
        seconds=ground.timeout_seconds,
    )


# --- a server that lies ----------------------------------------------------------------------------------------------


async def two_models(ground: DemoGround, *, victim: str) -> AttackOutcome:
    """Put a lying server into the honest one's place and submit a job; the honest server is back at the end.

    Args:
        ground: Where.
        victim: The site that is shown another model.

    Raises:
        DemoError: The honest server did not come back.
    """
    name = "server that shows one site a different model"
    try:
        async with _lying_server(ground, victim), asyncio.timeout(ground.timeout_seconds):
            ended = await _submit(ground, "two-models", rounds=1, metrics=("accuracy",))
    except (DemoError, TimeoutError) as error:
        return AttackOutcome(name=name, refused=False, reason=shortened(str(error) or "the job did not end in time"))
    if not ended.code:
        return AttackOutcome(name=name, refused=False, reason="the job completed")
    honest = [site for site in ground.sites if site != victim]
    refusals = {site: _refusal(ground, site, ended.job_id, victim) for site in honest}
    silent = [site for site, reason in refusals.items() if reason is None]
    if silent:
        reason = f"{', '.join(silent)} did not refuse for it; the job failed with {ended.text}"
        return AttackOutcome(name=name, refused=False, reason=shortened(reason))
    return AttackOutcome(name=name, refused=True, reason=shortened(f"{', '.join(honest)}: {refusals[honest[0]]}"))


@asynccontextmanager
async def _lying_server(ground: DemoGround, victim: str) -> AsyncIterator[None]:
    """Run the lying server while the block does; in the end the honest one runs, and every site has verified it again."""
    programs, config = ground.programs, ground.laboratory.kit(SERVER) / "server.toml"
    lying = python("fl_runtime.demo.lying_server:main", "--config", config, "--victim", victim)
    await programs.stop(SERVER)
    try:
        await programs.start(LYING_SERVER, lying, ready="server ready")
        yield
    finally:
        verified = {site: _verified_servers(ground, site) for site in ground.sites}
        await programs.stop(LYING_SERVER)
        await ground.start_server()
        await asyncio.gather(*(programs.said(site, CONNECTED, times=already + 1) for site, already in verified.items()))


def _refusal(ground: DemoGround, site: str, job_id: str, victim: str) -> str | None:
    """Why `site` took no part in the job, if it is that `victim` was shown another model."""
    for record in _record_of(ground, site):
        if (record.action, record.job) == ("refuse", job_id):
            for reason in record.reasons:
                code, _, said = reason.partition(": ")
                if code == "aggregation.peer" and f"{victim} was shown something else" in said and "model_hash" in said:
                    return said
    return None


def _verified_servers(ground: DemoGround, site: str) -> int:
    """How often `site` has verified a server and opened a channel to it."""
    return sum(record.action == "server.appraise" and record.decision == "allow" for record in _record_of(ground, site))


def _record_of(ground: DemoGround, site: str) -> Iterator[Record]:
    """The records that a site has written so far."""
    content = (ground.laboratory.audit(site) / Folder.RECORDS).read_bytes()
    with suppress(MalformedRecordError):  # it is being written: the last may be on its way
        for _, entry in read_frames(content):
            yield Record.parse(entry)


# --- both ------------------------------------------------------------------------------------------------------------


async def _submit(ground: DemoGround, name: str, *, rounds: int, metrics: tuple[str, ...]) -> Ended:
    """Submit the honest job's code and model under other terms, as an administrator does, and follow it to its end.

    Raises:
        DemoError: It was not submitted, or its end was not told.
    """
    with tempfile.TemporaryDirectory(prefix="cloister-job-") as scratch:
        folder = Path(scratch) / name
        shutil.copytree(ground.job, folder)
        honest = load_settings(folder / JOB_FILE, JobFile)
        (folder / JOB_FILE).write_text(_job_toml(honest, name, rounds=rounds, metrics=metrics))
        admin = ground.laboratory.kit(ADMINISTRATOR) / "admin.toml"
        command = cloister("job", "submit", folder, "--config", admin, "--format", "json")
        finished = await ground.programs.run(f"submit-{name}", command)
    return _ended(finished)


def _ended(finished: Finished) -> Ended:
    events = [json.loads(line) for line in finished.output if line.startswith("{")]
    submitted = next((event for event in events if event["kind"] == "submitted"), None)
    if submitted is None or events[-1].get("state") not in {"completed", "failed", "aborted"}:
        raise DemoError(f"the job was not followed to its end: {' '.join(finished.errors)}")
    failure: dict[str, str] = next((event for event in reversed(events) if event["kind"] == "failure"), {})
    return Ended(job_id=submitted["job_id"], code=failure.get("code", ""), text=failure.get("text", ""))


def _job_toml(honest: JobFile, name: str, *, rounds: int, metrics: tuple[str, ...]) -> str:
    """A `job.toml` that runs the honest job's script for one short epoch a round."""
    terms: Mapping[str, object] = {
        "name": name,
        "rounds": rounds,
        "script": honest.script,
        "model": honest.model,
        "metrics": metrics,
    }
    config = {**honest.config, "epochs": 1}
    lines = [f"{key} = {json.dumps(value)}" for key, value in terms.items()]
    return "\n".join(
        [*lines, "[config]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in config.items())]
    )
