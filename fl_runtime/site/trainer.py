"""The site's side of its trainers: start the launcher, start a trainer in it, hand it tasks, check its answers.

Synchronous; the site calls it through `asyncio.to_thread`. Nothing here imports torch.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import fl_runtime
from fl_runtime.arrays import Layout, ModelArrays
from fl_runtime.client.wire import (
    Channel,
    End,
    Exited,
    Failed,
    Log,
    Ready,
    Result,
    Task,
    TaskName,
    seal,
    split_meta,
)
from fl_runtime.errors import FederationError, TrainerError, TrainerLostError
from fl_runtime.site.trainer_isolation import IsolationReport
from fl_runtime.site.trainer_result import FLModelResult, check_result
from fl_runtime.site.trainer_spec import LOG_NAME, Started, Stop, Stopped, TrainerSpec
from policies.documents import Document
from policies.errors import MalformedDocumentError

logger = logging.getLogger(__name__)

# The launcher gets these of the site's variables and no others: tokens and keys often lie in an environment.
KEPT_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
# torch imports its compiler when the first optimizer is made, which takes as long as torch itself: once is enough.
TORCH = ("torch", "torch._dynamo")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

M = TypeVar("M", bound=Document)


class TrainerProtocol(Protocol):
    """What the site needs of a trainer; a simulator may offer another."""

    def train(
        self,
        task_name: TaskName,
        params: ModelArrays | None,
        *,
        round_number: int,
        total_rounds: int,
        meta: Mapping[str, Any] | None = None,
    ) -> FLModelResult:
        """Have one task done and return the checked answer."""

    def stop(self, *, grace_seconds: float = 5.0) -> None:
        """End the trainer."""


class TrainerLauncher:
    """The launcher process. Closing it ends every trainer; so does the end of this process."""

    def __init__(self, process: subprocess.Popen[bytes], control: Channel) -> None:
        self._process = process
        self._control = control
        self._lock = threading.Lock()  # one request at a time
        self._ready: Ready | None = None

    @classmethod
    def start(cls, *, preload: tuple[str, ...] = TORCH, environment: Mapping[str, str] | None = None) -> Self:
        """Start the launcher and return at once, while it still imports `preload`.

        Args:
            preload: Modules imported once for all trainers.
            environment: Variables to choose `KEPT_VARIABLES` from; this process's own by default.
        """
        source = os.environ if environment is None else environment
        kept = {name: source[name] for name in KEPT_VARIABLES if name in source}
        root = str(Path(fl_runtime.__file__).parents[1])
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (kept.get("PYTHONPATH"), root)))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - this program's own interpreter and module
                [sys.executable, "-P", "-m", "fl_runtime.site.launcher", str(theirs.fileno()), *preload],
                env={**kept, **ONE_THREAD},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C reaches the terminal's whole group; the site decides what ends
            )
        return cls(process, Channel(ours))

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self._process.pid

    def start_trainer(
        self,
        spec: TrainerSpec,
        *,
        progress_seconds: float | None = None,
        on_log: Callable[[Log], None] | None = None,
        startup_seconds: float = 300.0,
    ) -> Trainer:
        """Fork a trainer for `spec`, isolated and running its script.

        Args:
            spec: What it runs.
            progress_seconds: How long it may say nothing while it works on a task; every `flare.log` starts this anew.
            on_log: Called with each record of the script's `flare.log`.
            startup_seconds: How long the launcher's imports and the fork may take.

        Raises:
            TrainerLostError: The launcher or the trainer ended, or took too long.
        """
        deadline = time.monotonic() + startup_seconds
        with self._lock:
            if self._ready is None:
                self._ready = self._expect(Ready, deadline)[0]
            self._control.send(spec.request(), timeout_seconds=10)
            started, fd = self._expect(Started, deadline)
        if fd is None:
            raise TrainerLostError("the trainer launcher sent no socket with its trainer")
        channel = Channel(socket.socket(fileno=fd))
        trainer = Trainer(
            spec, channel, pid=started.pid, kill=self._stop_trainer, progress_seconds=progress_seconds, on_log=on_log
        )
        try:
            trainer.await_ready(self._ready, seconds=max(0.0, deadline - time.monotonic()))
        except BaseException:
            trainer.stop(grace_seconds=0)
            raise
        return trainer

    def close(self) -> None:
        """End the launcher and all trainers, and wait until they are gone."""
        self._control.close()
        if self._ready is None:  # it has no trainer yet, and may be in the middle of a long import
            self._process.kill()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _stop_trainer(self, pid: int) -> None:
        with self._lock:
            self._control.send(Stop(pid=pid), timeout_seconds=10)
            self._expect(Stopped, time.monotonic() + 30)

    def _expect(self, kind: type[M], deadline: float) -> tuple[M, int | None]:
        try:
            message, fd = self._control.receive(kind, timeout_seconds=max(0.001, deadline - time.monotonic()))
        except TimeoutError:
            raise TrainerLostError(f"the trainer launcher did not say {kind.__name__} in time") from None
        if message is None:
            raise TrainerLostError(
                "the trainer launcher ended", hint="its output says why; a module to preload may be missing"
            )
        return message, fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Trainer:
    """One trainer, for the whole of a job. `stop` may be called from another thread while `train` waits."""

    def __init__(
        self,
        spec: TrainerSpec,
        channel: Channel,
        *,
        pid: int,
        kill: Callable[[int], None],
        progress_seconds: float | None,
        on_log: Callable[[Log], None] | None,
    ) -> None:
        self.spec = spec
        self.pid = pid
        self.isolation = IsolationReport(applied=(), missing=())
        self._channel = channel
        self._kill = kill
        self._progress_seconds = progress_seconds
        self._on_log = on_log
        self._working = threading.Lock()
        self._round: int | None = None
        self._layout: Layout | None = None  # of the last model it was given; a model of its own has the same
        self._stopped = False

    def await_ready(self, launcher: Ready, *, seconds: float) -> None:
        """Wait until the trainer is isolated, and keep its report together with the launcher's."""
        message, _ = self._receive(Ready, Exited, Failed, seconds=seconds)
        if not isinstance(message, Ready):
            raise self._ended(message)
        applied, missing = (*launcher.applied, *message.applied), (*launcher.missing, *message.missing)
        self.isolation = IsolationReport(applied=applied, missing=missing)

    def train(
        self,
        task_name: TaskName,
        params: ModelArrays | None,
        *,
        round_number: int,
        total_rounds: int,
        meta: Mapping[str, Any] | None = None,
    ) -> FLModelResult:
        """Have one task done and return the checked answer.

        Args:
            task_name: "train", "validate" or "submit_model".
            params: The model; None only where the script keeps one, for "submit_model".
            round_number: Counted from 0.
            total_rounds: Of the job.
            meta: Text, numbers and booleans for the script.

        Raises:
            TrainerError: The script raised.
            TrainerLostError: The trainer ended, or said nothing for `progress_seconds`.
            ArraysError: What it answered is not of the model's layout, or not finite.
            FederationError: The answer is malformed, has no params, or no NUM_STEPS_CURRENT_ROUND.
        """
        with self._working:
            self._round = round_number
            self._layout = self._layout if params is None else Layout.of(params)
            plain, numbers = split_meta(meta or {})
            task = Task(
                name=task_name, round_number=round_number, total_rounds=total_rounds, meta=plain, numbers=numbers
            )
            self._send(task, params)
            return self._await_result(task)

    def stop(self, *, grace_seconds: float = 5.0) -> None:
        """End the trainer: let its script leave its loop within the grace, then kill it with all it started."""
        if self._stopped:
            return
        self._stopped = True
        if grace_seconds > 0 and self._working.acquire(blocking=False):
            try:
                self._leave(time.monotonic() + grace_seconds)
            finally:
                self._working.release()
        try:
            self._kill(self.pid)
        except TrainerLostError:  # the launcher is gone, and its trainers with it
            logger.warning("trainer launcher was gone before its trainer", extra={"site": self.spec.site})
        if self._working.acquire(timeout=1.0):  # a `train` in another thread has read the end first
            self._channel.close()
            self._working.release()

    def _leave(self, deadline: float) -> None:
        try:
            self._channel.send(End(), timeout_seconds=1)
            while (left := deadline - time.monotonic()) > 0:
                message, fd = self._receive(Result, Log, Failed, Exited, seconds=left)
                _close(fd)
                if message is None or isinstance(message, Exited):
                    return
        except FederationError as error:
            logger.info("trainer did not leave by itself", extra={"site": self.spec.site, "reason": str(error)})

    def _send(self, task: Task, params: ModelArrays | None) -> None:
        fd = None if params is None or self._layout is None else seal(params, self._layout)
        try:
            self._channel.send(task, fd=fd, timeout_seconds=self._progress_seconds)
        except TrainerLostError:
            # The trainer is gone; what it said before it went explains more than a broken pipe does.
            message, received = self._receive(Failed, Exited, seconds=1)
            _close(received)
            raise self._ended(message) from None
        finally:
            _close(fd)

    def _await_result(self, task: Task) -> FLModelResult:
        while True:
            message, fd = self._receive(Result, Log, Failed, Exited, seconds=self._progress_seconds)
            if isinstance(message, Result):
                return check_result(message, fd, task, self._layout)
            _close(fd)
            if not isinstance(message, Log):
                raise self._ended(message)
            if self._on_log is not None:
                self._on_log(message)

    def _receive(self, *kinds: type[M], seconds: float | None) -> tuple[M | None, int | None]:
        try:
            return self._channel.receive(*kinds, timeout_seconds=seconds)
        except TimeoutError:
            raise TrainerLostError(f"{self._who()} said nothing for {seconds:g} s") from None
        except MalformedDocumentError as error:
            raise FederationError(f"{self._who()} does not follow the protocol: {error}") from error

    def _ended(self, message: Document | None) -> FederationError:
        if isinstance(message, Failed):
            return TrainerError(
                site=self.spec.site,
                round_number=self._round,
                file=message.file,
                line=message.line,
                exception=message.exception,
                detail=message.detail,
                traceback=message.traceback,
            )
        how = "its launcher is gone"
        if isinstance(message, Exited):
            ended = message.status
            names = {number.value: number.name for number in signal.Signals}
            how = (
                f"killed by {names.get(-ended, f'signal {-ended}')}" if ended < 0 else f"it exited with status {ended}"
            )
        return TrainerLostError(f"{self._who()} is gone: {how}", hint=f"see {self.spec.workdir / LOG_NAME}")

    def _who(self) -> str:
        when = "" if self._round is None else f", round {self._round + 1}"
        return f"trainer (site {self.spec.site}{when})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
