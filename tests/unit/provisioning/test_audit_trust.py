"""Whom an auditor of a laboratory is told to believe."""

from dataclasses import replace

import pytest

from policies.audit.trust import AuditTrust, BootKey, fingerprint
from provisioning.audit_trust import write_audit_trust
from provisioning.errors import ProvisioningError
from tests.unit.provisioning.test_documents import LABORATORY

SITES = tuple(LABORATORY.layout.sites)
BOOTS = {
    name: (BootKey(boot=bytes([number]) * 16, key=bytes([number]) * 32),)
    for number, name in enumerate(("service", "server", *SITES))
}


@pytest.fixture
def laboratory(tmp_path):
    return replace(LABORATORY, directory=tmp_path)


def test_sites_witness_service_and_server_and_more_than_half_must_cosign(laboratory):
    told = write_audit_trust(laboratory, BOOTS)
    raw = (laboratory.directory / "trust.json").read_bytes()
    trust = AuditTrust.parse(raw)
    assert told == fingerprint(raw)
    logs = {log.name: log for log in trust.logs}
    assert {name: log.kind for name, log in logs.items()} == {
        "service": "service",
        "server": "server",
        **dict.fromkeys(SITES, "site"),
    }
    for name in ("service", "server"):
        assert logs[name].witnesses == {f"{laboratory.layout.trust_domain}/{site}": (BOOTS[site][0].key,) for site in SITES}
        assert logs[name].min_cosignatures == 3
    assert all(logs[site].witnesses == {} and logs[site].boots == BOOTS[site] for site in SITES)
    assert all(log.closed for log in trust.logs)


def test_logs_may_still_be_open(laboratory):
    write_audit_trust(laboratory, BOOTS, closed=False)
    trust = AuditTrust.parse((laboratory.directory / "trust.json").read_bytes())
    assert not any(log.closed for log in trust.logs)


@pytest.mark.parametrize("name", sorted(BOOTS))
def test_log_that_is_missing_is_refused(laboratory, name):
    with pytest.raises(ProvisioningError, match="found boots of the logs"):
        write_audit_trust(laboratory, {log: boots for log, boots in BOOTS.items() if log != name})
    assert not (laboratory.directory / "trust.json").exists()


def test_log_that_is_unknown_is_refused(laboratory):
    with pytest.raises(ProvisioningError, match="hospital-z"):
        write_audit_trust(laboratory, {**BOOTS, "hospital-z": BOOTS["server"]})


def test_key_of_two_sites_is_refused(laboratory):
    with pytest.raises(ProvisioningError, match="listed twice"):
        write_audit_trust(laboratory, {**BOOTS, SITES[0]: BOOTS[SITES[1]]})


def test_log_without_a_boot_is_refused(laboratory):
    with pytest.raises(ProvisioningError, match="boots"):
        write_audit_trust(laboratory, {**BOOTS, "server": ()})
