"""One script's conversation with its runtime.

The script asks `is_running`, which waits for a task; receives its model; and answers it with `send`. The socket and what the
script may know about its job come through two environment variables, set by the launcher.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_runtime.arrays import Layout, decode, read_layout
from fl_runtime.client.model import FLModel, MetaKey
from fl_runtime.client.tensors import from_script, to_script
from fl_runtime.client.wire import Channel, End, Log, Result, Task, open_sealed, sample_count, seal, split_meta
from policies.errors import UsageError

FD_VARIABLE = "CLOISTER_RUNTIME_FD"  # number of the inherited socket
JOB_VARIABLE = "CLOISTER_RUNTIME_JOB"  # JSON: job, site, config


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """What a script may know about the job it runs in."""

    job: str
    site: str
    config: Mapping[str, Any]

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> JobView:
        """Read what the launcher left in the environment.

        Raises:
            UsageError: The script was not started by a runtime.
        """
        try:
            value = json.loads(environment[JOB_VARIABLE])
            return cls(job=value["job"], site=value["site"], config=value["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                "this script was not started by a runtime",
                hint="start it as a job: recipe.execute(SimEnv(num_clients=2)), or `cloister job submit`",
            ) from error

    def encode(self) -> str:
        """Return the text that `load` reads."""
        return json.dumps({"job": self.job, "site": self.site, "config": dict(self.config)})


class APIContext:
    """State of the conversation: the task being worked on, and its model until it is answered.

    Only rank 0 of a distributed script talks to the runtime; for the others `is_running` is False and `receive` gives
    None, and rank 0 broadcasts to them.
    """

    def __init__(self, *, rank: str, config_file: str | None, environment: Mapping[str, str]) -> None:
        self.rank = rank
        self.config_file = config_file
        self.view = JobView.load(environment)
        defaults = json.loads(Path(config_file).read_text("utf-8")) if config_file else {}
        self.config: dict[str, Any] = {**defaults, **self.view.config}
        self._channel = _inherited(environment) if rank == "0" else None
        self._ended = self._channel is None
        self._task: Task | None = None  # until it is answered
        self._layout: Layout | None = None  # of the last model that came
        self._model: FLModel | None = None
        self._handed_out = False

    @property
    def task_name(self) -> str:
        """Name of the task being worked on; empty between tasks."""
        return self._task.name if self._task else ""

    def is_running(self) -> bool:
        """Wait for the next task. False once there is none.

        Raises:
            RuntimeError: The task that was received has not been answered: the runtime would wait for ever.
        """
        if self._task is not None and self._handed_out:
            raise RuntimeError(f"round {self._task.round_number} was received and not answered: call flare.send first")
        return self._has_task(None)

    def receive(self, timeout_seconds: float | None) -> FLModel | None:
        """Return the model of the current task, waiting if there is none; None after the timeout or at the end."""
        try:
            if not self._has_task(timeout_seconds):
                return None
        except TimeoutError:
            return None
        self._handed_out = True
        return self._model

    def send(self, model: FLModel, *, clear_cache: bool) -> None:
        """Answer the current task.

        Raises:
            TypeError: Not an FLModel, or a metric or meta value that cannot travel.
            RuntimeError: There is no task to answer, or nothing to answer it with.
            ArraysError: The params are not of the received model's names and shapes, or not finite.
            ValueError: A metric or meta value is not finite, they are too large, or NUM_STEPS_CURRENT_ROUND is missing.
        """
        if not isinstance(model, FLModel):
            raise TypeError(f"flare.send takes an FLModel, found {type(model).__name__}")
        if self._channel is None or self._task is None:
            raise RuntimeError("there is no task to answer: call flare.receive first (on rank 0)")
        if model.params is None and self._task.name != "validate":
            raise RuntimeError(f"a {self._task.name} task is answered with params, found none")
        result = _result(model)
        if self._task.name == "train":
            sample_count(result.meta)
        if model.params is None:
            self._channel.send(result)
        elif self._layout is None:
            raise RuntimeError("params cannot be checked: no model was received before")
        else:
            fd = seal(from_script(model.params, self._layout), self._layout)
            try:
                self._channel.send(result, fd=fd)
            finally:
                os.close(fd)
        self._task = None
        if clear_cache:
            self.clear()

    def log(self, key: str, value: object, *, data_type: str, step: int | None) -> bool:
        """Send one record; True if it was sent, False on ranks that do not talk to the runtime or after the end."""
        if self._channel is None or self._ended:
            return False
        text = json.dumps(value, default=lambda scalar: scalar.item())
        self._channel.send(Log(key=key, value=text, data_type=data_type, step=step))
        return True

    def clear(self) -> None:
        """Let go of the received model, so that its memory can be freed."""
        self._model = None

    def close(self) -> None:
        """End the conversation."""
        self._ended, self._task = True, None
        self.clear()
        if self._channel is not None:
            self._channel.close()

    def _has_task(self, timeout_seconds: float | None) -> bool:
        """Whether there is a task, waiting for one. Raises TimeoutError."""
        if self._task is not None:
            return True
        if self._ended or self._channel is None:
            return False
        message, fd = self._channel.receive(Task, End, timeout_seconds=timeout_seconds)
        if not isinstance(message, Task):
            self._ended = True
            return False
        self._task, self._handed_out = message, False
        self._model = self._unpack(message, fd)
        return True

    def _unpack(self, task: Task, fd: int | None) -> FLModel:
        params = None
        if fd is not None:
            memory = open_sealed(fd, writable=True)
            self._layout = read_layout(memory)
            params = to_script(decode(memory, self._layout, writable=True), self._layout)
        meta = {
            **task.meta,
            **task.numbers,
            MetaKey.JOB_ID: self.view.job,
            MetaKey.SITE_NAME: self.view.site,
            MetaKey.CURRENT_ROUND: task.round_number,
            MetaKey.TOTAL_ROUNDS: task.total_rounds,
        }
        return FLModel(params=params, current_round=task.round_number, total_rounds=task.total_rounds, meta=meta)


def _inherited(environment: Mapping[str, str]) -> Channel:
    """Open the inherited socket a second time: closing the context leaves the launcher's own end alone."""
    try:
        return Channel(socket.socket(fileno=os.dup(int(environment[FD_VARIABLE]))))
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"{FD_VARIABLE} does not name an open socket: {error}") from error


def _result(model: FLModel) -> Result:
    metrics = {}
    for name, value in (model.metrics or {}).items():
        try:
            metrics[name] = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"metrics[{name!r}] is a {type(value).__name__}, expected a number") from error
    plain, numbers = split_meta(model.meta)
    for what, values in (("metrics", metrics), ("meta", numbers)):
        for name, number in values.items():
            if not math.isfinite(number):
                raise ValueError(f"{what}[{name!r}] is {number}")
    return Result(params_type=model.params_type, metrics=metrics, meta=plain, numbers=numbers)
