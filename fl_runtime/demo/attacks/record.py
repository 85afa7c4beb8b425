"""An attack on the past: one byte of one record, changed after the fact by whoever holds the disk."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from fl_runtime.demo.attacks.outcome import shortened
from fl_runtime.demo.ground import AttackOutcome
from policies.audit import AuditTrust, verify_folder
from policies.audit.folder import Folder
from policies.errors import AuditError, RecordTamperedError
from provisioning.layout import SERVER

NAME = "audit log with one byte changed"
_DIGIT = re.compile(rb'"salt":"[a-f]*([0-9])')  # with another digit there, the record is as well-formed as before


def tamper_with_audit(folder: Path, trust: AuditTrust) -> AttackOutcome:
    """Change one digit in a record from the middle of the server's log, in a copy, and verify that copy.

    Args:
        folder: The logs of a federation whose programs have stopped; nothing in it is changed.
        trust: What they are verified against.

    Returns:
        Refused only if the copy verified before the change, and its tree does not hold after it.
    """
    with tempfile.TemporaryDirectory(prefix="cloister-audit-") as scratch:
        copy = Path(scratch) / "audit"
        shutil.copytree(folder, copy)
        try:
            verify_folder(copy, trust)
        except AuditError as error:
            reason = f"did not verify before anything was changed: {error.message}"
            return AttackOutcome(name=NAME, refused=False, reason=shortened(reason))
        _change_digit(copy / SERVER / Folder.RECORDS)
        try:
            verify_folder(copy, trust)
        except RecordTamperedError as error:
            return AttackOutcome(name=NAME, refused=True, reason=shortened(error.message))
        except AuditError as error:
            reason = f"refused for another reason ({error.code}): {error.message}"
            return AttackOutcome(name=NAME, refused=False, reason=shortened(reason))
    return AttackOutcome(name=NAME, refused=False, reason="the changed record verified")


def _change_digit(records: Path) -> None:
    """Flip the lowest bit of one decimal digit behind the middle of the file.

    Raises:
        ValueError: No record lies there.
    """
    content = bytearray(records.read_bytes())
    found = _DIGIT.search(content, len(content) // 2)
    if found is None:
        raise ValueError(f"{records} has no record behind its middle")
    content[found.start(1)] ^= 1
    records.write_bytes(content)
