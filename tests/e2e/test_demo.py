"""`cloister demo`, for real: from nothing to a verified record, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

CLOISTER = (sys.executable, "-P", "-c", "import sys; from policies.command import main; sys.exit(main())")
SECONDS = 110  # of a machine that has other things to do

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Demonstration:
    """One run that has ended."""

    output: Path
    screen: str

    @property
    def summary(self) -> dict[str, object]:
        return json.loads((self.output / "summary.json").read_text())  # type: ignore[no-any-return]


def command(output: Path, *arguments: str) -> tuple[str, ...]:
    return (*CLOISTER, "demo", "--rounds", "2", "--output", str(output), *arguments)


def running_in(folder: Path) -> list[str]:
    """Every process whose command line, or whose working folder, is about `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            told = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if entry.name.isdecimal() and (str(folder) in told or str(folder) in str((entry / "cwd").readlink())):
                found.append(told)
        except OSError:  # it has ended, or is none
            continue
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path: unix sockets are made in it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def shown() -> Iterator[Demonstration]:
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        output = Path(folder) / "demo"
        finished = subprocess.run(command(output), capture_output=True, text=True, check=False, timeout=SECONDS)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert running_in(output) == []
        yield Demonstration(output, finished.stdout)


def audit_verify(folder: Path, trust: Path) -> int:
    arguments = ("audit", "verify", str(folder), "--trust", str(trust), "--quiet")
    return subprocess.run((*CLOISTER, *arguments), capture_output=True, check=False).returncode


def test_summary_tells_of_all_that_was_shown(shown: Demonstration) -> None:
    summary = shown.summary
    assert (summary["status"], summary["rounds"], summary["sites"]) == ("completed", 2, 4)
    attacks = summary["attacks"]
    assert isinstance(attacks, list)
    assert len(attacks) == 10
    assert all(attack["refused"] for attack in attacks)
    assert len({attack["reason"] for attack in attacks}) == 10
    audit = summary["audit"]
    assert isinstance(audit, dict)
    assert audit["verified"] is True
    assert audit["records"] > 100


def test_federated_model_is_better_than_the_worst_site_alone(shown: Demonstration) -> None:
    metric = shown.summary["metric"]
    assert isinstance(metric, dict)
    assert metric["federated"] > min(metric["alone"].values())
    assert metric["centralised"] > 0.9


def test_screen_is_plain_in_a_pipe_and_says_that_it_is_a_mock(shown: Demonstration) -> None:
    assert "\x1b" not in shown.screen
    assert "nothing here is attested by hardware" in shown.screen
    assert "round 2/2" in shown.screen
    assert "attacks refused: 10 of 10" in shown.screen


def test_model_is_loaded_as_the_screen_says(shown: Demonstration) -> None:
    assert f'load_file("{shown.output / "model.safetensors"}")' in shown.screen
    assert sum(array.size for array in load_file(shown.output / "model.safetensors").values()) == 4810


def test_report_is_there_and_fetches_nothing(shown: Demonstration) -> None:
    report = (shown.output / "report.html").read_text()
    assert "hospital-d" in report
    assert "http" not in report.replace("http-equiv", "")


def test_record_verifies_and_does_not_after_any_byte_was_changed(shown: Demonstration) -> None:
    audit, trust = shown.output / "audit", shown.output / "trust.json"
    assert audit_verify(audit, trust) == 0
    for name in ("service/records", "server/checkpoints", "hospital-c/records", "server/cosignatures"):
        path = audit / name
        before = path.read_bytes()
        middle = len(before) // 2
        path.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
        try:
            assert audit_verify(audit, trust) != 0, name
        finally:
            path.write_bytes(before)
    assert audit_verify(audit, trust) == 0


def test_second_run_replaces_the_first(place: Path) -> None:
    output = place / "demo"
    for _ in range(2):
        finished = subprocess.run(
            command(output, "--no-attacks"), capture_output=True, text=True, check=False, timeout=SECONDS
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
    assert json.loads((output / "summary.json").read_text())["attacks"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("shown_before", ["k = 1", "round 1/"])
def test_signal_ends_everything(place: Path, number: signal.Signals, shown_before: str) -> None:
    output = place / "demo"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command(output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        reached = any(shown_before in line for line in iter(process.stdout.readline, ""))
        process.send_signal(number)
        _, errors = process.communicate(timeout=SECONDS)
        assert reached, errors
    assert process.returncode == 130
    assert running_in(output) == []
    assert not (output / "summary.json").exists()


def test_folder_with_something_else_is_left_alone(place: Path) -> None:
    (place / "thesis.tex").write_text("years of work")
    finished = subprocess.run(command(place), capture_output=True, text=True, check=False, timeout=SECONDS)
    assert finished.returncode == 64
    assert "choose another folder" in finished.stderr
    assert (place / "thesis.tex").read_text() == "years of work"
