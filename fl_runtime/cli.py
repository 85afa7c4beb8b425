"""The command groups `cloister server`, `site`, `job` and `demo`: read settings, start a program, tell a person what happens."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click
from click.exceptions import Exit

from policies.errors import EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from fl_runtime.jobs.administrator import Session
    from fl_runtime.transport.federation_pb2 import JobEvent

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"cloister {line}" for line in lines)


def _program_options(default: str) -> Callable[[Command], Command]:
    """The options of a program that runs until it is stopped."""

    def add(command: Command) -> Command:
        for option in (
            click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
            click.option("--log-level", default="warning", show_default=True, help="debug, info, warning or error."),
            click.option("--config", type=FILE, default=Path(default), show_default=True, help="Settings, TOML."),
        ):
            command = option(command)
        return command

    return add


def _silence_grpc() -> None:
    """Keep gRPC's own lines off the terminal: a failed handshake is told once, by the error that it becomes."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when gRPC is imported


# --- programs --------------------------------------------------------------------------------------------------------


@click.group()
def server() -> None:
    """Run the FL server of a federation."""
    _silence_grpc()


@server.command("start", epilog=_examples("server start --config kits/server/server.toml"))
@_program_options("server.toml")
def start_server(config: Path, log_level: str, log_format: str) -> None:
    """Attest, then serve sites and administrators until interrupted."""
    from fl_runtime.server.program import serve
    from fl_runtime.server.settings import ServerSettings
    from policies.command import configure_logging
    from policies.settings import load_settings

    configure_logging(log_level, json=log_format == "json")
    asyncio.run(serve(load_settings(config, ServerSettings), say=click.echo))


@click.group()
def site() -> None:
    """Run one site of a federation, beside its data."""
    _silence_grpc()


@site.command("start", epilog=_examples("site start --config kits/hospital-a/site.toml"))
@_program_options("site.toml")
def start_site(config: Path, log_level: str, log_format: str) -> None:
    """Attest, verify the server, and take part in the jobs that this site's policy allows, until interrupted."""
    from fl_runtime.site.program import serve
    from fl_runtime.site.settings import SiteSettings
    from policies.command import configure_logging
    from policies.settings import load_settings

    configure_logging(log_level, json=log_format == "json")
    asyncio.run(serve(load_settings(config, SiteSettings), say=click.echo))


@click.command(epilog=_examples("demo", "demo --rounds 3 --output runs/short", "demo --no-attacks --keep"))
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds of training.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the data's split and the initial model.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder of the record and the report.",
)
@click.option("--attacks/--no-attacks", default=True, show_default=True, help="Try what must be refused.")
@click.option("--keep", is_flag=True, help="Leave the federation running at the end, until interrupted.")
def demo(rounds: int, seed: int, output: Path, *, attacks: bool, keep: bool) -> None:
    """Train on four sites on this machine, with a mock TEE: nothing here is attested by hardware."""
    _silence_grpc()
    from fl_runtime.demo.program import DemoOptions, run

    asyncio.run(run(DemoOptions(rounds=rounds, seed=seed, output=output, attacks=attacks, keep=keep)))


# --- jobs ------------------------------------------------------------------------------------------------------------


@click.group(
    epilog=_examples("job submit jobs/digits --output digits.safetensors", "job list", "job watch digits-1a2b3c4d")
)
def job() -> None:
    """Submit jobs to a federation, follow them, and fetch their models.

    The attestation service and the server are verified before anything is sent to them.
    """
    _silence_grpc()


def _administrator_options(command: Command) -> Command:
    form = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
    config = click.option(
        "--config", type=FILE, default=Path("admin.toml"), show_default=True, help="Settings of an administrator's kit."
    )
    return form(config(command))


@job.command(
    epilog=_examples(
        "job submit jobs/digits --config kits/admin/admin.toml --output digits.safetensors",
        "job submit jobs/digits --no-wait --format json",
    )
)
@click.argument("folder", metavar="JOB_DIR", type=click.Path(path_type=Path, file_okay=False))
@_administrator_options
@click.option("--wait/--no-wait", default=True, show_default=True, help="Follow the job until it has ended.")
@click.option("--output", "-o", type=FILE, help="Write the final model here, as safetensors.")
def submit(folder: Path, config: Path, form: str, output: Path | None, *, wait: bool) -> None:
    """Submit the job in JOB_DIR: its job.toml, training script and initial model. Ctrl-C stops watching, not the job."""
    from fl_runtime.jobs.job_file import load_job

    if output is not None and not wait:
        raise UsageError("--output waits for the final model", hint="leave out --no-wait, or use `cloister job model`")
    package = load_job(folder)

    async def work() -> None:
        session = await _session(config, form)
        submitted = await session.submit(package)
        if form == "json":
            _print_json(kind="submitted", job_id=submitted.job_id, digest=submitted.digest.hex())
        if wait:
            await _follow(session, submitted.job_id, form)
        if output is not None:
            await _fetch(session, submitted.job_id, output, form)

    asyncio.run(work())


@job.command(epilog=_examples("job watch digits-1a2b3c4d", "job watch digits-1a2b3c4d --format json | jq .metrics"))
@click.argument("job_id", metavar="ID")
@_administrator_options
def watch(job_id: str, config: Path, form: str) -> None:
    """Follow the job ID from its beginning until it has ended. Ctrl-C stops watching, not the job."""

    async def work() -> None:
        await _follow(await _session(config, form), job_id, form)

    asyncio.run(work())


@job.command("list", epilog=_examples("job list", "job list --format json"))
@_administrator_options
def list_jobs(config: Path, form: str) -> None:
    """List the jobs that the server knows, with their states."""

    async def work() -> None:
        from fl_runtime.jobs.narrate import SEPARATOR, one_line

        for summary in await (await _session(config, form)).list_jobs():
            fields = {name.name: value for name, value in summary.ListFields()}
            if form == "json":
                _print_json(**fields)
            else:
                progress = f"round {summary.round}/{summary.rounds}"
                click.echo(SEPARATOR.join(map(one_line, (summary.job_id, summary.state, progress, summary.reason))))

    asyncio.run(work())


@job.command(epilog=_examples("job abort digits-1a2b3c4d"))
@click.argument("job_id", metavar="ID")
@_administrator_options
def abort(job_id: str, config: Path, form: str) -> None:
    """End the job ID."""

    async def work() -> None:
        await (await _session(config, form)).abort(job_id)
        if form == "json":
            _print_json(kind="aborted", job_id=job_id)
        else:
            click.echo(f"job {job_id} aborted")

    asyncio.run(work())


@job.command(epilog=_examples("job model digits-1a2b3c4d -o digits.safetensors"))
@click.argument("job_id", metavar="ID")
@_administrator_options
@click.option("--output", "-o", type=FILE, required=True, help="File to write, safetensors.")
def model(job_id: str, config: Path, form: str, output: Path) -> None:
    """Fetch the final model of the job ID and open it with the job's key, which is only where it was submitted."""

    async def work() -> None:
        await _fetch(await _session(config, form), job_id, output, form)

    asyncio.run(work())


# --- what they share -------------------------------------------------------------------------------------------------


async def _session(config: Path, form: str) -> Session:
    from fl_runtime.jobs.administrator import AdministratorSettings, Session
    from policies.settings import load_settings

    # In JSON mode the lines on stdout are events alone; what was verified is told beside them.
    return await Session.open(
        load_settings(config, AdministratorSettings), say=lambda line: click.echo(line, err=form == "json")
    )


async def _follow(session: Session, job_id: str, form: str) -> None:
    """Print what happens with a job until it has ended; raises what it failed with."""
    from rich.console import Console
    from rich.text import Text

    from fl_runtime.jobs.narrate import as_json, failure_of, in_words

    console = Console(highlight=False, soft_wrap=True)
    live = console.is_terminal and form == "text"
    sites = session.sites_of(job_id)
    last: JobEvent | None = None
    cause: JobEvent | None = None
    try:
        with console.status(f"following {job_id}; Ctrl-C stops watching, not the job") if live else nullcontext():
            async with aclosing(session.watch(job_id)) as events:
                async for event in events:
                    last, cause = event, event if event.kind == "failure" else cause
                    line = as_json(event) if form == "json" else in_words(event, sites=sites)
                    if line is not None:
                        console.print(Text(line))  # as text, never as markup
    except asyncio.CancelledError:
        click.echo(
            f"\nno longer watching; the job goes on\n  follow it again: cloister job watch {job_id}\n"
            f"  end it:          cloister job abort {job_id}",
            err=True,
        )
        raise Exit(EXIT_INTERRUPTED) from None
    if error := failure_of(last, cause=cause):
        raise error


async def _fetch(session: Session, job_id: str, output: Path, form: str) -> None:
    size = await session.fetch_model(job_id, output)
    if form == "json":
        _print_json(kind="model", job_id=job_id, path=str(output), size=size)
    else:
        click.echo(f"model of {job_id} written to {output} ({size} bytes)")


def _print_json(**fields: object) -> None:
    import json

    click.echo(json.dumps(fields))
