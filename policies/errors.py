"""The root of everything that can go wrong, and what a policy or a record can have wrong with it.

CloisterError                     code, retryable, hint: what was found, what was expected, what to do
├── UsageError                    the command line or a configuration file is not usable
├── PolicyError                   a signed document or a decision
│   ├── MalformedDocumentError    the bytes do not follow the format
│   ├── DocumentSignatureError    too few valid signatures by the keys that must sign
│   ├── DocumentExpiredError      not yet, or no longer, in force
│   ├── RollbackError             older than one already seen, or not its successor
│   └── DeniedError               a policy does not allow it; every failed field is listed
├── AuditError                    the record
│   ├── MalformedRecordError      a frame, checkpoint or cosignature does not follow the format
│   ├── RecordTamperedError       tree, signature or order does not hold
│   ├── IllegalStoryError         well-formed records that tell of something that must not happen
│   └── AuditHaltedError          nothing more can be recorded (disk full): critical calls are refused
└── StateError                    the state store
    ├── FencedError               another process has taken over this store
    └── NewerSchemaError          written by a newer release

Other packages grow their own tree from `CloisterError`. A `code` is stable and travels in logs, audit records and on
the wire; `EXIT_CODES` says how a program that ends with it exits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

EXIT_OK = 0
EXIT_OTHER = 1
EXIT_MALFORMED = 2
EXIT_SIGNATURE = 3
EXIT_ENDORSEMENT = 4
EXIT_POLICY = 5
EXIT_USAGE = 64
EXIT_INTERRUPTED = 130

EXIT_CODES: Mapping[str, int] = {
    "usage": EXIT_USAGE,
    "policy.malformed": EXIT_MALFORMED,
    "policy.signature": EXIT_SIGNATURE,
    "policy.expired": EXIT_POLICY,
    "policy.rollback": EXIT_POLICY,
    "policy.denied": EXIT_POLICY,
    "audit.malformed": EXIT_MALFORMED,
    "audit.tampered": EXIT_SIGNATURE,
    "audit.story": EXIT_POLICY,
    "attestation.malformed": EXIT_MALFORMED,
    "attestation.signature": EXIT_SIGNATURE,
    "attestation.binding": EXIT_SIGNATURE,
    "attestation.endorsement": EXIT_ENDORSEMENT,
    "attestation.appraisal": EXIT_POLICY,
    "attestation.endorsement.unavailable": EXIT_ENDORSEMENT,
    "attestation.release": EXIT_POLICY,
    "attestation.replay": EXIT_POLICY,
    "attestation.revoked": EXIT_POLICY,
    "attestation.unattested_peer": EXIT_POLICY,
    "aggregation.message": EXIT_MALFORMED,
    "aggregation.update": EXIT_MALFORMED,
    "aggregation.peer": EXIT_POLICY,
    "aggregation.consistency": EXIT_POLICY,
    "federation.arrays": EXIT_MALFORMED,
    "federation.job_archive": EXIT_MALFORMED,
    "federation.job_refused": EXIT_POLICY,
    "transport.malformed": EXIT_MALFORMED,
    "transport.sealed": EXIT_SIGNATURE,
}


class CloisterError(Exception):
    """Something was found that is not as it must be.

    Args:
        message: What was found and what was expected, for a person.
        hint: What to do about it, or None where nothing can be said.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def exit_code(self) -> int:
        """The exit status of a program that ends with this error."""
        return EXIT_CODES.get(self.code, EXIT_OTHER)


class UsageError(CloisterError):
    """The command line or a configuration file is not usable."""

    code = "usage"


class PolicyError(CloisterError):
    """A signed document or a decision."""

    code = "policy"


class MalformedDocumentError(PolicyError):
    """The bytes do not follow the format."""

    code = "policy.malformed"


class DocumentSignatureError(PolicyError):
    """Too few valid signatures by the keys that must sign."""

    code = "policy.signature"


class DocumentExpiredError(PolicyError):
    """Not yet, or no longer, in force."""

    code = "policy.expired"


class RollbackError(PolicyError):
    """Older than one already seen, or not its successor."""

    code = "policy.rollback"


class DeniedError(PolicyError):
    """A policy does not allow it; every failed field is listed in `reasons`."""

    code = "policy.denied"

    def __init__(self, message: str, *, reasons: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message if not reasons else f"{message}: {'; '.join(reasons)}", hint=hint)
        self.reasons = reasons


class AuditError(CloisterError):
    """The record."""

    code = "audit"


class MalformedRecordError(AuditError):
    """A frame, checkpoint or cosignature does not follow the format."""

    code = "audit.malformed"


class RecordTamperedError(AuditError):
    """Tree, signature or order does not hold."""

    code = "audit.tampered"


class IllegalStoryError(AuditError):
    """Well-formed records that tell of something that must not happen."""

    code = "audit.story"


class AuditHaltedError(AuditError):
    """Nothing more can be recorded, so nothing that must be recorded may happen."""

    code = "audit.halted"
    retryable = True


class StateError(CloisterError):
    """The state store."""

    code = "state"


class FencedError(StateError):
    """Another process has taken over this store; this one must stop."""

    code = "state.fenced"


class NewerSchemaError(StateError):
    """The store was written by a newer release."""

    code = "state.newer_schema"
