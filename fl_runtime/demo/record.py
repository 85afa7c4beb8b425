"""The record of a demonstration that has ended: whose keys wrote it, and whether all of it holds.

The service's log key is the one that the signed root names. The keys of the other logs are those that the service has
certified, as its own log tells; that log is verified, under the root's key, with all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from fl_runtime.demo.errors import DemoError
from policies.audit import AuditTrust, BootKey, Record, Verification, verify_folder
from policies.audit.folder import Folder
from policies.audit.frames import read_frames
from provisioning.audit_trust import write_audit_trust
from provisioning.genesis import load_trust
from provisioning.layout import SERVICE_LOG, Laboratory


def certify_record(laboratory: Laboratory, *, now: datetime) -> None:
    """Write `trust.json`: for each log, the boots that have written it.

    Raises:
        DemoError: A log was opened by a boot that the service has not certified.
        AuditError: A log does not follow the format.
    """
    service = read_log(laboratory.audit(SERVICE_LOG))
    certified = {
        (record.object, record.digests["boot"]): record.digests["sign"]
        for record in service
        if record.action == "attestation.decision" and record.decision == "allow"
    }
    root_key = load_trust(laboratory, now=now).root.service.log_key
    boots = {SERVICE_LOG: [BootKey(boot=boot, key=root_key) for boot in _boots(service)]}
    for node in laboratory.nodes:
        opened = list(_boots(read_log(laboratory.audit(node))))
        strangers = [boot.hex() for boot in opened if (node, boot) not in certified]
        if strangers:
            raise DemoError(f"the log of {node} was opened by boot {strangers[0]}, which was never attested")
        boots[node] = [BootKey(boot=boot, key=certified[node, boot]) for boot in opened]
    write_audit_trust(laboratory, boots)


def verify_record(laboratory: Laboratory) -> Verification:
    """Verify every log against `trust.json`, as `cloister audit verify` does.

    Raises:
        AuditError: Something does not hold.
    """
    return verify_folder(laboratory.directory / "audit", AuditTrust.parse(laboratory.audit_trust.read_bytes()))


def read_log(folder: Path) -> tuple[Record, ...]:
    """Read the records of one log without verifying them.

    Raises:
        DemoError: It cannot be read.
        MalformedRecordError: It does not follow the format.
    """
    try:
        raw = (folder / Folder.RECORDS).read_bytes()
    except OSError as error:
        raise DemoError(f"the log {folder} cannot be read: {error.strerror}") from error
    return tuple(Record.parse(entry) for _, entry in read_frames(raw))


def _boots(records: tuple[Record, ...]) -> Iterator[bytes]:
    return (record.boot for record in records if record.action == "log.open")
