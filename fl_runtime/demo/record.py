"""The record of a demonstration that has ended: whose keys wrote it, and whether all of it holds."""

from __future__ import annotations

from datetime import datetime

from fl_runtime.demo.errors import DemoError
from policies.audit import AuditTrust, Verification, verify_folder
from provisioning.audit_trust import certify_audit
from provisioning.errors import ProvisioningError
from provisioning.layout import Laboratory


def certify_record(laboratory: Laboratory, *, now: datetime) -> None:
    """Write `trust.json`: for each log, the boots that have written it.

    Raises:
        DemoError: A log is not there, or was opened by a boot that the service has not certified.
        AuditError: A log does not follow the format.
    """
    try:
        certify_audit(laboratory, now=now)
    except ProvisioningError as error:
        raise DemoError(error.message, hint=error.hint) from error


def verify_record(laboratory: Laboratory) -> Verification:
    """Verify every log against `trust.json`, as `cloister audit verify` does.

    Raises:
        AuditError: Something does not hold.
    """
    return verify_folder(laboratory.directory / "audit", AuditTrust.parse(laboratory.audit_trust.read_bytes()))
