"""Whom an auditor of this laboratory believes: the keys of every log's boots, and who witnesses which log.

The service's log key is the one that the signed root names. The keys of the other logs are those that the service has
certified, as its own log tells; that log is verified, under the root's key, with all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from attestation.witnessing import witness_name
from policies.audit.actions import Action
from policies.audit.chain import LOG_KEY
from policies.audit.folder import Folder
from policies.audit.frames import read_frames
from policies.audit.record import Record
from policies.audit.trust import AuditTrust, BootKey, LogKind, LogTrust, fingerprint
from policies.documents import describe
from policies.files import write_atomically
from provisioning.errors import LaboratoryError, ProvisioningError
from provisioning.genesis import load_trust
from provisioning.layout import SERVER, SERVICE_LOG, Laboratory

# What a log tells of itself, whoever it belongs to and whatever that has done.
_BY_ITSELF: frozenset[Action] = frozenset({"log.open", "log.close", "log.cut", "audit.halt", "audit.resume"})


def certify_audit(laboratory: Laboratory, *, now: datetime, closed: bool = True) -> str:
    """Find the boots that have written each log, and write `trust.json`.

    Args:
        laboratory: Founded; its programs have written their logs.
        now: The time to open the signed root at.
        closed: Whether every log must have been closed.

    Returns:
        The file's fingerprint: SHA-256, 64 hex digits.

    Raises:
        LaboratoryError: A log cannot be read.
        ProvisioningError: A log was written by a boot that the service has not certified, or by none.
        StepError: The laboratory was not founded yet.
        AuditError: A log does not follow the format.
    """
    root_key = load_trust(laboratory, now=now).root.service.log_key
    service = _read_log(laboratory.audit(SERVICE_LOG))
    boots = {SERVICE_LOG: [BootKey(boot=record.boot, key=root_key) for record in _opened(service)]}
    certified = {
        (record.object, record.digests["boot"]): record.digests["sign"]
        for record in service
        if record.action == "attestation.decision" and record.decision == "allow"
    }
    for node in laboratory.nodes:
        keys = {boot: key for (name, boot), key in certified.items() if name == node}
        boots[node] = _certified_boots(_read_log(laboratory.audit(node)), keys, node=node)
    idle = frozenset(key.boot for node in laboratory.nodes for key in boots[node] if (node, key.boot) not in certified)
    return write_audit_trust(laboratory, boots, idle=idle, closed=closed)


def write_audit_trust(
    laboratory: Laboratory,
    boots: Mapping[str, Sequence[BootKey]],
    *,
    idle: frozenset[bytes] = frozenset(),
    closed: bool = True,
) -> str:
    """Write `trust.json` beside the `audit` folder, where `cloister audit verify` looks for it.

    Service and server are witnessed by the sites, with the same keys that sign the sites' own logs; more than half of the
    sites must have cosigned.

    Args:
        laboratory: Names the trust domain and the sites.
        boots: For each log (`service`, `server`, every site) the boots that wrote it, each with its key, as the
            Attestation Results (or the root, for the service) certify them.
        idle: Boots (16 bytes each) that were never attested and did nothing: their keys witness nothing.
        closed: Whether every log must have been closed.

    Returns:
        The file's fingerprint: SHA-256, 64 hex digits.

    Raises:
        ProvisioningError: Logs are missing or unknown, or a boot or key is listed twice.
    """
    sites = tuple(sorted(laboratory.layout.sites))
    names = (SERVICE_LOG, SERVER, *sites)
    if set(boots) != set(names):
        raise ProvisioningError(
            f"found boots of the logs {', '.join(sorted(boots)) or 'none'}, expected {', '.join(sorted(names))}"
        )
    domain = laboratory.layout.trust_domain
    witnesses = {
        witness_name(domain, site): tuple(key.key for key in boots[site] if key.boot not in idle) for site in sites
    }
    kinds: Mapping[str, LogKind] = {SERVICE_LOG: "service", SERVER: "server", **dict.fromkeys(sites, "site")}
    try:
        trust = AuditTrust(
            v=1,
            trust_domain=laboratory.layout.trust_domain,
            logs=tuple(
                LogTrust(
                    name=name,
                    kind=kinds[name],
                    boots=tuple(boots[name]),
                    witnesses=witnesses if kinds[name] != "site" else {},
                    min_cosignatures=len(sites) // 2 + 1 if kinds[name] != "site" else 0,
                    closed=closed,
                )
                for name in names
            ),
        )
    except ValidationError as error:
        raise ProvisioningError(f"the logs' keys are not usable: {describe(error)}") from error
    raw = trust.encode()
    write_atomically(laboratory.audit_trust, raw, mode=0o644)
    return fingerprint(raw)


def _read_log(folder: Path) -> tuple[Record, ...]:
    """Read the records of one log without verifying them: `cloister audit verify` does that, with what is written here."""
    try:
        raw = (folder / Folder.RECORDS).read_bytes()
    except OSError as error:
        raise LaboratoryError(
            f"the log {folder} cannot be read: {error.strerror}", hint="a program writes its log once it was started"
        ) from error
    return tuple(Record.parse(entry) for _, entry in read_frames(raw))


def _certified_boots(records: Sequence[Record], keys: Mapping[bytes, bytes], *, node: str) -> list[BootKey]:
    """Return the boots that wrote a log, each with the key that the service has certified.

    A program that was stopped before it attested has opened its log and done nothing else. The next boot that attests reads
    that, and vouches for it with every checkpoint that it signs; until then nobody does.
    """
    opened = list(_opened(records))
    last = max((index for index, record in enumerate(opened) if record.boot in keys), default=-1)
    busy = {record.boot for record in records if record.action not in _BY_ITSELF}
    found = []
    for index, record in enumerate(opened):
        own = record.digests.get(LOG_KEY) if index < last and record.boot not in busy else None
        key = keys.get(record.boot, own)
        if key is None:
            raise ProvisioningError(
                f"the log of {node} was written by boot {record.boot.hex()}, which was never attested",
                hint=f"if {node} was stopped before it attested: start it again, and stop it when it is admitted",
            )
        found.append(BootKey(boot=record.boot, key=key))
    return found


def _opened(records: Sequence[Record]) -> Iterator[Record]:
    return (record for record in records if record.action == "log.open")
