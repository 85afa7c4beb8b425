"""The demonstration's job: its folder, and what its events tell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl_runtime.demo.digits import MODEL
from fl_runtime.demo.errors import DemoError
from fl_runtime.jobs.job_file import JOB_FILE
from policies.files import write_atomically
from provisioning.toml import toml_text

METRIC = "accuracy"
EPOCHS = 10  # of each site in each round
_CODE = ("train.py", "model.py")


def write_job(folder: Path, *, example: Path, prepared: Path, rounds: int, seed: int) -> None:
    """Write the job's folder: what a data scientist would hand to `cloister job submit`.

    Args:
        folder: Does not exist yet.
        example: Folder of the digits example.
        prepared: Holds the initial model.
        rounds: How many the job has.
        seed: Of the training.
    """
    folder.mkdir(mode=0o700)
    for name in _CODE:
        shutil.copyfile(example / name, folder / name)
    shutil.copyfile(prepared / MODEL, folder / MODEL)
    settings = toml_text(
        "Federated averaging over the four sites' handwritten digits: cloister job submit FOLDER",
        {
            "name": "digits",
            "workflow": "fedavg",
            "rounds": rounds,
            "script": _CODE[0],
            "model": MODEL,
            "config": {"epochs": EPOCHS, "seed": seed},
        },
    )
    write_atomically(folder / JOB_FILE, settings.encode(), mode=0o600)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundDone:
    """One round that was committed, as the server tells of it."""

    number: int  # from 1
    rounds: int
    sites: tuple[str, ...]  # whose updates are in the sum
    metric: Mapping[str, float]  # of the model that the round began with, on each site's own data, by site
    mean: float
    bytes_up: int
    bytes_down: int
    seconds: float
    remark: str  # what went wrong at sites that are missing


@dataclass(slots=True)
class JobStory:
    """What has been told of a job so far."""

    job_id: str = ""
    keys: list[str] = field(default_factory=list)  # nodes that the job's key was released to
    rounds: list[RoundDone] = field(default_factory=list)
    waiting: str = ""  # for what, while it waits

    def take(self, line: str) -> RoundDone | None:
        """Take one line of `cloister job submit --format json`; returns the round, if it tells of one.

        Raises:
            DemoError: It is not such a line.
        """
        try:
            event = json.loads(line)
            return self._take(event)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DemoError(f"`cloister job submit` printed {line!r:.200}, expected an event as JSON") from error

    def _take(self, event: Mapping[str, Any]) -> RoundDone | None:
        kind = event["kind"]
        if kind != "waiting":
            self.waiting = ""
        if kind == "submitted":
            self.job_id = event["job_id"]
        elif kind == "key":
            self.keys += [node for node in event.get("sites", ()) if node not in self.keys]
        elif kind == "waiting":
            self.waiting = event.get("text", "")
        elif kind == "round":
            done = _round(event)
            self.rounds.append(done)
            return done
        return None


def _round(event: Mapping[str, Any]) -> RoundDone:
    metric = event.get("metrics", {}).get(METRIC, {"by_site": {}, "mean": 0.0})
    return RoundDone(
        number=event["round"],
        rounds=event["rounds"],
        sites=tuple(event["sites"]),
        metric=dict(metric["by_site"]),
        mean=metric["mean"],
        bytes_up=event.get("bytes_up", 0),
        bytes_down=event.get("bytes_down", 0),
        seconds=event.get("seconds", 0.0),
        remark=event.get("text", ""),
    )
