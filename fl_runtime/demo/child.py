"""How every program of the demonstration begins: it ends when the demonstration does, however that ends.

    python -P -m fl_runtime.demo.child PARENT_PID MODULE[:FUNCTION] ARGUMENTS...

The child asks for this itself, as a parent that holds threads and gRPC must not run code between fork and exec.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when `parent` ends; exit if it has ended already.

    Raises:
        OSError: The kernel does not do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then become the program that the arguments name."""
    parent, program, *rest = arguments
    die_with(int(parent))
    module, _, function = program.partition(":")
    sys.argv = [module, *rest]
    if function:
        sys.exit(getattr(importlib.import_module(module), function)())
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
