"""The `cloister` command: joins the commands of every package; here errors become words and exit codes.

Packages name their commands in the entry-point group `cloister.commands`; only the one that is called is imported.
This module decides how a program ends and how it logs. What a command does is left to its package.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json as json_module
import logging
import os
import select
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import NoReturn

import rich_click as click
from click.exceptions import Exit, NoArgsIsHelpError

from policies.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_OTHER, EXIT_USAGE, CloisterError, UsageError

COMMANDS = "cloister.commands"  # the entry-point group
TRACEBACK = "CLOISTER_TRACEBACK"  # environment variable: "1" shows the whole trace of an error
COMPLETE = "_CLOISTER_COMPLETE"  # environment variable: set by the shell's completion script

EPILOG = """\
[b]Examples[/b]

[cyan]cloister demo[/cyan]  four sites train together on this machine

[cyan]cloister audit verify runs/demo/audit[/cyan]  check a record, offline

[cyan]cloister job --help[/cyan]  what an administrator can do
"""


class Commands(click.RichGroup):
    """A group whose commands are the entry points of installed packages, imported when they are used."""

    @cached_property
    def _entry_points(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        found = importlib.metadata.entry_points(group=COMMANDS)
        return {point.name: point for point in reversed(list(found))}  # the first on the path counts, as with imports

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the names of all commands, without importing any."""
        return sorted(self._entry_points)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import and return one command; a command that cannot be imported says so when it is run."""
        if cmd_name not in self._entry_points:
            return None
        try:
            command = self._entry_points[cmd_name].load()
        except (ImportError, AttributeError) as error:
            return _missing_command(cmd_name, error)
        if not isinstance(command, click.Command):
            found = TypeError(f"{self._entry_points[cmd_name].value} is a {type(command).__name__}, expected a command")
            return _missing_command(cmd_name, found)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name.

        Raises:
            UsageError: There is none of that name; the hint names the nearest one.
        """
        name = args[0]
        if name in self._entry_points or name.startswith("-"):
            return super().resolve_command(ctx, args)
        nearest = difflib.get_close_matches(name, self._entry_points, n=1)
        hint = f"did you mean 'cloister {nearest[0]}'?" if nearest else "'cloister --help' lists the commands"
        raise UsageError(f"there is no command {name!r}", hint=hint)


def _missing_command(name: str, cause: Exception) -> click.Command:
    """Stand in for a command that cannot be imported, so that the others still work and help still lists it."""

    def refuse() -> NoReturn:
        raise UsageError(
            f"the command {name!r} cannot be loaded: {cause}", hint="reinstall cloister with the extra that it needs"
        ) from cause

    return click.RichCommand(name=name, callback=refuse, short_help="(cannot be loaded)", add_help_option=False)


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.rich_config({"text_markup": "rich"})
@click.version_option(package_name="cloister", message="%(prog)s %(version)s")
def cloister() -> None:
    """Confidential federated learning: attested machines, keys released on proof, a record checked offline."""


# --- the edge --------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; every error ends here, in words on stderr.

    Args:
        arguments: Without the program's name; those of the process if None.
    """
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(cloister, {}, "cloister", COMPLETE, instruction)
    try:
        with cloister.make_context("cloister", list(sys.argv[1:] if arguments is None else arguments)) as context:
            cloister.invoke(context)
        click.echo(nl=False)  # flushes: here a closed pipe can still be told from a success
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001 - the edge: reported, then the end
        return _end(_first_cause(error))
    return EXIT_OK


def _end(error: BaseException) -> int:
    """Report what ended a command and return the exit status that goes with it."""
    if isinstance(error, Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        _write("interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    if isinstance(error, BrokenPipeError) and _reader_has_gone():
        # `cloister audit show | head`: nobody is left to tell. What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OTHER
    if os.environ.get(TRACEBACK) == "1":
        traceback.print_exception(error)
    known = _known(error)
    _report(known.message, known.hint)
    return known.exit_code


def _known(error: BaseException) -> CloisterError:
    """Return any error as one of our own: click's complaints as wrong usage, everything else as internal."""
    if isinstance(error, CloisterError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = None if context is None else f"see '{context.command_path} --help'"
        return UsageError(error.format_message().rstrip("."), hint=hint)
    return CloisterError(f"internal: {_describe(error)}", hint=f"run it again with {TRACEBACK}=1 for the whole trace")


def _first_cause(error: BaseException) -> BaseException:
    """Return what a group (of asyncio.TaskGroup) is about, however deep: an interrupt, one of ours, or its first."""
    while isinstance(error, BaseExceptionGroup):
        error = (error.subgroup(KeyboardInterrupt) or error.subgroup(CloisterError) or error).exceptions[0]
    return error


def _describe(error: BaseException) -> str:
    """Say in one line what an unexpected error is and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{place}".split())


def _reader_has_gone() -> bool:
    """Tell a closed stdout from any other broken pipe, such as a socket's, which is an error like all others."""
    if sys.stdout is None:  # closed before the program began
        return False
    poll = select.poll()
    poll.register(sys.stdout, select.POLLERR)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _report(message: str, hint: str | None) -> None:
    _write(message, label="error: ", style="bold red")
    if hint is not None:
        _write(hint, label="hint: ", style="cyan")


def _write(message: str, *, label: str = "", style: str = "") -> None:
    from rich.console import Console
    from rich.text import Text

    # As text, never as markup: a message may quote what a stranger sent.
    text = Text.assemble((label, style), harmless(message))
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def harmless(text: str) -> str:
    """Return `text` with everything that could steer a terminal or forge a line's start written as an escape.

    Newlines stay; a reader of lines that must not be forged replaces them too.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


# --- logging ---------------------------------------------------------------------------------------------------------

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: str, *, json: bool = False) -> None:
    """Send the log of this process to stderr; called once, by the `cli.py` of a program.

    Args:
        level: "debug", "info", "warning" or "error".
        json: One JSON object a line; otherwise lines for people, coloured on a terminal.

    Raises:
        UsageError: There is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise UsageError(f"log level {level!r}, expected debug, info, warning or error")
    handler: logging.Handler = logging.StreamHandler()
    if json:
        handler.setFormatter(JsonFormatter())
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False, log_time_format="[%X]")
        handler.setFormatter(FieldsFormatter("%(message)s"))
    else:
        handler.setFormatter(FieldsFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=number, handlers=[handler], force=True)


class FieldsFormatter(logging.Formatter):
    """A line for people: the event in words, then its fields as key=value; a newline in a field cannot forge a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library names it so
        """Return the line without the trace of an exception, which `format` adds."""
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        return harmless(super().formatMessage(record) + fields).replace("\n", "\\n")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, event, and the fields of the event beside them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = fields_of(record) | {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json_module.dumps(line, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what was handed to the logger as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
