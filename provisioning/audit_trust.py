"""Whom an auditor of this laboratory believes: the keys of every log's boots, and who witnesses which log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from policies.audit.trust import AuditTrust, BootKey, LogKind, LogTrust, fingerprint
from policies.documents import describe
from policies.files import write_atomically
from provisioning.errors import ProvisioningError
from provisioning.layout import SERVER, SERVICE_LOG, Laboratory


def write_audit_trust(laboratory: Laboratory, boots: Mapping[str, Sequence[BootKey]], *, closed: bool = True) -> str:
    """Write `trust.json` beside the `audit` folder, where `cloister audit verify` looks for it.

    Service and server are witnessed by the sites, with the same keys that sign the sites' own logs; more than half of the
    sites must have cosigned.

    Args:
        laboratory: Names the trust domain and the sites.
        boots: For each log (`service`, `server`, every site) the boots that wrote it, each with its key, as the
            Attestation Results (or the root, for the service) certify them.
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
    witnesses = {site: tuple(boot.key for boot in boots[site]) for site in sites}
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
