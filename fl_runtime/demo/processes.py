"""The demonstration's programs as processes: started, listened to, and all of them stopped, whatever happens.

Each has a session of its own, so that Ctrl-C reaches the demonstration alone, which then stops them in order. Readiness is a
line that a program prints; nothing is polled and nothing sleeps. What they print is kept in `logs/NAME.log`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from fl_runtime.demo.errors import ProgramError
from fl_runtime.demo.ground import Finished
from policies.command import harmless

T = TypeVar("T")

MAX_LINE_BYTES = 1 << 20  # of one line that is listened to
KEPT_LINES = 50  # of stderr, to tell why a program has ended
SHOWN_LINES = 5


class Program:
    """One process and what it has said so far."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        """Listen to `process`; needs a running event loop."""
        self.name = name
        self.log = log
        self.stopping = False
        self.output: list[str] = []
        self.errors: deque[str] = deque(maxlen=KEPT_LINES)
        self._process = process
        self._said = asyncio.Condition()
        self._drained = False
        self._file = log.open("ab")
        self.ended = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its session."""
        return self._process.pid

    async def said(self, text: str, *, times: int, timeout_seconds: float) -> str:
        """Wait until `text` is in that many lines of stdout; return the last of them.

        Raises:
            ProgramError: It ended, or did not say so in time.
        """

        def found() -> Sequence[str]:
            return [line for line in self.output if text in line]

        async with self._said:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._said.wait_for(lambda: len(found()) >= times or self.ended_with() is not None)
            except TimeoutError as error:
                raise ProgramError(
                    f"{self.name} did not say {text!r} within {timeout_seconds:g} seconds",
                    hint=f"what it did say is in {self.log}",
                ) from error
        if len(found()) < times:
            raise self.failure()
        return found()[times - 1]

    async def lines(self) -> AsyncIterator[str]:
        """Yield every line of stdout from the first to the last, as they come."""
        number = 0
        while True:
            while number < len(self.output):
                yield self.output[number]
                number += 1
            async with self._said:
                await self._said.wait_for(lambda: number < len(self.output) or self.ended_with() is not None)  # noqa: B023 - awaited here
            if number == len(self.output):
                return

    def ended_with(self) -> int | None:
        """Return its exit code, negative for a signal, once it has ended and everything it said has been read."""
        return self._process.returncode if self._drained else None

    def failure(self) -> ProgramError:
        """Say why it ended: its own `error:` and `hint:` where it gave them, else its last lines on stderr."""
        errors = tuple(self.errors)
        cause, hint = _labelled(errors, "error: "), _labelled(errors, "hint: ")
        last = " | ".join(errors[-SHOWN_LINES:]) or f"it gave no reason, its last line is {''.join(self.output[-1:])!r}"
        code = self.ended_with()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return ProgramError(
            harmless(f"{self.name} has ended ({how}): {cause or last}"),
            hint=harmless(hint or f"everything it said is in {self.log}"),
        )

    def finished(self) -> Finished:
        """Return how it ended, and what it said."""
        code = self.ended_with()
        if code is None:
            raise ProgramError(f"{self.name} has not ended")
        return Finished(exit_code=code, output=tuple(self.output), errors=tuple(self.errors))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill_session(self) -> None:
        """Kill whatever is left of its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
            os.killpg(self.pid, signal.SIGKILL)

    async def _listen(self) -> int:
        out, err = self._process.stdout, self._process.stderr
        if out is None or err is None:
            raise ProgramError(f"{self.name} was started without pipes")
        code = asyncio.create_task(self._process.wait())
        try:
            await asyncio.gather(self._read(out, self.output.append), self._read(err, self.errors.append))
            await code
        finally:
            self._file.close()
            self._drained = True
            async with self._said:
                self._said.notify_all()
        return code.result()

    async def _read(self, stream: asyncio.StreamReader, keep: Callable[[str], None]) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than a line may be: what was read of it is gone, the rest follows
                continue
            if not line:
                return
            self._file.write(line)
            self._file.flush()
            async with self._said:
                keep(line.decode("utf-8", errors="replace").rstrip("\r\n"))
                self._said.notify_all()


class Processes:
    """Every program of one demonstration; leaving the `async with` block stops them all."""

    def __init__(
        self,
        logs: Path,
        *,
        environment: Mapping[str, str],
        stop_order: Sequence[Collection[str]] = (),
        ready_seconds: float = 60.0,
        stop_seconds: float = 10.0,
    ) -> None:
        """Keep logs in `logs`, which exists.

        Args:
            logs: Folder.
            environment: Of every program.
            stop_order: Names of those that are stopped first, group after group; the others follow, all at once.
            ready_seconds: How long a program may take to say what it is waited for.
            stop_seconds: From SIGTERM to SIGKILL.
        """
        self._logs = logs
        self._environment = environment
        self._stop_order = stop_order
        self._ready_seconds = ready_seconds
        self._stop_seconds = stop_seconds
        self._programs: dict[str, Program] = {}
        self._ends: asyncio.Queue[Program] = asyncio.Queue()
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()

    @property
    def pids(self) -> Mapping[str, int]:
        """The process id of every program that has been started and not stopped."""
        return {name: program.pid for name, program in self._programs.items()}

    async def spawn(self, name: str, command: Sequence[str], *, nice: int = 0) -> Program:
        """Start a program without waiting for anything it says.

        Raises:
            ProgramError: One of that name runs, or it cannot be started.
        """
        if name in self._programs or self._closing:
            raise ProgramError(f"{name} runs already" if name in self._programs else "everything is being stopped")
        prefix = ("nice", "-n", str(nice)) if nice else ()
        try:
            process = await asyncio.create_subprocess_exec(
                *prefix,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(self._environment),
                start_new_session=True,
                limit=MAX_LINE_BYTES,
            )
        except OSError as error:
            raise ProgramError(f"{name} cannot be started: {error}") from error
        program = self._programs[name] = Program(name, process, self._logs / f"{name}.log")
        program.ended.add_done_callback(lambda _: self._ends.put_nowait(program))
        if self._closing:  # since the process was asked for
            await self.stop(name)
            raise ProgramError("everything is being stopped")
        return program

    async def start(self, name: str, command: Sequence[str], *, ready: str) -> str:
        """Start a program and return the line of its stdout that holds `ready`.

        Raises:
            ProgramError: It ended, or said nothing in time.
        """
        program = await self.spawn(name, command)
        return await program.said(ready, times=1, timeout_seconds=self._ready_seconds)

    async def run(self, name: str, command: Sequence[str], *, nice: int = 0) -> Finished:
        """Run a program to its end, whatever its exit code."""
        return (await self._finish(name, command, nice=nice)).finished()

    async def require(self, name: str, command: Sequence[str], *, nice: int = 0) -> Finished:
        """Run a program to its end.

        Raises:
            ProgramError: Its exit code is not 0.
        """
        program = await self._finish(name, command, nice=nice)
        if program.ended_with():
            raise program.failure()
        return program.finished()

    async def follow(self, name: str, command: Sequence[str]) -> AsyncIterator[str]:
        """Run a program to its end and yield every line of its stdout as it comes.

        Raises:
            ProgramError: Its exit code is not 0.
        """
        program = await self.spawn(name, command)
        program.stopping = True
        try:
            async for line in program.lines():
                yield line
        finally:
            await self.stop(name)
        if program.ended_with():
            raise program.failure()

    async def said(self, name: str, text: str, *, times: int = 1) -> str:
        """Wait until a program has printed `text` in that many lines of stdout; return the last of them.

        Raises:
            ProgramError: There is none of that name, it ended, or did not say it in time.
        """
        if name not in self._programs:
            raise ProgramError(f"there is no program {name}, running are: {', '.join(self._programs) or 'none'}")
        return await self._programs[name].said(text, times=times, timeout_seconds=self._ready_seconds)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, unless a program ends that should run: then cancel it and say why.

        Raises:
            ProgramError: A program that was started, and that nobody stopped, has ended.
        """
        working = asyncio.create_task(work)
        watching = asyncio.create_task(self._first_to_fail())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise watching.result().failure()
            return working.result()
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def stop(self, name: str) -> None:
        """Stop a program and wait until it is gone; nothing happens to one that is not there."""
        program = self._programs.get(name)
        if program is None:
            return
        program.stopping = True
        program.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_seconds):
                await asyncio.shield(program.ended)
        except TimeoutError:
            program.kill_session()
            await asyncio.shield(program.ended)
        finally:
            program.kill_session()  # of what it may have left behind
        self._programs.pop(name, None)

    async def stop_all(self) -> None:
        """Stop group after group, then all others; nothing can be started any more."""
        self._closing = True
        for group in self._stop_order:
            await asyncio.gather(*map(self.stop, group))
        await asyncio.gather(*map(self.stop, tuple(self._programs)))

    async def _finish(self, name: str, command: Sequence[str], *, nice: int) -> Program:
        program = await self.spawn(name, command, nice=nice)
        program.stopping = True  # that it ends is what is expected of it
        try:
            await asyncio.shield(program.ended)
        finally:
            await self.stop(name)
        return program

    async def _first_to_fail(self) -> Program:
        """Return the first program that ends though nobody stopped it."""
        while (ended := await self._ends.get()).stopping:
            pass
        return ended


def _labelled(lines: Sequence[str], label: str) -> str:
    return next((line.removeprefix(label) for line in reversed(lines) if line.startswith(label)), "")
