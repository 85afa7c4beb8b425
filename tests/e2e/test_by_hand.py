"""The commands of docs/by-hand.md, run as they are written, in a folder that looks like a clone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "by-hand.md"
FOLDERS = ("attestation", "policies", "provisioning", "fl_runtime", "examples")
ELISION = "…"
SECONDS = 60.0
BEGIN = ". .venv/bin/activate"  # every terminal, says the page

BLOCK = re.compile(
    r"^```(?P<kind>sh terminal|sh|text)\n(?P<body>.*?)^```$|^<!-- stop: (?P<stop>.*) -->$", re.MULTILINE | re.DOTALL
)


@dataclass
class Terminals:
    """One shell in which commands are typed, and programs that run in terminals of their own."""

    folder: Path
    running: dict[str, tuple[subprocess.Popen[bytes], Path]] = field(default_factory=dict)
    said: str = ""  # by the last block
    waiting: tuple[Path, ...] = ()  # outputs of the programs that the last block started

    def type(self, commands: str) -> None:
        # A shell for each block, as if it were one: what a block sets, the next one finds.
        script = f"set -e; {BEGIN}; [ ! -f .typed ] || . ./.typed\n{commands}\ndeclare -p image measurement > .typed 2>&- || :"
        shell = ["bash", "-c", script]
        done = subprocess.run(shell, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        self.said, self.waiting = done.stdout, ()

    def start(self, commands: str) -> None:
        started = []
        for command in commands.splitlines():
            log = self.folder / f"terminal-{len(self.running)}.log"
            script = f"{BEGIN}; exec {command}"
            with log.open("wb") as out:
                program = subprocess.Popen(
                    ["bash", "-c", script], cwd=self.folder, stdout=out, stderr=out, start_new_session=True
                )
            self.running[command] = program, log
            started.append(log)
        self.waiting = tuple(started)

    def expect(self, text: str) -> None:
        for log in self.waiting:
            deadline = time.monotonic() + SECONDS
            while missing := first_missing(text, log.read_text()):
                assert time.monotonic() < deadline, f"not said: {missing}\n{log.read_text()}"
                time.sleep(0.05)
        if not self.waiting:
            assert first_missing(text, self.said) is None, f"expected\n{text}\nfound\n{self.said}"

    def stop(self, order: str) -> None:
        for what in order.split(", "):
            stopped = [program for command, (program, _) in self.running.items() if what in command]
            assert stopped, f"nothing that runs is called {what}"
            for program in stopped:
                program.send_signal(signal.SIGINT)
            for program in stopped:
                assert program.wait(SECONDS) == 0, what


def first_missing(text: str, said: str) -> str | None:
    """Return the first line of `text` that `said` does not hold in this order; what is elided may be anything."""
    place = 0
    for line in text.splitlines():
        pattern = r"[^\n]*".join(re.escape(part) for part in line.strip().split(ELISION))
        found = re.compile(pattern).search(said, place)
        if found is None:
            return line
        place = found.end()
    return None


@contextmanager
def clone() -> Iterator[Terminals]:
    # Copied, because the mock TEE measures these folders: an edit in the middle would be another image. And not in pytest's own
    # folder: the path of a unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="hand-"))
    terminals = Terminals(folder)
    try:
        for name in FOLDERS:
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / ".venv").symlink_to(sys.prefix)
        yield terminals
    finally:
        for program, _ in terminals.running.values():
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_commands_of_the_page_do_what_it_says():
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    assert len(re.findall(r"^```\w", PAGE.read_text(), re.MULTILINE)) == sum(
        block["kind"] is not None for block in blocks
    )
    with clone() as terminals:
        for block in blocks:
            match block["kind"]:
                case "sh":
                    terminals.type(block["body"])
                case "sh terminal":
                    terminals.start(block["body"])
                case "text":
                    terminals.expect(block["body"])
                case _:
                    terminals.stop(block["stop"])
