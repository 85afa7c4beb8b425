"""What a laboratory's organisations sign: drafted without a disk or a network."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from attestation.mock_tee.gpu import DRIVER_VERSION
from attestation.mock_tee.machines import CURRENT_TCB, STALE_TCB
from attestation.reference_values import ReferenceValues
from policies.documents import Envelope, raw_public_key
from policies.errors import UsageError
from policies.grant import Grant, HardwareId
from policies.root import KIND, DevelopmentAnchor, Root, ServiceIdentity, open_first_root
from policies.roster import Roster
from policies.site_policy import SitePolicy
from provisioning.documents import (
    GPU,
    GRANT_LIFETIME,
    LEAST_PLATFORM,
    draft_grant,
    draft_init_data,
    draft_reference_values,
    draft_root,
    draft_roster,
    draft_site_policy,
)
from provisioning.laboratory import default_sites
from provisioning.layout import Addresses, Laboratory, Layout

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
IMAGE = bytes(range(48))
CHIP = HardwareId(kind="snp-chip-id", value=b"\x01" * 64)
LABORATORY = Laboratory(
    Path("/lab"),
    Layout(
        version=1,
        trust_domain="test.cloister.mock",
        operator="consortium",
        addresses=Addresses(enrol="127.0.0.1:1", attested="127.0.0.1:2", server="127.0.0.1:3"),
        sites=dict(default_sites(4)),
    ),
)
KEYS = {name: Ed25519PrivateKey.generate() for name in LABORATORY.organisations}


def root():
    return draft_root(
        LABORATORY,
        organisation_keys={name: raw_public_key(key) for name, key in KEYS.items()},
        threshold=1,
        service=ServiceIdentity(image=IMAGE, ca_certificate=b"der", result_key=bytes(32), log_key=b"\x01" * 32),
        admin_ca_certificate=b"der",
        anchors=[DevelopmentAnchor(vendor="amd", product="Milan", certificate_sha256=bytes(32))],
        now=NOW,
    )


def policy():
    return draft_site_policy(LABORATORY, "hospital-a", image=IMAGE, submitter=bytes(32), now=NOW)


def grant(succeeds=None, hardware=(CHIP,)):
    return draft_grant(LABORATORY, "hospital-a", hardware=hardware, image=IMAGE, succeeds=succeeds, now=NOW)


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (Root, root()),
        (Roster, draft_roster(LABORATORY, now=NOW)),
        (ReferenceValues, draft_reference_values(LABORATORY, image=IMAGE, now=NOW)),
        (SitePolicy, policy()),
        (Grant, grant()),
    ],
)
def test_document_travels_unchanged_and_is_in_force_from_now(model, document):
    assert model.parse(document.encode()) == document
    assert (document.version, document.previous, document.issued_at) == (1, None, NOW)
    document.require_in_force(NOW)


def test_root_opens_with_the_signature_of_any_one_organisation():
    for name in ("consortium", "west"):
        assert open_first_root(Envelope.sign(root(), KIND, [KEYS[name]])).mock


def test_roster_names_every_node_of_an_organisation_of_the_root():
    nodes = draft_roster(LABORATORY, now=NOW).nodes
    assert set(nodes) == {"server", *LABORATORY.layout.sites}
    assert {member.organisation for member in nodes.values()} == set(root().organisations)


def test_reference_values_hold_for_both_roles_and_ask_for_one_gpu():
    (entry,) = draft_reference_values(LABORATORY, image=IMAGE, now=NOW).entries
    assert (entry.name, entry.roles, entry.image) == ("release-1", {"server", "site"}, IMAGE)
    assert [(device.device_class, device.count) for device in entry.devices] == [("gpu", 1)]


def test_least_platform_is_the_one_the_mock_tee_launches_on_and_above_its_stale_one():
    least = {name: getattr(LEAST_PLATFORM, name) for name in type(CURRENT_TCB).model_fields}
    assert least == CURRENT_TCB.model_dump()
    assert least["snp"] > STALE_TCB.snp
    assert (LEAST_PLATFORM.product, LEAST_PLATFORM.min_report_version) == ("Milan", 3)


def test_least_driver_is_not_above_the_mock_gpus():
    assert [int(part) for part in GPU.min_driver.split(".")] <= [int(part) for part in DRIVER_VERSION.split(".")]


def test_site_policy_lets_out_sums_and_accuracy_only_and_keeps_nothing():
    drafted = policy()
    assert drafted.returns.profiles == {"tee+mask"}
    assert drafted.returns.metrics == {"accuracy"}
    assert (drafted.returns.min_cohort, drafted.returns.min_survivors) == (4, 3)
    assert drafted.execute.code_sha256 == frozenset()
    assert (drafted.persist.model, drafted.persist.logs) == (False, False)


def test_init_data_is_the_nodes_own():
    drafted = draft_init_data(LABORATORY, "server", root_sha256=bytes(32), organisation_key=bytes(32))
    assert (drafted.node, drafted.role, drafted.trust_domain) == ("server", "server", "test.cloister.mock")
    with pytest.raises(UsageError, match="there is no node"):
        draft_init_data(LABORATORY, "hospital-z", root_sha256=bytes(32), organisation_key=bytes(32))


def test_grant_lasts_thirty_days_and_allows_only_what_it_names():
    drafted = grant()
    assert drafted.expires_at - drafted.issued_at == GRANT_LIFETIME == timedelta(days=30)
    assert drafted.allows("snp-chip-id", CHIP.value)
    assert not drafted.allows("gpu-ueid", CHIP.value)


def test_grant_that_succeeds_another_names_it_and_keeps_its_disk_epoch():
    before = grant().model_copy(update={"disk_epoch": 3, "version": 7})
    after = grant(succeeds=(before, b"\x02" * 32))
    assert (after.version, after.previous, after.disk_epoch) == (8, b"\x02" * 32, 3)


def test_grant_without_hardware_cannot_be_drafted():
    with pytest.raises(ValidationError, match="hardware"):
        grant(hardware=())
