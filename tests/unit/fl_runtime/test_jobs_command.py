from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.exceptions import Exit
from hypothesis import given
from hypothesis import strategies as st

from fl_runtime import cli
from fl_runtime.jobs.administrator import Session
from fl_runtime.jobs.narrate import as_json, failure_of, in_words, size_in_words
from fl_runtime.transport import federation_pb2 as pb
from policies.command import main
from policies.errors import DeniedError
from tests.unit.fl_runtime.test_jobs_job_file import job_folder

ID = "digits-1a2b3c4d"
ROUND = {"kind": "round", "round": 2, "rounds": 5, "sites": ["a", "b", "c"], "bytes_up": 1_234_567, "seconds": 0.94}


def event(**fields) -> pb.JobEvent:
    metrics = fields.pop("metrics", {})
    made = pb.JobEvent(**fields)
    for name, value in metrics.items():
        made.metrics[name].mean = value
        made.metrics[name].by_site["a"] = value
    return made


COMPLETED = [
    event(kind="state", state="running"),
    event(**ROUND, metrics={"accuracy": 0.841}),
    event(kind="state", state="completed"),
]
FAILED = [
    event(kind="failure", text="site a: train.py:41 ZeroDivisionError", code="federation.trainer", hint="mend line 41"),
    event(kind="state", state="failed", text="site a: train.py:41 ZeroDivisionError"),
]


# --- words ------------------------------------------------------------------------------------------------------------


def test_round_is_one_line():
    line = in_words(event(**ROUND, metrics={"accuracy": 0.841}), sites=4)
    assert line == "round 2/5   3/4 sites   accuracy 0.84   1.2 MB up   0.9 s"


def test_round_of_a_job_from_elsewhere_counts_its_survivors():
    assert in_words(event(**ROUND), sites=None) == "round 2/5   3 sites   1.2 MB up   0.9 s"


def test_round_says_what_went_wrong_at_a_site():
    line = in_words(event(**ROUND, text="d: train.py:3 KeyError"), sites=4)
    assert line.endswith("   (d: train.py:3 KeyError)")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": "state", "state": "running"}, "job running"),
        ({"kind": "state", "state": "running", "text": "c returned"}, "job running: c returned"),
        ({"kind": "state", "state": "failed", "text": "told by the error"}, "job failed"),
        ({"kind": "state", "state": "parked", "text": "waiting for c"}, None),
        ({"kind": "failure", "text": "told by the error"}, None),
        ({"kind": "waiting", "sites": ["c", "d"]}, "waiting for c, d"),
        ({"kind": "waiting", "text": "waiting for the return of c"}, "waiting for the return of c"),
        ({"kind": "key", "text": "site-a"}, "job key released to site-a"),
        ({"kind": "news", "text": "of a later release"}, "of a later release"),
    ],
)
def test_every_kind_of_event_has_its_words(fields, expected):
    assert in_words(event(**fields), sites=4) == expected


@given(st.text(), st.sampled_from(["state", "site", "round", "key", "waiting", "news"]))
def test_no_text_of_a_server_steers_the_terminal_or_forges_a_line(text, kind):
    line = in_words(event(kind=kind, text=text, sites=[text], metrics={text: 0.5}), sites=None)
    assert line.isprintable()
    assert "\n" not in as_json(event(kind=kind, text=text))


def test_json_holds_what_the_event_says_and_nothing_that_it_does_not():
    fields = json.loads(as_json(event(number=3, time_ms=1_767_323_045_678, **ROUND, metrics={"accuracy": 0.5})))
    assert fields == {
        "number": 3,
        "time": "2026-01-02T03:04:05.678+00:00",
        **ROUND,
        "metrics": {"accuracy": {"by_site": {"a": 0.5}, "mean": 0.5}},
    }


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_250_000, "1.2 MB"), (10**16, "10000.0 TB")],
)
def test_sizes_are_told_as_people_read_them(size, words):
    assert size_in_words(size) == words


def test_last_event_decides_how_a_job_ended():
    assert failure_of(COMPLETED[-1], cause=None) is None
    error = failure_of(FAILED[-1], cause=FAILED[0])
    assert error.message == "the job failed: site a: train.py:41 ZeroDivisionError (federation.trainer)"
    assert error.hint == "mend line 41"
    assert (
        "aborted by ada" in failure_of(event(kind="state", state="aborted", text="aborted by ada"), cause=None).message
    )
    for last in (None, event(**ROUND), event(kind="state", state="running")):
        assert "stopped telling" in failure_of(last, cause=None).message


# --- commands ---------------------------------------------------------------------------------------------------------


class FakeSession:
    """What the commands do with a federation, written down."""

    def __init__(self, *events: pb.JobEvent) -> None:
        self.events = events
        self.done: list[tuple] = []

    async def submit(self, package):
        self.done.append(("submit", package.file.name))
        return SimpleNamespace(job_id=ID, digest=bytes(32))

    def sites_of(self, job_id):
        return 3

    async def watch(self, job_id):
        self.done.append(("watch", job_id))
        for each in self.events:
            yield each

    async def abort(self, job_id):
        self.done.append(("abort", job_id))

    async def list_jobs(self):
        return (pb.JobSummary(job_id=ID, state="parked", round=1, rounds=5, reason="waiting\x1b[2J for c"),)

    async def fetch_model(self, job_id, path):
        self.done.append(("model", job_id, path.name))
        return 123


@pytest.fixture
def federation(monkeypatch, tmp_path):
    """Let the commands find this session; returns how to run one of them."""
    monkeypatch.chdir(tmp_path)
    names = "kit name server server_node service_enrol service_attested certificate key signing_key"
    (tmp_path / "admin.toml").write_text("".join(f'{key} = "x"\n' for key in names.split()))
    job_folder(tmp_path / "job")

    def with_events(*events):
        session = FakeSession(*events)

        async def opened(cls, settings, *, say):
            say("server verified")
            return session

        monkeypatch.setattr(Session, "open", classmethod(opened))
        return session

    return with_events


def test_submit_follows_the_job_and_fetches_its_model(federation, capsys):
    session = federation(*COMPLETED)
    assert main(["job", "submit", "job", "--output", "digits.safetensors"]) == 0
    assert session.done == [("submit", "digits"), ("watch", ID), ("model", ID, "digits.safetensors")]
    assert capsys.readouterr().out.splitlines() == [
        "server verified",
        "job running",
        "round 2/5   3/3 sites   accuracy 0.84   1.2 MB up   0.9 s",
        "job completed",
        f"model of {ID} written to digits.safetensors (123 bytes)",
    ]


def test_submit_without_waiting_returns_at_once(federation):
    session = federation(*COMPLETED)
    assert main(["job", "submit", "job", "--no-wait"]) == 0
    assert session.done == [("submit", "digits")]


def test_output_without_waiting_is_refused_before_anything_is_sent(federation, capsys):
    session = federation(*COMPLETED)
    assert main(["job", "submit", "job", "--no-wait", "-o", "x"]) == 64
    assert not session.done
    assert "--output waits for the final model" in capsys.readouterr().err


def test_problem_of_a_job_is_told_before_anybody_is_called(federation, tmp_path, capsys):
    session = federation(*COMPLETED)
    (tmp_path / "job" / "job.toml").write_text('name = "digits"\nrounds = "5"\n')
    assert main(["job", "submit", "job"]) == 64
    assert not session.done
    assert "job.toml:2: rounds" in capsys.readouterr().err


def test_json_lines_on_stdout_are_json_alone(federation, capsys):
    federation(*COMPLETED)
    assert main(["job", "submit", "job", "--format", "json", "-o", "m.safetensors"]) == 0
    captured = capsys.readouterr()
    kinds = [json.loads(line)["kind"] for line in captured.out.splitlines()]
    assert kinds == ["submitted", "state", "round", "state", "model"]
    assert "server verified" in captured.err


def test_failed_job_is_one_message_with_cause_and_hint_and_a_failing_exit(federation, capsys):
    session = federation(*FAILED)
    assert main(["job", "submit", "job", "-o", "m.safetensors"]) == 1
    captured = capsys.readouterr()
    assert ("model", ID, "m.safetensors") not in session.done
    assert captured.err.count("ZeroDivisionError") == 1
    assert "ZeroDivisionError" not in captured.out
    assert "hint: mend line 41" in captured.err


def test_watch_list_abort_and_model_do_what_they_say(federation, capsys):
    session = federation(*COMPLETED)
    assert main(["job", "watch", ID]) == 0
    assert main(["job", "abort", ID]) == 0
    assert main(["job", "model", ID, "-o", "m.safetensors"]) == 0
    assert session.done == [("watch", ID), ("abort", ID), ("model", ID, "m.safetensors")]
    capsys.readouterr()
    assert main(["job", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{ID}   parked   round 1/5   waiting\\x1b[2J for c"
    assert main(["job", "list", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "parked"


def test_error_of_a_task_group_is_told_as_its_first_cause(federation, monkeypatch, capsys):
    session = federation()

    async def broken(job_id):
        async with asyncio.TaskGroup() as group:
            group.create_task(_deny())

    monkeypatch.setattr(session, "abort", broken)
    assert main(["job", "abort", ID]) == 5
    assert "not allowed" in capsys.readouterr().err


async def _deny():
    raise DeniedError("not allowed")


async def test_interrupt_ends_the_watching_and_says_how_to_end_the_job(capsys):
    class Endless(FakeSession):
        async def watch(self, job_id):
            yield COMPLETED[0]
            await asyncio.Event().wait()

    task = asyncio.create_task(cli._follow(Endless(), ID, "text"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(Exit) as caught:
        await task
    assert caught.value.exit_code == 130
    told = capsys.readouterr().err
    assert f"cloister job watch {ID}" in told
    assert f"cloister job abort {ID}" in told
    assert "the job goes on" in told


@pytest.mark.parametrize(
    "command", [("server", "start"), ("site", "start"), ("demo",), ("job", "submit"), ("job", "watch")]
)
def test_help_shows_examples(command, capsys):
    assert main([*command, "--help"]) == 0
    assert f"cloister {' '.join(command)}" in capsys.readouterr().out.partition("Examples")[2]


IMPORTED = """
import sys
from policies.command import main
main(["job", "submit", "--help"])
print(*sys.modules, file=sys.stderr)
"""


def test_help_imports_neither_grpc_nor_numpy_nor_torch():
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert not {"grpc", "numpy", "torch"} & set(done.stderr.split())
