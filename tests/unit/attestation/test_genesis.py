"""The service proves itself to everybody, and takes its first root from the right organisations, once."""

import pytest

from attestation.channel.credentials import pem
from attestation.core import ServiceInitData
from attestation.errors import MalformedEvidenceError
from attestation.service.genesis import Genesis
from attestation.service_claims import appraise_pinned, verify_service
from policies.documents import raw_public_key
from policies.errors import DocumentExpiredError, DocumentSignatureError, StateError
from policies.init_data import init_data_digest
from tests.fakes.attestation_service import service
from tests.fakes.trust_domain import (
    NOW,
    ORGANISATIONS,
    SERVICE_IMAGE,
    TRUST_DOMAIN,
    boot_keys,
    domain,
    draft_root,
    draft_roster,
    keyring,
    signed,
    signing_key,
    start,
)

KEYS = boot_keys("attestation")
OTHER = "other.cloister.mock"


@pytest.fixture
def running(tmp_path):
    with service(tmp_path) as opened:
        yield opened


def genesis_of(running, *, threshold=2, organisations=ORGANISATIONS, trust_domain=TRUST_DOMAIN, told=None):
    init_data = ServiceInitData(
        trust_domain=trust_domain,
        role="attestation-service",
        organisation_keys=tuple(raw_public_key(signing_key(name)) for name in organisations),
        threshold=threshold,
    ).encode()
    return Genesis(
        name="attestation",
        trust_domain=trust_domain,
        keys=KEYS,
        keyring=keyring(),
        tls_certificate=pem(keyring().authority.der),
        init_data=init_data,
        attester=start(chip="service", measurement=SERVICE_IMAGE, host_data=init_data_digest(init_data)),
        register=running.register,
        log=running.log,
        clock=running.clock,
        installed=[].append if told is None else told.append,
    )


def documents(**changes):
    usual = {
        "root": domain().root,
        "roster": domain().roster,
        "reference_values": domain().reference_values,
    }
    return usual | changes


# --- evidence --------------------------------------------------------------------------------------------------------


def test_evidence_binds_every_key_of_the_service_and_the_callers_nonce(running):
    shown = genesis_of(running).evidence(b"\x04" * 32)
    core = verify_service(
        core=shown.core,
        cpu=shown.cpu,
        init_data=shown.init_data,
        tls_certificate=_leaf(),
        ca_certificate=shown.ca_certificate,
        nonce=b"\x04" * 32,
        anchors=domain().trust.anchors,
        now=NOW,
    )
    appraise_pinned(core, domain().trust.root)
    assert core.core.hpke_pk == KEYS.sealing.public
    assert core.core.image == SERVICE_IMAGE


def _leaf():
    return keyring().authority.issue(
        KEYS.tls.public_key(), names=[], not_before=NOW, not_after=NOW.replace(year=2027), server=True
    )


@pytest.mark.parametrize("size", [0, 31, 33])
def test_nonce_of_another_size_is_refused(running, size):
    with pytest.raises(MalformedEvidenceError, match=f"client nonce has {size} bytes"):
        genesis_of(running).evidence(bytes(size))


# --- the first root --------------------------------------------------------------------------------------------------


def test_root_of_the_right_organisations_is_taken_and_recorded(running):
    told = []
    genesis = genesis_of(running, told=told)
    assert genesis.install(**documents()) == domain().trust.root_sha256
    assert told == [domain().trust]
    kept = running.register.documents()
    assert kept == {
        "root": domain().root,
        "roster": domain().roster,
        "reference-values": domain().reference_values,
    }
    assert genesis.open(kept) == domain().trust
    (record,) = running.records("service.genesis")
    assert record.digests["root"] == domain().trust.root_sha256


def test_same_root_is_taken_twice_and_told_once(running):
    told = []
    genesis = genesis_of(running, told=told)
    assert genesis.install(**documents()) == genesis.install(**documents())
    assert len(told) == len(running.records("service.genesis")) == 1


@pytest.mark.parametrize(
    "changed",
    [{"root": signed(draft_root(threshold=1), "root")}, {"roster": signed(draft_roster(version=2), "roster")}],
)
def test_second_root_is_refused(running, changed):
    genesis = genesis_of(running)
    genesis.install(**documents())
    with pytest.raises(StateError, match="has a root already"):
        genesis.install(**documents(**changed))
    assert running.register.documents()["root"] == domain().root


def refused(running, genesis, said, *, error=DocumentSignatureError, **changed):
    with pytest.raises(error, match=said):
        genesis.install(**documents(**changed))
    assert running.register.documents() == {}
    assert running.records("service.genesis") == []


@pytest.mark.parametrize(
    "launched", [{"organisations": ("a", "b", "c")}, {"threshold": 3}, {"organisations": ("east", "a", "b")}]
)
def test_root_of_other_organisations_than_the_machine_was_launched_for_is_refused(running, launched):
    refused(running, genesis_of(running, **launched), "valid signatures of the 3 keys")


def test_root_that_names_other_organisations_is_not_enough_for_the_roster(running):
    refused(running, genesis_of(running), "roster: 1 valid", roster=signed(draft_roster(), "roster", "east"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ca_certificate": b"another"}, "the root pins node authority"),
        ({"result_key": bytes(32)}, "the root pins result key"),
        ({"log_key": bytes(32)}, "the root pins log key"),
    ],
)
def test_root_that_pins_other_keys_than_this_service_has_is_refused(running, change, said):
    pinned = draft_root().service.model_copy(update=change)
    refused(running, genesis_of(running), said, root=signed(draft_root(service=pinned), "root"))


def test_root_of_another_trust_domain_is_refused(running):
    refused(running, genesis_of(running, trust_domain=OTHER), f"the root is of {TRUST_DOMAIN}, expected {OTHER}")


def test_root_that_is_not_in_force_is_refused(running):
    running.clock.skip(days=61)
    refused(running, genesis_of(running), "Root version 1 expired", error=DocumentExpiredError)
