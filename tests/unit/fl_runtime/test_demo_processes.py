"""Programs are started, listened to and stopped, whatever they do: here they are a few lines of Python each."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fl_runtime.demo.errors import ProgramError
from fl_runtime.demo.ground import python
from fl_runtime.demo.processes import Processes

SERVE = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: (print("closed", flush=True), sys.exit(0)))
    print("ready at 7", flush=True)
    time.sleep(60)
"""
DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(60)
"""


def script(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", textwrap.dedent(text))


def processes(tmp_path: Path, **options: object) -> Processes:
    return Processes(tmp_path, environment=dict(os.environ), **{"ready_seconds": 20.0} | options)  # type: ignore[arg-type]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_start_returns_the_line_that_says_ready(tmp_path: Path) -> None:
    async with processes(tmp_path) as running:
        assert await running.start("server", script(SERVE), ready="ready") == "ready at 7"


async def test_everything_said_is_in_the_log_of_its_name(tmp_path: Path) -> None:
    async with processes(tmp_path) as running:
        await running.start("server", script(SERVE), ready="ready")
    assert (tmp_path / "server.log").read_text() == "ready at 7\nclosed\n"


async def test_nothing_runs_after_the_block_has_ended(tmp_path: Path) -> None:
    async with processes(tmp_path) as running:
        for name in ("one", "two"):
            await running.start(name, script(SERVE), ready="ready")
        pids = tuple(running.pids.values())
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))


async def test_nothing_runs_after_the_block_was_cancelled(tmp_path: Path) -> None:
    pids: list[int] = []
    started = asyncio.Event()

    async def work() -> None:
        async with processes(tmp_path) as running:
            await running.start("server", script(SERVE), ready="ready")
            pids.extend(running.pids.values())
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pids
    assert not any(map(is_running, pids))


async def test_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async with processes(tmp_path, stop_seconds=0.2) as running:
        await running.start("deaf", script(DEAF), ready="ready")
        pid = running.pids["deaf"]
    assert not is_running(pid)


async def test_what_a_program_leaves_behind_is_killed_with_it(tmp_path: Path) -> None:
    parent = """
        import subprocess, time
        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print("child", child.pid, flush=True)
        time.sleep(60)
    """
    async with processes(tmp_path) as running:
        said = await running.start("parent", script(parent), ready="child")
    orphan = int(said.split()[1])
    deadline = time.monotonic() + 5
    while is_running(orphan) and _state(orphan) != "Z":  # nobody may be there to reap it
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


async def test_programs_are_stopped_group_after_group(tmp_path: Path) -> None:
    tell = """
        import signal, sys, time, pathlib
        def end(*_):
            with open(sys.argv[1], "a") as file: file.write(sys.argv[2] + "\\n")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        time.sleep(60)
    """
    order = tmp_path / "order"
    async with processes(tmp_path, stop_order=(("server",), ("service",))) as running:
        for name in ("tee", "service", "server"):
            await running.start(name, (*script(tell), str(order), name), ready="ready")
    assert order.read_text().split() == ["server", "service", "tee"]


async def test_program_that_ends_before_it_is_ready_is_told_with_its_own_error_and_hint(tmp_path: Path) -> None:
    fail = """
        import sys
        print("noise", file=sys.stderr)
        print("error: port 7 is in use", file=sys.stderr)
        print("hint: choose another", file=sys.stderr)
        sys.exit(64)
    """
    async with processes(tmp_path) as running:
        with pytest.raises(ProgramError) as caught:
            await running.start("server", script(fail), ready="ready")
    assert caught.value.message == "server has ended (exit code 64): port 7 is in use"
    assert caught.value.hint == "choose another"


async def test_program_that_ends_without_an_error_line_is_told_with_its_last_lines_and_its_log(tmp_path: Path) -> None:
    async with processes(tmp_path) as running:
        with pytest.raises(ProgramError, match=r"server has ended \(exit code 1\).*ZeroDivisionError") as caught:
            await running.start("server", script("1 / 0"), ready="ready")
    assert str(tmp_path / "server.log") in str(caught.value.hint)


async def test_what_a_program_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    fail = 'import sys; sys.exit("error: \\x1b[2J gone")'
    async with processes(tmp_path) as running:
        with pytest.raises(ProgramError) as caught:
            await running.start("server", script(fail), ready="ready")
    assert "\x1b" not in caught.value.message


async def test_program_that_says_nothing_in_time_is_an_error(tmp_path: Path) -> None:
    async with processes(tmp_path, ready_seconds=0.3) as running:
        with pytest.raises(ProgramError, match=r"did not say 'ready' within 0\.3 seconds"):
            await running.start("mute", script("import time; time.sleep(60)"), ready="ready")


async def test_guarded_work_ends_when_a_program_dies_that_should_run(tmp_path: Path) -> None:
    async def wait_for_ever(running: Processes) -> None:
        await running.start("server", script(SERVE), ready="ready")
        os.kill(running.pids["server"], signal.SIGKILL)
        await asyncio.Event().wait()

    async with processes(tmp_path) as running:
        with pytest.raises(
            ProgramError, match=r"server has ended \(signal 9\): it gave no reason, its last line is 'ready"
        ):
            await running.guard(wait_for_ever(running))


async def test_guarded_work_may_stop_programs_itself(tmp_path: Path) -> None:
    async def work(running: Processes) -> str:
        await running.start("server", script(SERVE), ready="ready")
        await running.stop("server")
        await running.start("server", script(SERVE), ready="ready")
        return "done"

    async with processes(tmp_path) as running:
        assert await running.guard(work(running)) == "done"


async def test_error_of_guarded_work_is_raised_as_it_is(tmp_path: Path) -> None:
    async def work() -> None:
        raise ValueError("this one")

    async with processes(tmp_path) as running:
        with pytest.raises(ValueError, match="this one"):
            await running.guard(work())


async def test_nothing_can_be_started_while_everything_is_being_stopped(tmp_path: Path) -> None:
    async with processes(tmp_path) as running:
        await running.stop_all()
        with pytest.raises(ProgramError, match="being stopped"):
            await running.spawn("late", script(SERVE))


async def test_two_programs_cannot_have_one_name(tmp_path: Path) -> None:
    async with processes(tmp_path) as running:
        await running.start("server", script(SERVE), ready="ready")
        with pytest.raises(ProgramError, match="server runs already"):
            await running.spawn("server", script(SERVE))


async def test_run_returns_exit_code_and_lines(tmp_path: Path) -> None:
    text = 'import sys; print("out"); print("err", file=sys.stderr); sys.exit(5)'
    async with processes(tmp_path) as running:
        finished = await running.run("tool", script(text))
    assert (finished.exit_code, finished.output, finished.errors) == (5, ("out",), ("err",))


async def test_require_raises_for_an_exit_code_that_is_not_0(tmp_path: Path) -> None:
    async with processes(tmp_path) as running:
        with pytest.raises(ProgramError, match="exit code 5"):
            await running.require("tool", script("raise SystemExit(5)"))


async def test_follow_yields_every_line_and_then_raises_what_the_program_failed_with(tmp_path: Path) -> None:
    text = 'import sys; print("one"); print("two"); sys.exit("error: it broke")'
    lines: list[str] = []

    async def follow(running: Processes) -> None:
        async for line in running.follow("job", script(text)):
            lines.append(line)  # noqa: PERF401 - a comprehension would lose them when it raises

    async with processes(tmp_path) as running:
        with pytest.raises(ProgramError, match="it broke"):
            await follow(running)
    assert lines == ["one", "two"]


async def test_said_waits_for_the_text_as_often_as_asked(tmp_path: Path) -> None:
    text = 'import time\nfor n in range(3): print("line", n, flush=True)\ntime.sleep(60)'
    async with processes(tmp_path) as running:
        await running.spawn("site", script(text))
        assert await running.said("site", "line", times=3) == "line 2"


async def test_line_longer_than_a_buffer_does_not_stop_the_listening(tmp_path: Path) -> None:
    text = 'print("x" * (3 << 20)); print("after", flush=True); import time; time.sleep(60)'
    async with processes(tmp_path) as running:
        assert await running.start("loud", script(text), ready="after") == "after"


def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    parent = f"""
        import subprocess, sys, time
        from fl_runtime.demo.ground import python
        sys.stdout.flush()
        subprocess.Popen(python("sleeper"), env={{**__import__("os").environ, "PYTHONPATH": {str(tmp_path)!r}}})
        time.sleep(60)
    """
    with subprocess.Popen(script(parent), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_running(child)
        process.kill()
        deadline = time.monotonic() + 5
        while is_running(child) and _state(child) != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_child_whose_parent_has_gone_already_does_not_start() -> None:
    command = list(python("policies.command:main", "--version"))
    command[command.index(str(os.getpid()))] = "1"
    finished = subprocess.run(command, capture_output=True, check=False)
    assert (finished.returncode, finished.stdout) == (1, b"")


def test_child_becomes_the_function_that_is_named() -> None:
    finished = subprocess.run(python("policies.command:main", "--version"), capture_output=True, check=True, text=True)
    assert "cloister" in finished.stdout
