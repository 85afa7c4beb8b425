"""The demonstration's job: a folder that `cloister job submit` takes, and events that are told or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fl_runtime.arrays import encode
from fl_runtime.demo.digits import MODEL, example_folder
from fl_runtime.demo.errors import DemoError
from fl_runtime.demo.job import JobStory, write_job
from fl_runtime.jobs.job_file import load_job

ROUND = {
    "kind": "round",
    "round": 2,
    "rounds": 5,
    "sites": ["a", "b"],
    "metrics": {"accuracy": {"by_site": {"a": 0.5, "b": 0.7}, "mean": 0.6}},
    "bytes_up": 77,
    "bytes_down": 78,
    "seconds": 0.25,
}


def test_written_job_is_one_that_can_be_submitted(tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(encode({"w": np.zeros(3, np.float32)}))
    write_job(tmp_path / "job", example=example_folder(), prepared=tmp_path, rounds=3, seed=9)
    package = load_job(tmp_path / "job")
    assert (package.file.rounds, package.file.config["seed"], package.file.script) == (3, 9, "train.py")
    assert package.file.metrics == ("accuracy",)


def test_round_is_told_with_its_metric_by_site() -> None:
    done = JobStory().take(json.dumps(ROUND))
    assert done is not None
    assert (done.number, done.rounds, done.sites, done.metric, done.mean) == (
        2,
        5,
        ("a", "b"),
        {"a": 0.5, "b": 0.7},
        0.6,
    )


def test_round_without_what_a_job_may_leave_out_is_told() -> None:
    bare = {key: ROUND[key] for key in ("kind", "round", "rounds", "sites")}
    done = JobStory().take(json.dumps(bare))
    assert done is not None
    assert (done.metric, done.bytes_up) == ({}, 0)


def test_nodes_that_got_the_key_are_counted_once() -> None:
    story = JobStory()
    for node in ("server", "a", "a"):
        assert story.take(json.dumps({"kind": "key", "sites": [node]})) is None
    assert story.keys == ["server", "a"]


def test_waiting_is_over_with_the_next_event() -> None:
    story = JobStory()
    story.take(json.dumps({"kind": "waiting", "text": "waiting for b"}))
    assert story.waiting == "waiting for b"
    story.take(json.dumps({"kind": "state", "state": "running"}))
    assert not story.waiting


def test_submission_names_the_job() -> None:
    story = JobStory()
    story.take(json.dumps({"kind": "submitted", "job_id": "digits-1"}))
    assert story.job_id == "digits-1"


@pytest.mark.parametrize("line", ["", "{", "[]", '"text"', "{}", '{"kind": "round"}', '{"kind": "submitted"}'])
def test_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(DemoError, match="expected an event"):
        JobStory().take(line)
