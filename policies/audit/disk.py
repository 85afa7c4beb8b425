"""The difference between a disk that is full and a disk that fails.

Full: what was written before is sound and the log may go on when there is room. Failed: after an fsync that failed, or a cut
that did, nobody knows what is stored; nothing is ever written again by this process.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from policies.audit.errors import AuditWriteError
from policies.audit.files import AppendFile

logger = logging.getLogger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskFullError(Exception):
    """There is no room; the file is as it was. Internal: the log answers with a halt."""


class Disk:
    """Writes for one log, and remembers when it must not write again."""

    __slots__ = ("_broken", "_log")

    def __init__(self, log: str) -> None:
        self._log = log
        self._broken: str | None = None

    def write(self, file: AppendFile, content: bytes) -> None:
        """Append to `file`.

        Raises:
            DiskFullError: No room; nothing was appended.
            AuditWriteError: Anything else.
        """
        self.require_usable()
        try:
            file.append(content)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFullError(error.strerror) from error
            raise self._break(error) from error

    def attempt(self, step: Callable[[], None]) -> None:
        """Do something after whose failure nobody knows what is on disk.

        Raises:
            AuditWriteError: It failed.
        """
        self.require_usable()
        try:
            step()
        except OSError as error:
            raise self._break(error) from error

    def forbid(self, reason: str) -> None:
        """Let nothing be written any more."""
        self._broken = reason

    @property
    def usable(self) -> bool:
        """Whether the disk may be written."""
        return self._broken is None

    def require_usable(self) -> None:
        """Raise `AuditWriteError` if nothing may be written any more."""
        if self._broken is not None:
            raise AuditWriteError(
                self._broken, hint="this process must end; at the next start the log recovers what is on disk"
            )

    def _break(self, error: OSError) -> AuditWriteError:
        reason = f"log {self._log} cannot be written: {error.strerror or error}"
        self.forbid(reason)
        logger.critical("the record cannot be written", extra={"log": self._log, "errno": error.errno})
        return AuditWriteError(reason, hint="this process must end; at the next start the log recovers what is on disk")
