"""What the attacks of the demonstration stand on: a federation that runs, and the means to start and stop its programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from provisioning.layout import Laboratory

Command = tuple[str, ...]  # argv


def cloister(*arguments: str | Path) -> Command:
    """The command line of `cloister ARGUMENTS`, run by this very interpreter, as a child of this very process."""
    return python("policies.command:main", *arguments)


def python(program: str, *arguments: str | Path) -> Command:
    """The command line of a module (as with `python -m`), or of one function in it: `MODULE:FUNCTION`."""
    return (sys.executable, "-P", "-m", "fl_runtime.demo.child", str(os.getpid()), program, *map(str, arguments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that ran to its end."""

    exit_code: int
    output: tuple[str, ...]  # lines on stdout
    errors: tuple[str, ...]  # lines on stderr


class Programs(Protocol):
    """Starts programs as processes of their own, keeps their logs, and stops them all at the end."""

    async def start(self, name: str, command: Sequence[str], *, ready: str) -> str:
        """Start a program and return the line of its stdout that holds `ready`.

        Raises:
            ProgramError: It ended, or said nothing in time.
        """

    async def run(self, name: str, command: Sequence[str]) -> Finished:
        """Run a program to its end, whatever its exit code.

        Raises:
            ProgramError: It did not end in time.
        """

    async def stop(self, name: str) -> None:
        """Stop a program that was started, and wait until it is gone; nothing happens to one that is not there."""

    async def said(self, name: str, text: str, *, times: int = 1) -> str:
        """Wait until a program that was started has printed `text` in that many lines of stdout; return the last of them.

        Raises:
            ProgramError: It ended, or did not say it in time.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoGround:
    """A federation after its honest job: everything runs, every site is admitted and waits for the next job."""

    laboratory: Laboratory  # the folder, its kits, documents, sockets and addresses
    job: Path  # folder of the honest job: job.toml, code, model.safetensors; copy it to change it
    job_id: str  # of the honest job, as the server knows it
    image: tuple[Path, ...]  # folders that every honest machine was launched from
    programs: Programs  # "mock-tee", "service", "server" and each site by its name run already
    timeout_seconds: float = 15.0  # of one attack

    @property
    def folder(self) -> Path:
        """The laboratory's folder, which is also where the demonstration writes."""
        return self.laboratory.directory

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in the order of their names."""
        return tuple(sorted(self.laboratory.layout.sites))

    async def start_server(self) -> None:
        """Start the honest server again and wait until it is ready."""
        config = self.laboratory.kit("server") / "server.toml"
        await self.programs.start("server", cloister("server", "start", "--config", config), ready="server ready")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackOutcome:
    """How one attack ended."""

    name: str
    refused: bool  # by the check that is there for it; anything else is False
    reason: str  # what the refusing side said, or what happened instead
