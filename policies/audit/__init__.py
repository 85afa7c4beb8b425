"""The record of what was decided: an append-only Merkle log for each program, witnesses, and an offline verifier."""

from __future__ import annotations

from policies.audit.actions import Action
from policies.audit.checkpoint import Checkpoint, Cosignature, SignedCheckpoint
from policies.audit.clock import Clock, SystemClock
from policies.audit.errors import AuditLockedError, AuditWriteError
from policies.audit.log import AuditLog, Receipt
from policies.audit.narrate import narrate
from policies.audit.record import Event, Record, printable
from policies.audit.story import check_story
from policies.audit.trust import AuditTrust, BootKey, LogTrust, fingerprint
from policies.audit.verify import Verification, VerifiedLog, verify_folder
from policies.audit.witness import WitnessFile, WitnessState, cosign_event, quorum

__all__ = [
    "Action",
    "AuditLockedError",
    "AuditLog",
    "AuditTrust",
    "AuditWriteError",
    "BootKey",
    "Checkpoint",
    "Clock",
    "Cosignature",
    "Event",
    "LogTrust",
    "Receipt",
    "Record",
    "SignedCheckpoint",
    "SystemClock",
    "Verification",
    "VerifiedLog",
    "WitnessFile",
    "WitnessState",
    "check_story",
    "cosign_event",
    "fingerprint",
    "narrate",
    "printable",
    "quorum",
    "verify_folder",
]
