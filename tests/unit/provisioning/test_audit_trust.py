"""Whom an auditor of a laboratory is told to believe."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from policies.audit import Event, Record
from policies.audit.frames import frame
from policies.audit.trust import AuditTrust, BootKey, fingerprint
from provisioning import audit_trust
from provisioning.audit_trust import certify_audit, write_audit_trust
from provisioning.cli import provision
from provisioning.errors import LaboratoryError, ProvisioningError
from provisioning.layout import Laboratory
from tests.unit.provisioning.test_documents import LABORATORY

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
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
        assert logs[name].witnesses == {
            f"{laboratory.layout.trust_domain}/{site}": (BOOTS[site][0].key,) for site in SITES
        }
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


# --- from what the laboratory has recorded -----------------------------------------------------------------------------


IDLE = BootKey(boot=b"\xee" * 16, key=b"\xef" * 32)  # stopped before it attested


def opened(name):
    return name, Event(action="log.open", actor=name, object=name)


def idle(name, action="log.open"):
    return name, Event(action=action, actor=name, object=name, digests={"log-key": IDLE.key}), IDLE.boot


def attested(node, *, decision="allow"):
    digests = {"boot": BOOTS[node][0].boot, "sign": BOOTS[node][0].key}
    return "service", Event(
        action="attestation.decision", actor="attestation", object=node, decision=decision, digests=digests
    )


@pytest.fixture
def recorded(laboratory, monkeypatch):
    """A laboratory whose root names the service's log key; the test says what is in the logs."""
    root = SimpleNamespace(service=SimpleNamespace(log_key=BOOTS["service"][0].key))
    monkeypatch.setattr(audit_trust, "load_trust", lambda _laboratory, *, now: SimpleNamespace(root=root, now=now))
    monkeypatch.setattr(Laboratory, "load", lambda _directory: laboratory)

    def record(*told):
        logs = {}
        for log, event, *boot in told:
            entries = logs.setdefault(log, [])
            place = {"seq": len(entries), "ts": "2026-11-22T12:00:00.000000Z", "mono": 0, "salt": bytes(16)}
            entries.append(Record.make(event, log=log, boot=boot[0] if boot else BOOTS[log][0].boot, **place).encode())
        for log, entries in logs.items():
            laboratory.audit(log).mkdir(parents=True)
            (laboratory.audit(log) / "records").write_bytes(b"".join(map(frame, entries)))
        return laboratory

    return record


EVERYBODY = (*map(opened, BOOTS), *(attested(node) for node in ("server", *SITES)))


def test_keys_are_those_of_the_root_and_those_that_the_service_has_certified(recorded):
    laboratory = recorded(*EVERYBODY)
    told = certify_audit(laboratory, now=NOW)
    raw = laboratory.audit_trust.read_bytes()
    assert told == fingerprint(raw)
    assert {log.name: log.boots for log in AuditTrust.parse(raw).logs} == BOOTS


@pytest.mark.parametrize("decision", ["deny", None])
def test_log_of_a_boot_that_the_service_did_not_accept_is_refused(recorded, decision):
    others = [told for told in EVERYBODY if told != attested("server")]
    laboratory = recorded(*others, *([attested("server", decision=decision)] if decision else []))
    with pytest.raises(ProvisioningError, match=r"the log of server was written by boot .* never attested"):
        certify_audit(laboratory, now=NOW)
    assert not laboratory.audit_trust.exists()


def test_key_of_one_node_does_not_count_for_another(recorded):
    borrowed = ("service", replace(attested("server")[1], object=SITES[0]))
    laboratory = recorded(*(borrowed if told == attested("server") else told for told in EVERYBODY))
    with pytest.raises(ProvisioningError, match="never attested"):
        certify_audit(laboratory, now=NOW)


def test_boot_that_was_stopped_before_it_attested_is_vouched_for_by_the_next(recorded):
    laboratory = recorded(idle(SITES[0]), idle(SITES[0], "log.close"), *EVERYBODY)
    certify_audit(laboratory, now=NOW)
    logs = {log.name: log for log in AuditTrust.parse(laboratory.audit_trust.read_bytes()).logs}
    assert logs[SITES[0]].boots == (IDLE, *BOOTS[SITES[0]])


def test_key_of_a_boot_that_never_attested_witnesses_nothing(recorded):
    laboratory = recorded(idle(SITES[0]), *EVERYBODY)
    certify_audit(laboratory, now=NOW)
    logs = {log.name: log for log in AuditTrust.parse(laboratory.audit_trust.read_bytes()).logs}
    assert IDLE.key not in {key for log in logs.values() for keys in log.witnesses.values() for key in keys}


@pytest.mark.parametrize(
    "told",
    [
        pytest.param((*EVERYBODY, idle(SITES[0])), id="no boot follows that attested"),
        pytest.param((idle(SITES[0]), idle(SITES[0], "update.sent"), *EVERYBODY), id="it has done something"),
    ],
)
def test_boot_that_nobody_vouches_for_is_refused(recorded, told):
    with pytest.raises(ProvisioningError, match="never attested"):
        certify_audit(recorded(*told), now=NOW)


def test_log_that_nobody_has_written_yet_is_named(recorded):
    laboratory = recorded(*(told for told in EVERYBODY if told[0] != SITES[0]))
    with pytest.raises(LaboratoryError, match=f"{SITES[0]} cannot be read"):
        certify_audit(laboratory, now=NOW)


@pytest.mark.parametrize(("options", "closed"), [([], True), (["--open"], False)])
def test_command_says_the_fingerprint_and_the_next_command(recorded, options, closed):
    laboratory = recorded(*EVERYBODY)
    done = CliRunner().invoke(provision, ["audit-trust", str(laboratory.directory), *options], catch_exceptions=False)
    raw = laboratory.audit_trust.read_bytes()
    assert fingerprint(raw) in done.output
    assert f"cloister audit verify {laboratory.directory / 'audit'}" in done.output
    assert {log.closed for log in AuditTrust.parse(raw).logs} == {closed}
