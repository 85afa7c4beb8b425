"""The trainer's own process, from the fork to its end: isolate, run the user's script, say how it went."""

from __future__ import annotations

import importlib
import os
import random
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from fl_runtime.client.context import FD_VARIABLE, JOB_VARIABLE
from fl_runtime.client.wire import Channel, Failed, Ready
from fl_runtime.errors import TrainerLostError
from fl_runtime.site.trainer_isolation import Limits, isolate
from fl_runtime.site.trainer_spec import LOG_NAME, Start

EXIT_RAISED = 1
EXIT_NOT_ISOLATED = 70  # sysexits.h, EX_SOFTWARE

# Read by Python, by numerical libraries when they look at the machine, and by GPU libraries.
SYSTEM_PATHS = (
    *("/usr", "/lib", "/lib64", "/bin", "/proc", "/sys/devices", "/sys/bus", "/sys/class", "/sys/module"),
    *(
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/etc/passwd",
        "/etc/group",
        "/etc/nsswitch.conf",
        "/dev/random",
        "/dev/urandom",
    ),
)
DEVICES = ("/dev/null", "/dev/zero")


def run_trainer(request: Start, channel: Channel, *, launcher: int) -> NoReturn:
    """Run the script of `request` in this process, just forked, and end the process."""
    status = EXIT_NOT_ISOLATED
    try:
        os.setsid()
        _redirect(Path(request.workdir) / LOG_NAME)
        report = isolate(_limits(request), parent=launcher, keep_fds=[channel.fileno()])
        channel.send(Ready(applied=report.applied, missing=report.missing))
        _prepare(request, channel)
        status = EXIT_RAISED
        status = _run_script(request, channel)
    except BaseException:  # noqa: BLE001 - the edge of a program: nothing of the launcher may run on in this process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _redirect(log: Path) -> None:
    """Send what is printed to the log, and read nothing. The log may not be a link: it is opened with the launcher's rights."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    for target, fd in ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(log, flags, 0o600))):
        os.dup2(fd, target)
        os.close(fd)
    os.dup2(1, 2)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def _limits(request: Start) -> Limits:
    python = (sys.prefix, sys.base_prefix, *filter(None, sys.path))
    readable = (*SYSTEM_PATHS, *python, request.workdir, str(Path(request.script).parent), *request.readable)
    writable = (*DEVICES, *map(str, Path("/dev").glob("nvidia*")), request.scratch)
    return Limits(
        readable=tuple(map(Path, readable)),
        writable=(*map(Path, writable), *((Path("/dev/shm"),) if request.data_workers else ())),  # noqa: S108 - a rule's path
        uid=request.uid,
        gid=request.gid,
        data_workers=request.data_workers,
    )


def _prepare(request: Start, channel: Channel) -> None:
    """Give this process its folder, environment, arguments, threads and randomness."""
    os.chdir(request.workdir)
    os.set_inheritable(channel.fileno(), True)  # a script may start rank 0 as a process of its own
    threads = str(request.torch_threads)
    os.environ.update(
        {
            FD_VARIABLE: str(channel.fileno()),
            JOB_VARIABLE: request.view,
            "HOME": request.scratch,
            "TMPDIR": request.scratch,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
        }
    )
    tempfile.tempdir = None  # it may have been looked up before the fork
    sys.argv = [request.script, *request.args]
    sys.path.insert(0, str(Path(request.script).parent))
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # trainers forked from one launcher would otherwise draw the same numbers
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(request.torch_threads)
        torch.seed()


def _run_script(request: Start, channel: Channel) -> int:
    try:
        runpy.run_path(request.script, run_name="__main__")
    except SystemExit as error:
        if error.code in {None, 0}:
            return 0
        _report(error, request, channel)
    except BaseException as error:  # noqa: BLE001 - whatever the user's script raises is told to the site
        traceback.print_exc()
        _report(error, request, channel)
    else:
        return 0
    return EXIT_RAISED


def _report(error: BaseException, request: Start, channel: Channel) -> None:
    file, line = _place(error, (request.workdir, str(Path(request.script).parent)))
    report = Failed(
        file=file[-1000:],
        line=line,
        exception=type(error).__name__[:200],
        detail=str(error)[:4000],
        traceback="".join(traceback.format_exception(error))[-8000:],
    )
    try:
        channel.send(report, timeout_seconds=5)
    except TrainerLostError:
        traceback.print_exc()


def _place(error: BaseException, own: Iterable[str]) -> tuple[str, int]:
    """Return file and line of the innermost frame in the user's own files: where the user has to look."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno or 0
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    folders = tuple(folder.rstrip("/") + "/" for folder in own)
    mine = [place for place in frames if place[0].startswith(folders)]
    return (mine or frames or [("unknown", 0)])[-1]


def preload(modules: Iterable[str]) -> None:
    """Import what trainers will want, once, before any is forked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the site decides what ends
    for module in modules:
        importlib.import_module(module)
