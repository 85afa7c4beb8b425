"""What can go wrong while the record is written, beside the errors of `policies.errors`.

AuditError                        (policies.errors)
├── AuditWriteError               what is on disk is no longer known: the process must end
└── AuditLockedError              another process writes this log
"""

from __future__ import annotations

from policies.errors import AuditError


class AuditWriteError(AuditError):
    """The disk failed. After a failed fsync nobody knows what is stored, so the process must end and recover anew."""

    code = "audit.write"


class AuditLockedError(AuditError):
    """Another process writes this log; two writers would fork it."""

    code = "audit.locked"
