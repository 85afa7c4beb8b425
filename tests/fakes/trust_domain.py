"""A trust domain in memory: organisations, their documents, and the machines of the mock vendor.

    received = domain().attestation("hospital-a")                        # genuine in every part
    received = domain().attestation("hospital-a", core={"nonce": ...})   # genuine evidence of a core that says this
    received = repack(domain().attestation("hospital-a"), grant=...)     # a part exchanged after the evidence was made

No sockets and no gRPC: evidence comes from the mock hardware itself, and keys last for the whole run of the tests.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.binding import core_hash, device_nonce, peer_nonces_digest, report_data
from attestation.core import HPKE_SUITE, Core
from attestation.evidence import DeviceEvidence, Evidence
from attestation.issue import CertificateAuthority
from attestation.keys import BootKeys, certificate_spki_sha256
from attestation.mock_tee.gpu import DRIVER_VERSION
from attestation.mock_tee.hardware import Hardware, MockAttester
from attestation.mock_tee.machines import GpuLaunch, Launch, chip_id_of, snp_launch
from attestation.mock_tee.vendor import Vendor, create_vendor
from attestation.nvidia_gpu.verify import verify as verify_gpu
from attestation.reference_values import Devices, ReferenceEntry, ReferenceValues, SnpMinimum
from attestation.service.keyring import Keyring
from attestation.trust import TrustContext, open_trust
from attestation.trust_anchors import TrustAnchor, with_development
from attestation.wire import ReceivedAttestation, decode_attestation, encode_attestation
from policies.documents import Document, Envelope, raw_public_key
from policies.grant import Grant, HardwareId
from policies.init_data import InitData, init_data_digest
from policies.root import DevelopmentAnchor, Organisation, Root, ServiceIdentity
from policies.roster import Member, Roster

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TRUST_DOMAIN = "test.cloister.mock"
IMAGE = bytes(range(48))  # stands for the released image of the nodes
SERVICE_IMAGE = bytes(range(48, 96))
ORGANISATIONS = ("consortium", "east", "north")
THRESHOLD = 2
NODES = {
    "server": Member(organisation="consortium", role="server", tier="attested"),
    "hospital-a": Member(organisation="north", role="site", tier="attested"),
    "hospital-b": Member(organisation="east", role="site", tier="attested"),
}
IN_FORCE: Mapping[str, Any] = {
    "version": 1,
    "previous": None,
    "issued_at": NOW,
    "expires_at": NOW + timedelta(days=60),
    "trust_domain": TRUST_DOMAIN,
}
CHANGES: Mapping[str, Any] = {}
Collect = Callable[[MockAttester, bytes, int], Sequence[DeviceEvidence]]

# --- what lasts for the whole run of the tests -----------------------------------------------------------------------


@cache
def vendor() -> Vendor:
    return create_vendor(now=NOW)


@cache
def hardware() -> Hardware:
    return Hardware(vendor(), now=lambda: NOW, randomness=secrets.token_bytes)


@cache
def keyring() -> Keyring:
    """The attestation service's own keys."""
    authority = CertificateAuthority.create("node authority", now=NOW, lifetime=timedelta(days=3650))
    return Keyring(authority, signing_key("result"), signing_key("log"), b"\x07" * 32)


@cache
def admin_authority() -> CertificateAuthority:
    return CertificateAuthority.create("administration", now=NOW, lifetime=timedelta(days=3650))


@cache
def boot_keys(node: str, boot: int = 0) -> BootKeys:
    return BootKeys.generate()


def signing_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


@cache
def ueid_of(serial: str) -> bytes:
    """Ask a GPU of the mock vendor who it is."""
    gpu = start(gpus=(serial,)).collect_device(0, bytes(32))
    anchors = with_development(
        TrustAnchor(vendor=anchor.vendor, product=anchor.product, sha256=anchor.sha256, mock=True)
        for anchor in vendor().anchors
    )
    return verify_gpu(gpu.report, gpu.chain, nonce=bytes(32), anchors=anchors, now=NOW).ueid


def gpu_of(node: str) -> str:
    return f"gpu-of-{node}"


def start(*, chip: str = "chip", gpus: Sequence[str] = (), driver: str = DRIVER_VERSION, **snp: Any) -> MockAttester:
    """Start a machine; `snp` changes what its firmware says of it."""
    ordinary = snp_launch(chip_id=chip_id_of(chip), measurement=IMAGE, host_data=bytes(32))
    launch = Launch(
        name="machine",
        snp=ordinary.model_copy(update=snp),
        gpus=tuple(GpuLaunch(serial=serial, driver_version=driver) for serial in gpus),
    )
    return hardware().start(launch)


def collect_devices(attester: MockAttester, core: bytes, count: int) -> Sequence[DeviceEvidence]:
    """Let each device answer to the nonce of its place."""
    return [attester.collect_device(index, device_nonce(core_hash(core), index, count)) for index in range(count)]


# --- documents -------------------------------------------------------------------------------------------------------


def draft_root(**changes: Any) -> Root:
    fields = {
        **IN_FORCE,
        "organisations": {name: Organisation(signing_key=raw_public_key(signing_key(name))) for name in ORGANISATIONS},
        "threshold": THRESHOLD,
        "service": ServiceIdentity(
            image=SERVICE_IMAGE,
            ca_certificate=keyring().authority.der,
            result_key=raw_public_key(keyring().result),
            log_key=raw_public_key(keyring().log),
        ),
        "admin_ca_certificate": admin_authority().der,
        "development_anchors": tuple(
            DevelopmentAnchor(vendor=anchor.vendor, product=anchor.product, certificate_sha256=anchor.sha256)
            for anchor in vendor().anchors
        ),
    }
    return Root(**(fields | changes))


def draft_roster(**changes: Any) -> Roster:
    return Roster(**({**IN_FORCE, "nodes": NODES} | changes))


LEAST_PLATFORM = SnpMinimum(product="Milan", bootloader=4, tee=0, snp=0x18, microcode=0xDB, fmc=0, min_report_version=3)
ENTRY = ReferenceEntry(
    name="release-1",
    roles=frozenset({"server", "site"}),
    image=IMAGE,
    snp=LEAST_PLATFORM,
    devices=(Devices(device_class="gpu", count=1, features=frozenset({"spt"}), min_driver="580.0"),),
)


def draft_reference_values(**changes: Any) -> ReferenceValues:
    return ReferenceValues(**({**IN_FORCE, "entries": (ENTRY,)} | changes))


def signed(document: Document, kind: str, *signers: str) -> bytes:
    """Return the envelope of a document, signed by these organisations; by as many as must where none is named."""
    return Envelope.sign(document, kind, [signing_key(name) for name in signers or ORGANISATIONS[:THRESHOLD]]).encode()


@dataclass(frozen=True, kw_only=True)
class TrustDomain:
    """The three envelopes that everything else rests on, and every node's machine."""

    root: bytes = field(default_factory=lambda: signed(draft_root(), "root"))
    roster: bytes = field(default_factory=lambda: signed(draft_roster(), "roster"))
    reference_values: bytes = field(default_factory=lambda: signed(draft_reference_values(), "reference-values"))

    @property
    def trust(self) -> TrustContext:
        return open_trust(self.root, self.roster, self.reference_values, now=NOW)

    def init_data(self, node: str, /, **changes: Any) -> bytes:
        fields = {
            "trust_domain": TRUST_DOMAIN,
            "node": node,
            "role": NODES[node].role,
            "root_sha256": Envelope.parse(self.root).digest,
            "organisation_key": raw_public_key(signing_key(NODES[node].organisation)),
        }
        return InitData(**(fields | changes)).encode()

    def grant(self, node: str, /, *, signer: str | None = None, **changes: Any) -> bytes:
        member = NODES[node]
        fields = {
            **IN_FORCE,
            "node": node,
            "organisation": member.organisation,
            "role": member.role,
            "tier": member.tier,
            "hardware": (
                HardwareId(kind="snp-chip-id", value=chip_id_of(node)),
                HardwareId(kind="gpu-ueid", value=ueid_of(gpu_of(node))),
            ),
            "images": frozenset({IMAGE}),
            "disk_epoch": 0,
        }
        return signed(Grant(**(fields | changes)), "grant", signer or member.organisation)

    def attestation(
        self,
        node: str = "hospital-a",
        *,
        keys: BootKeys | None = None,
        core: Mapping[str, Any] = CHANGES,
        init_data: bytes | None = None,
        grant: bytes | None = None,
        csr: bytes | None = None,
        machine: Mapping[str, Any] = CHANGES,
        collect: Collect = collect_devices,
    ) -> ReceivedAttestation:
        """Let the machine of `node` attest; genuine and bound in every part but for what is said otherwise.

        Args:
            node: Whose machine, kit and keys are used.
            keys: Of another boot.
            core: What the core says otherwise; the evidence binds that core.
            init_data: What the machine is launched with.
            grant: Envelope; the core names it.
            csr: DER; the core names it.
            machine: How the machine is launched otherwise: what `start` takes.
            collect: How the evidence of devices is collected.
        """
        keys = keys or boot_keys(node)
        launched = init_data or self.init_data(node)
        grant = grant or self.grant(node)
        csr = csr or keys.csr()
        usual = {"chip": node, "gpus": (gpu_of(node),), "host_data": init_data_digest(launched)}
        attester = start(**(usual | machine))
        fields = {
            "v": 1,
            "td": TRUST_DOMAIN,
            "node": node,
            "role": NODES[node].role,
            "tee": "snp",
            "boot": keys.boot,
            "cid": b"\x01" * 16,
            "nonce": b"\x02" * 32,
            "crand": b"\x03" * 32,
            "service_ca": certificate_spki_sha256(keyring().authority.certificate),
            "tls_spki": keys.tls_spki,
            "csr_sha256": hashlib.sha256(csr).digest(),
            "hpke_suite": HPKE_SUITE,
            "hpke_pk": keys.sealing.public,
            "sign_pk": keys.sign_pk,
            "image": attester.launch.snp.measurement,
            "root": Envelope.parse(self.root).digest,
            "roster": Envelope.parse(self.roster).digest,
            "site_policy": bytes(32) if NODES[node].role == "site" else None,
            "grant": Envelope.parse(grant).digest,
            "purpose": "issue",
            "prev_jti": None,
            "n_devices": len(attester.gpus),
            "peer_nonces": peer_nonces_digest(()),
            "audit_size": 0,
            "audit_root": bytes(32),
        }
        raw_core = Core(**(fields | core)).encode()
        devices = tuple(collect(attester, raw_core, len(attester.gpus)))
        cpu = attester.collect_cpu(report_data("snp", raw_core, devices))
        evidence = Evidence(cpu=cpu, devices=devices)
        return decode_attestation(
            encode_attestation(core=raw_core, evidence=evidence, init_data=launched, grant=grant, csr=csr)
        )


@cache
def domain() -> TrustDomain:
    return TrustDomain()


def repack(received: ReceivedAttestation, **parts: Any) -> ReceivedAttestation:
    """Exchange parts of an attestation after its evidence was made."""
    changed = replace(received, **parts)
    names = ("core", "evidence", "init_data", "grant", "csr")
    return decode_attestation(encode_attestation(**{name: getattr(changed, name) for name in names}))
