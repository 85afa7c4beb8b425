"""What is signed when a laboratory is founded, as plain functions of its layout: nothing is read, written or sent here.

Every choice a laboratory makes on its organisations' behalf is in this file; a federation's organisations make their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from attestation.reference_values import Devices, ReferenceEntry, ReferenceValues, SnpMinimum
from policies.grant import Grant, HardwareId
from policies.init_data import InitData
from policies.root import DevelopmentAnchor, Organisation, Root, ServiceIdentity
from policies.roster import Roster
from policies.site_policy import Execute, Persist, Receive, Return, SitePolicy
from provisioning.layout import Laboratory

LIFETIME = timedelta(days=365)  # of root, roster, reference values and site policies
GRANT_LIFETIME = timedelta(days=30)
MIN_COHORT = 4  # sites in a job: the fewest of which one may drop out while sums stay sums over three
RELEASE = "release-1"  # names the one reference entry

# The least platform: Milan firmware that repairs AMD-SB-3019, which is what the mock TEE launches machines on.
LEAST_PLATFORM = SnpMinimum(product="Milan", bootloader=4, tee=0, snp=0x18, microcode=0xDB, fmc=0, min_report_version=3)
GPU = Devices(device_class="gpu", count=1, features=frozenset({"spt"}), min_driver="580.0")


def draft_root(
    laboratory: Laboratory,
    *,
    organisation_keys: Mapping[str, bytes],
    threshold: int,
    service: ServiceIdentity,
    admin_ca_certificate: bytes,
    anchors: Iterable[DevelopmentAnchor],
    now: datetime,
) -> Root:
    """Return version 1 of the root.

    Args:
        laboratory: Names the trust domain.
        organisation_keys: Each organisation's raw Ed25519 public key.
        threshold: k, how many organisations sign.
        service: The attestation service, as its evidence showed it.
        admin_ca_certificate: DER, issues administrators.
        anchors: The mock vendor's roots.
        now: When it comes into force.
    """
    return Root(
        version=1,
        previous=None,
        issued_at=now,
        expires_at=now + LIFETIME,
        trust_domain=laboratory.layout.trust_domain,
        organisations={name: Organisation(signing_key=key) for name, key in sorted(organisation_keys.items())},
        threshold=threshold,
        service=service,
        admin_ca_certificate=admin_ca_certificate,
        development_anchors=tuple(anchors),
    )


def draft_roster(laboratory: Laboratory, *, now: datetime) -> Roster:
    """Return version 1 of the roster: every node of the layout, all attested."""
    return Roster(
        version=1,
        previous=None,
        issued_at=now,
        expires_at=now + LIFETIME,
        trust_domain=laboratory.layout.trust_domain,
        nodes=dict(laboratory.nodes),
    )


def draft_reference_values(laboratory: Laboratory, *, image: bytes, now: datetime) -> ReferenceValues:
    """Return version 1 of the reference values: one image (48 bytes) for server and sites, each with one GPU."""
    entry = ReferenceEntry(
        name=RELEASE, roles=frozenset({"server", "site"}), image=image, snp=LEAST_PLATFORM, devices=(GPU,)
    )
    return ReferenceValues(
        version=1,
        previous=None,
        issued_at=now,
        expires_at=now + LIFETIME,
        trust_domain=laboratory.layout.trust_domain,
        entries=(entry,),
    )


def draft_site_policy(
    laboratory: Laboratory, site: str, *, image: bytes, submitter: bytes, now: datetime
) -> SitePolicy:
    """Return version 1 of a site's policy: sums of masked updates, accuracy by name, nothing kept.

    Args:
        laboratory: Names the trust domain.
        site: Whose policy it is.
        image: Launch measurement of the server that is believed (48 bytes).
        submitter: The raw Ed25519 public key whose jobs may run.
        now: When it comes into force.
    """
    return SitePolicy(
        version=1,
        previous=None,
        issued_at=now,
        expires_at=now + LIFETIME,
        trust_domain=laboratory.layout.trust_domain,
        site=site,
        receive=Receive(
            server_images=frozenset({image}),
            accept_mock=laboratory.layout.trust_domain.endswith(".mock"),
            peer_tiers=frozenset({"attested"}),
            max_model_bytes=1 << 30,
        ),
        execute=Execute(submitters=frozenset({submitter}), code_sha256=frozenset(), max_rounds=1000),
        returns=Return(
            profiles=frozenset({"tee+mask"}),
            metrics=frozenset({"accuracy"}),
            min_cohort=MIN_COHORT,
            min_survivors=3,
            max_clip_micros=4_000_000,
            max_weight_cap=100_000,
            script_errors=True,  # a laboratory has nothing to hide from whoever writes the scripts
        ),
        persist=Persist(model=False, logs=False),
    )


def draft_init_data(laboratory: Laboratory, node: str, *, root_sha256: bytes, organisation_key: bytes) -> InitData:
    """Return what a node's machine is launched with."""
    return InitData(
        trust_domain=laboratory.layout.trust_domain,
        node=node,
        role=laboratory.member(node).role,
        root_sha256=root_sha256,
        organisation_key=organisation_key,
    )


def draft_grant(
    laboratory: Laboratory,
    node: str,
    *,
    hardware: Iterable[HardwareId],
    image: bytes,
    succeeds: tuple[Grant, bytes] | None,
    now: datetime,
) -> Grant:
    """Return a node's grant for 30 days.

    Args:
        laboratory: Says whose node it is.
        node: The node.
        hardware: The machine that may act as it.
        image: The launch measurement it may run (48 bytes).
        succeeds: The grant before this one and the digest of its payload, or None for the first.
        now: When it comes into force.
    """
    member = laboratory.member(node)
    before, digest = succeeds or (None, None)
    return Grant(
        version=before.version + 1 if before else 1,
        previous=digest,
        issued_at=now,
        expires_at=now + GRANT_LIFETIME,
        trust_domain=laboratory.layout.trust_domain,
        node=node,
        organisation=member.organisation,
        role=member.role,
        tier=member.tier,
        hardware=tuple(hardware),
        images=frozenset({image}),
        disk_epoch=before.disk_epoch if before else 0,
    )
