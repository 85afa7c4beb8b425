"""A seccomp filter: no sockets but inherited ones and pairs, no namespaces, no mounts, no looking into other processes.

It is a list of what is refused, not of what is allowed: scripts use every library there is, and an allow-list that lets them
run would hardly be shorter. Refused calls fail with EPERM, so that a script can say so.

Sources: linux/seccomp.h, linux/bpf_common.h, linux/audit.h; numbers from arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, JUMP_EQUAL, JUMP_GE, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|J*|K, BPF_RET|K
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data; low half of args[0], little-endian
X32_CALLS = 0x40000000  # x86_64 kernels may offer a second table of the same calls under these numbers
CLONE_NEW_ANY = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    audit_arch: int
    socket: int
    clone: int
    denied: tuple[int, ...]


# From 424 on the numbers are the same everywhere: io_uring_setup, open_tree, move_mount, fsopen, fsconfig, fsmount,
# pidfd_getfd, mount_setattr. clone3 keeps its flags in memory, where a filter cannot see them.
_COMMON = (425, 428, 429, 430, 431, 432, 438, 442)
CLONE3 = 435
# ptrace, pivot_root, chroot, mount, umount2, swapon, reboot, init_module, kexec_load, add_key, request_key, keyctl, unshare,
# perf_event_open, open_by_handle_at, setns, process_vm_readv, process_vm_writev, kcmp, finit_module, kexec_file_load, bpf,
# userfaultfd
_X86_64 = (
    101,
    155,
    161,
    165,
    166,
    167,
    169,
    175,
    246,
    248,
    249,
    250,
    272,
    298,
    304,
    308,
    310,
    311,
    312,
    313,
    320,
    321,
    323,
)
_AARCH64 = (
    117,
    41,
    51,
    40,
    39,
    224,
    142,
    105,
    104,
    217,
    218,
    219,
    97,
    241,
    265,
    268,
    270,
    271,
    272,
    273,
    294,
    280,
    282,
)
MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(audit_arch=0xC000003E, socket=41, clone=56, denied=_X86_64 + _COMMON),
    "aarch64": _Machine(audit_arch=0xC00000B7, socket=198, clone=220, denied=_AARCH64 + _COMMON),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def restrict_calls(*, unix_sockets: bool) -> None:
    """Install the filter in this process, for it and all its children. Needs `no_new_privs`.

    Args:
        unix_sockets: Let unix sockets be made; no other kind ever is.

    Raises:
        OSError: The kernel has no seccomp filters, or this machine's call numbers are not known here.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no call numbers for {platform.machine()}")
    code = build_filter(machine, unix_sockets=unix_sockets)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def build_filter(machine: _Machine, *, unix_sockets: bool) -> bytes:
    """Return the filter: 8 bytes an instruction. Each test jumps over the return that follows it, or falls into it."""
    refuse = _instruction(RETURN, value=RET_ERRNO | errno.EPERM)
    code = [
        _instruction(LOAD, value=ARCH_AT),
        _instruction(JUMP_EQUAL, value=machine.audit_arch, if_true=1),
        _instruction(RETURN, value=RET_KILL_PROCESS),  # a call through another table would pass every test below
        _instruction(LOAD, value=NUMBER_AT),
        _instruction(JUMP_GE, value=X32_CALLS, if_false=1),
        refuse,
        _instruction(JUMP_EQUAL, value=CLONE3, if_false=1),
        _instruction(RETURN, value=RET_ERRNO | errno.ENOSYS),  # libc then uses clone
    ]
    for number in machine.denied:
        code += [_instruction(JUMP_EQUAL, value=number, if_false=1), refuse]
    code += [
        _instruction(JUMP_EQUAL, value=machine.clone, if_false=3),
        _instruction(LOAD, value=FIRST_ARGUMENT_AT),
        _instruction(JUMP_ANY_BIT, value=CLONE_NEW_ANY, if_false=5),
        refuse,
        _instruction(JUMP_EQUAL, value=machine.socket, if_false=3),
        _instruction(LOAD, value=FIRST_ARGUMENT_AT),
        _instruction(JUMP_EQUAL, value=int(socket.AF_UNIX) if unix_sockets else 0xFFFFFFFF, if_true=1),
        refuse,
        _instruction(RETURN, value=RET_ALLOW),
    ]
    return b"".join(code)


def _instruction(code: int, *, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
