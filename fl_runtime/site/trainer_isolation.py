"""Takes rights away from the process it runs in, before a user's script does.

A job's code is not trusted with the machine: no other user's rights, no capabilities, no network, no devices, no ptrace,
only the files it needs and the socket it inherited. Each measure that the host cannot offer is reported, not hidden. Order
matters: namespaces and users need capabilities, and changing the user clears the parent-death signal and `dumpable`.

Sources: Linux man-pages 6.9: prctl(2), capset(2), unshare(2), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fl_runtime.site.trainer_landlock import restrict_files
from fl_runtime.site.trainer_seccomp import restrict_calls

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h, _LINUX_CAPABILITY_VERSION_3
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a trainer keeps."""

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    uid: int | None
    gid: int | None
    data_workers: bool  # unix sockets and shared memory stay allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationReport:
    """Which measures hold, and which the host could not offer and why."""

    applied: tuple[str, ...]
    missing: tuple[str, ...]


def isolate(limits: Limits, *, parent: int, keep_fds: Iterable[int]) -> IsolationReport:
    """Take every right away that `limits` does not name. There is no way back.

    Args:
        limits: What stays.
        parent: Process id of the launcher; the trainer dies with it.
        keep_fds: File descriptors that stay open.

    Raises:
        OSError: A measure that every Linux offers failed, or the user asked for could not be taken on.
    """
    close_other_fds(keep_fds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the model and the data
    optional: list[tuple[str, Callable[[], None]]] = [("no network (namespace)", _leave_network)]
    applied, missing = _attempt(optional)
    if limits.uid is not None:
        _become(limits.uid, limits.gid if limits.gid is not None else limits.uid)
        applied.append("own user")
    else:
        missing.append("own user: none is configured")
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    _prctl(PR_SET_DUMPABLE, 0)  # no ptrace by the same user, and /proc/PID of others' tools stays shut
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)
    applied += [
        "no descriptors",
        "no core file",
        "no capabilities",
        "no new privileges",
        "no ptrace",
        "dies with launcher",
    ]
    more_applied, more_missing = _attempt(
        [
            ("files (Landlock)", lambda: restrict_files(limits.readable, limits.writable)),
            ("calls (seccomp)", lambda: restrict_calls(unix_sockets=limits.data_workers)),
        ]
    )
    if limits.data_workers:
        more_missing.append("no unix sockets: the job starts data workers")
    return IsolationReport(applied=(*applied, *more_applied), missing=(*missing, *more_missing))


def close_other_fds(keep: Iterable[int]) -> None:
    """Close every descriptor but 0, 1, 2 and those of `keep`."""
    kept = {0, 1, 2, *keep}
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd not in kept:
            with suppress(OSError):  # the listing's own
                os.close(fd)


def _attempt(measures: Iterable[tuple[str, Callable[[], None]]]) -> tuple[list[str], list[str]]:
    applied, missing = [], []
    for name, measure in measures:
        try:
            measure()
        except OSError as error:
            missing.append(f"{name}: {error.strerror or error}")
        else:
            applied.append(name)
    return applied, missing


def _leave_network() -> None:
    """Move into a network namespace of its own, where there is nothing; an ordinary user needs a user namespace for it."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:  # root without CAP_SYS_ADMIN may make a user namespace but not map itself into it
        _check(_libc.unshare(CLONE_NEWNET))
        return
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))
    Path("/proc/self/setgroups").write_text("deny", "ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", "ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", "ascii")


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()))  # effective, permitted, inheritable: none


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _check(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
