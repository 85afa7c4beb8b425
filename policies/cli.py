"""The command group `cloister audit`: verify a folder of logs offline, and read it in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from policies.errors import UsageError

if TYPE_CHECKING:
    from policies.audit import AuditTrust, Record, Verification

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def audit() -> None:
    """Verify and read the record of what was decided."""


@audit.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--trust", "trust_file", type=click.Path(path_type=Path), help="Whom to believe. Default: DIR/../trust.json."
)
@click.option("--quiet", is_flag=True, help="Print the fingerprint and the table, not the story.")
def verify(folder: Path, trust_file: Path | None, *, quiet: bool) -> None:
    """Verify the logs in DIR completely, offline: every byte, every signature, their agreement, and the story.

    Exits with 0 if everything holds, 2 for a malformed file, 3 for tampering, 5 for an illegal story, 64 for a wrong command.

    \b
    Examples:
      cloister audit verify runs/demo/audit
      cloister audit verify audit --trust trust.json --quiet
    """  # noqa: D301 - click wants the character backspace, not a backslash
    from policies.audit import fingerprint, narrate, verify_folder

    _require_folder(folder)
    path = trust_file or folder.resolve().parent / "trust.json"
    raw = _read_trust(path)
    click.echo(f"trust {path}\n  fingerprint {fingerprint(raw)}")
    try:
        verification = verify_folder(folder, _parse_trust(raw))
    except OSError as error:
        raise _unreadable(error) from error
    click.echo(_table(verification))
    if not quiet:
        click.echo("\n".join(["", *narrate(verification.records)]))
    click.echo(f"\nverified: {len(verification.records)} records in {len(verification.logs)} logs")


@audit.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--log", help="Only this log.")
@click.option("--job", help="Only records of this job.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def show(folder: Path, log: str | None, job: str | None, form: str) -> None:
    """Print the records in DIR in order, in words or as JSON lines. Reads without verifying: `verify` decides.

    \b
    Examples:
      cloister audit show runs/demo/audit
      cloister audit show audit --log server --job digits
      cloister audit show audit --format json | jq 'select(.action == "key.release")'
    """  # noqa: D301 - click wants the character backspace, not a backslash
    from policies.audit import narrate
    from policies.audit.story import in_order

    _require_folder(folder)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if log is not None and log not in names:
        raise UsageError(f"found no log {log} in {folder}, expected one of {', '.join(names) or 'none'}")
    try:
        records = [record for name in names if log in {None, name} for record in _read_log(folder / name)]
    except OSError as error:
        raise _unreadable(error) from error
    chosen = [record for record in records if job in {None, record.job}]
    lines = narrate(chosen) if form == "text" else [record.encode().decode() for record in in_order(chosen)]
    click.echo("\n".join(lines), nl=bool(lines))


def _read_log(folder: Path) -> list[Record]:
    from policies.audit.folder import Folder
    from policies.audit.frames import read_frames
    from policies.audit.record import Record

    return [Record.parse(entry) for _, entry in read_frames((folder / Folder.RECORDS).read_bytes())]


def _parse_trust(raw: bytes) -> AuditTrust:
    from policies.audit import AuditTrust

    return AuditTrust.parse(raw)


def _read_trust(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the trust file {path} cannot be read: {error.strerror}",
            hint="name it with --trust FILE; the federation's administrator hands it out",
        ) from error


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="name the folder that holds one folder for each log")


def _unreadable(error: OSError) -> UsageError:
    return UsageError(f"{error.filename} cannot be read: {error.strerror}")


def _table(verification: Verification) -> str:
    rows = [("log", "records", "checkpoints", "cosignatures", "state")]
    rows += [
        (
            log.name,
            str(len(log.records)),
            str(log.checkpoints),
            str(log.cosignatures),
            "closed" if log.closed else f"open, {log.unsigned} records not yet signed",
        )
        for log in verification.logs
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {row[0]:<{width}}  {row[1]:>8}  {row[2]:>11}  {row[3]:>12}  {row[4]}" for row in rows)
