"""`cloister` commands as processes: started, listened to, signalled, and none of them left behind.

Each has a process group of its own, as a terminal would give it. What a test waits for is a line that the program prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

WAIT_SECONDS = 40.0  # for one line, on a machine that is busy with other tests

_CLOISTER = "import sys; from policies.command import main; sys.exit(main())"


class Program:
    """One running command. Use as an async context manager: what is left of it at the end is killed."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.lines: list[str] = []  # of stdout and stderr, as they come
        self._process = process
        self._said = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, name: str, *arguments: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Self:
        """Start `cloister ARGUMENTS`."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _CLOISTER, *map(str, arguments)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            start_new_session=True,
        )
        return cls(name, process)

    @classmethod
    async def run(cls, *arguments: str | Path, cwd: Path | None = None) -> tuple[int, list[str]]:
        """Run a command to its end; returns its exit status and what it printed."""
        async with await cls.start("command", *arguments, cwd=cwd) as program:
            return await program.ended(), program.lines

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def said(self, text: str, *, since: int = 0) -> str:
        """Wait for a line that holds `text`, among those from number `since` on, and return it."""

        def found() -> str | None:
            return next((line for line in self.lines[since:] if text in line), None)

        async with self._said:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._said.wait_for(lambda: found() is not None or self._reader.done())
        line = found()
        assert line is not None, f"{self.name} did not say {text!r}, but:\n{self.text}"
        return line

    async def ended(self) -> int:
        """Wait until it has ended, and return its exit status."""
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.shield(self._reader)
            return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Do what Ctrl-C in its terminal does: the whole group gets the signal."""
        os.killpg(self.pid, signal.SIGINT)

    async def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> int:
        """Stop it as an operator would, and return its exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        with contextlib.suppress(TimeoutError):  # a descendant that holds the pipe open is not waited for
            await asyncio.wait_for(self._reader, 5)
        self._process._transport.close()  # type: ignore[attr-defined]  # asyncio closes it only when it is collected

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                async with self._said:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._said.notify_all()
        finally:
            asyncio.get_running_loop().create_task(self._wake())

    async def _wake(self) -> None:
        async with self._said:
            self._said.notify_all()


def children_of(pid: int) -> set[int]:
    """Return every living descendant of a process."""
    found, parents = set(), {pid}
    while parents:
        parents = {child for parent in parents for child in _children(parent)} - found
        found |= parents
    return found


def _children(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return {int(child) for task in tasks for child in (task / "children").read_text().split()}
    return set()


async def gone(pids: set[int]) -> bool:
    """Wait until none of these processes runs; says whether that came to pass."""

    def running(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    deadline = asyncio.get_running_loop().time() + 10
    while any(map(running, pids)):  # these are no children of ours: nothing tells of their end
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
