"""The trainer launcher: `python -P -m fl_runtime.site.launcher FD [MODULE...]`, started by the site.

It is small and knows nothing: no gRPC, no secrets, one thread. It imports what trainers will want once, and forks one process
for each that the site asks for over the inherited socket FD. It ends when that socket closes, and every trainer with it.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fl_runtime.client.wire import Channel, Exited, Ready
from fl_runtime.errors import TrainerLostError
from fl_runtime.site.trainer_process import preload, run_trainer
from fl_runtime.site.trainer_spec import Start, Started, Stop, Stopped

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    channel: Channel  # the trainer's own end, kept to say how it ended
    pidfd: int  # readable once the trainer has ended


class Launcher:
    """Forks trainers, notices their end and leaves none behind."""

    def __init__(self, control: Channel) -> None:
        self._control = control
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Answer the site until it closes the socket."""
        try:
            while True:
                for key, _ in self._selector.select():
                    if isinstance(key.data, int):
                        self._bury(key.data)
                    elif not self._answer():
                        return
        finally:
            for pid in list(self._children):
                self._bury(pid)

    def _answer(self) -> bool:
        message, fd = self._control.receive(Start, Stop)
        if fd is not None:
            os.close(fd)
        if message is None:
            return False
        if isinstance(message, Start):
            self._fork(message)
        elif isinstance(message, Stop):
            self._bury(message.pid)
            self._control.send(Stopped(pid=message.pid))
        return True

    def _fork(self, request: Start) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            run_trainer(request, Channel(theirs), launcher=launcher)
        child = _Child(channel=Channel(theirs), pidfd=os.pidfd_open(pid))
        self._children[pid] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, data=pid)
        self._control.send(Started(pid=pid), fd=ours.fileno())
        ours.close()

    def _bury(self, pid: int) -> None:
        """Kill the trainer and whatever it started, and tell its site how it ended. Harmless when it is gone."""
        child = self._children.pop(pid, None)
        if child is None:
            return
        _kill(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._kill_orphans()
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        with suppress(TrainerLostError):  # the site has closed its end
            child.channel.send(Exited(status=status), timeout_seconds=1)
        child.channel.close()

    def _kill_orphans(self) -> None:
        """Kill what ended trainers left: its subreaper inherits it, even from a session of its own."""
        while orphans := [pid for pid in _children_of(os.getpid()) if pid not in self._children]:
            for pid in orphans:
                _kill(pid)
                os.waitpid(pid, 0)


def _kill(pid: int) -> None:
    """Kill a process and, where it leads one, its group."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _children_of(parent: int) -> list[int]:
    children = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # gone meanwhile
                # proc_pid_stat(5): "pid (comm) state ppid ..."; comm may itself hold spaces and parentheses
                if int((folder / "stat").read_text("ascii", "replace").rpartition(")")[2].split()[1]) == parent:
                    children.append(int(folder.name))
    return children


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def main(arguments: Sequence[str]) -> None:
    """Run the launcher on the inherited socket `arguments[0]`, with the modules that follow imported."""
    control = Channel(socket.socket(fileno=int(arguments[0])))
    os.set_inheritable(control.fileno(), False)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    preload(arguments[1:])
    # A fork copies one thread: a lock that another thread holds at that moment stays locked in the trainer for ever.
    missing = () if _threads() == 1 else (f"fork from a single thread: {_threads()} threads after {arguments[1:]}",)
    with suppress(TrainerLostError):  # the site is gone before this launcher was ready
        control.send(Ready(applied=(), missing=missing))
        Launcher(control).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
