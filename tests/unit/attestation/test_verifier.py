"""One attribute is changed, and the verifier says what does not hold: nothing else about the evidence is wrong."""

import hashlib
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.binding import core_hash, device_nonce
from attestation.errors import (
    AppraisalError,
    BindingMismatchError,
    EndorsementError,
    MalformedEvidenceError,
    SignatureError,
)
from attestation.evidence import CpuEvidence
from attestation.keys import BootKeys
from attestation.mock_tee.machines import chip_id_of
from attestation.trust_anchors import GENUINE
from attestation.verifier import parse_core, verify_attestation, verify_cpu
from policies.documents import Envelope, raw_public_key
from policies.errors import DeniedError, DocumentExpiredError, DocumentSignatureError, MalformedDocumentError
from policies.grant import HardwareId
from policies.roster import Member
from tests.fakes.trust_domain import (
    IMAGE,
    NODES,
    NOW,
    TrustDomain,
    boot_keys,
    collect_devices,
    domain,
    draft_roster,
    gpu_of,
    repack,
    signed,
    signing_key,
    start,
    ueid_of,
)

NODE = "hospital-a"


def verify(received, *, trust=None, now=NOW):
    return verify_attestation(received, trust=trust or domain().trust, now=now)


def attest(**how):
    return domain().attestation(NODE, **how)


@cache
def genuine():
    return attest()


def test_genuine_attestation_is_about_the_node_that_it_names():
    claims = verify(genuine())
    assert (claims.core.node, claims.member, claims.grant.node) == (NODE, NODES[NODE], NODE)
    assert claims.cpu.chip_id == chip_id_of(NODE)
    assert [device.ueid for device in claims.devices] == [ueid_of(gpu_of(NODE))]
    assert claims.evidence_sha256 == genuine().sha256
    assert claims.mock


def test_server_attests_as_a_server():
    assert verify(domain().attestation("server")).core.role == "server"


def test_machine_without_devices_that_says_so_is_genuine():
    assert verify(attest(machine={"gpus": ()})).devices == ()


def test_two_devices_in_their_order_are_genuine():
    other = "second-gpu"
    hardware = (
        HardwareId(kind="snp-chip-id", value=chip_id_of(NODE)),
        *(HardwareId(kind="gpu-ueid", value=ueid_of(serial)) for serial in (gpu_of(NODE), other)),
    )
    grant = domain().grant(NODE, hardware=hardware)
    assert len(verify(attest(grant=grant, machine={"gpus": (gpu_of(NODE), other)})).devices) == 2


# --- 1. the core -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", [b"{}", b"[]", b"\xff", b'{"v":1.0}'])
def test_core_that_does_not_follow_the_format_is_malformed(core):
    with pytest.raises(MalformedEvidenceError):
        parse_core(core)
    with pytest.raises(MalformedEvidenceError):
        verify(repack(genuine(), core=core))


def test_node_that_is_not_in_the_roster_is_refused():
    with pytest.raises(DeniedError, match="hospital-z is not in roster"):
        verify(attest(core={"node": "hospital-z"}))


# --- 2. init_data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"trust_domain": "other.cloister.mock"}, "trust domain is"),
        ({"node": "hospital-b"}, "node is hospital-b"),
        ({"role": "server"}, "role is server"),
        ({"root_sha256": bytes(32)}, "root is 0000"),
        ({"organisation_key": bytes(32)}, "organisation key is 0000"),
    ],
)
def test_machine_that_was_launched_for_something_else_is_refused(change, field):
    with pytest.raises(BindingMismatchError, match=f"init_data of hospital-a: {field}"):
        verify(attest(init_data=domain().init_data(NODE, **change)))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"td": "other.cloister.mock"}, "trust domain of the core is"),
        ({"role": "server"}, "role is site, expected server"),
        ({"root": bytes(32)}, "root of the core is 0000"),
        ({"roster": bytes(32)}, "roster of the core is 0000"),
    ],
)
def test_core_that_speaks_of_other_documents_is_refused(change, field):
    with pytest.raises(BindingMismatchError, match=field):
        verify(attest(core=change))


def test_node_in_another_role_than_the_roster_names_is_refused():
    with pytest.raises(BindingMismatchError, match="role in the roster is site, expected server"):
        verify(attest(core={"role": "server"}, init_data=domain().init_data(NODE, role="server")))


def test_init_data_that_is_malformed_is_refused():
    with pytest.raises(MalformedDocumentError):
        verify(attest(init_data=b"{}"))


# --- 3. the grant ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"trust_domain": "other.cloister.mock"}, "trust domain other"),
        ({"node": "hospital-b"}, "node hospital-b"),
        ({"organisation": "east"}, "organisation east"),
        ({"role": "server"}, "role server"),
        ({"tier": "enrolled"}, "tier enrolled"),
    ],
)
def test_grant_for_something_else_is_refused(change, field):
    with pytest.raises(DeniedError, match=f"the grant of hospital-a has {field}"):
        verify(attest(grant=domain().grant(NODE, **change)))


def test_grant_that_another_organisation_signed_is_refused():
    with pytest.raises(DocumentSignatureError, match="0 valid signatures"):
        verify(attest(grant=domain().grant(NODE, signer="east")))


def test_document_of_another_kind_is_no_grant():
    document = signed(draft_roster(), "roster", "north")
    with pytest.raises(DocumentSignatureError, match=r"expected application/vnd\.cloister\.grant"):
        verify(attest(grant=document))


@pytest.mark.parametrize(
    "times",
    [{"issued_at": NOW + timedelta(days=1)}, {"issued_at": NOW - timedelta(days=30), "expires_at": NOW}],
)
def test_grant_that_is_not_in_force_is_refused(times):
    with pytest.raises(DocumentExpiredError, match="Grant version 1"):
        verify(attest(grant=domain().grant(NODE, **times)))


def test_other_grant_than_the_core_names_is_refused():
    newer = domain().grant(NODE, version=2, previous=bytes(32))
    with pytest.raises(BindingMismatchError, match="grant of the core"):
        verify(repack(genuine(), grant=newer))


def test_grant_of_another_tier_than_the_roster_is_refused():
    enrolled = Member(organisation="north", role="site", tier="enrolled")
    within = TrustDomain(roster=signed(draft_roster(nodes={**NODES, NODE: enrolled}), "roster"))
    with pytest.raises(DeniedError, match="has tier attested, expected enrolled"):
        verify(within.attestation(NODE), trust=within.trust)


# --- 4. the certificate request --------------------------------------------------------------------------------------


def csr_of(key):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    algorithm = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def test_other_request_than_the_core_names_is_refused():
    with pytest.raises(BindingMismatchError, match="is not the one whose digest the core holds"):
        verify(repack(genuine(), csr=boot_keys(NODE).csr()))


def test_request_for_another_key_is_refused():
    with pytest.raises(BindingMismatchError, match="key of the certificate request"):
        verify(attest(csr=BootKeys.generate().csr()))


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), signing_key("other")])
def test_request_for_a_key_of_another_kind_is_malformed(key):
    with pytest.raises(MalformedEvidenceError, match="another kind of key"):
        verify(attest(csr=csr_of(key)))


def test_request_that_is_not_signed_by_its_own_key_is_refused():
    csr = bytearray(boot_keys(NODE).csr())
    csr[-1] ^= 1
    with pytest.raises(BindingMismatchError, match="is not signed by its own key"):
        verify(attest(csr=bytes(csr)))


P256 = bytes.fromhex("2a8648ce3d030107")
EC_KEY = bytes.fromhex("2a8648ce3d0201")


@pytest.mark.parametrize(
    "csr",
    [
        b"not a request",
        boot_keys(NODE).csr().replace(P256, P256[:-1] + b"\x7f"),
        boot_keys(NODE).csr().replace(EC_KEY, EC_KEY[:-1] + b"\x7f"),
    ],
    ids=["no DER", "unknown curve", "unknown algorithm"],
)
def test_request_that_cannot_be_read_is_malformed(csr):
    with pytest.raises(MalformedEvidenceError, match="not a certificate request"):
        verify(attest(csr=csr))


# --- 5. the CPU ------------------------------------------------------------------------------------------------------


def with_cpu(received, **changes):
    evidence = received.evidence
    return repack(received, evidence=replace(evidence, cpu=replace(evidence.cpu, **changes)))


def test_vendor_that_is_not_pinned_is_refused():
    trust = replace(domain().trust, anchors=GENUINE)
    with pytest.raises(SignatureError, match="expected one of the pinned amd roots"):
        verify(genuine(), trust=trust)


@pytest.mark.parametrize("offset", [0x50, 0x90, 0xC0, 0x2A0])
def test_report_that_was_altered_is_refused(offset):
    report = bytearray(genuine().evidence.cpu.report)
    report[offset] ^= 1
    with pytest.raises(SignatureError):
        verify(with_cpu(genuine(), report=bytes(report)))


def test_report_of_another_chip_under_these_certificates_is_refused():
    other = domain().attestation("hospital-b")
    with pytest.raises(EndorsementError, match="VCEK is for chip"):
        verify(with_cpu(genuine(), report=other.evidence.cpu.report))


def test_evidence_of_a_kind_that_is_not_known_yet_is_malformed():
    with pytest.raises(MalformedEvidenceError, match="evidence of kind tdx cannot be verified yet"):
        verify(with_cpu(genuine(), kind="tdx"))
    with pytest.raises(MalformedEvidenceError, match="evidence of kind tdx"):
        verify_cpu(CpuEvidence(kind="tdx", report=b"", endorsements=b""), anchors=domain().trust.anchors, now=NOW)


def test_core_that_names_another_kind_of_tee_is_refused():
    with pytest.raises(BindingMismatchError, match="core says tdx, the evidence is of kind snp"):
        verify(attest(core={"tee": "tdx"}))


def test_report_over_other_report_data_is_refused():
    report = start(chip=NODE, host_data=bytes(32)).collect_cpu(bytes(64)).report
    with pytest.raises(BindingMismatchError, match="report data is 0000"):
        verify(with_cpu(genuine(), report=report))


def test_evidence_under_another_core_than_it_was_made_for_is_refused():
    core = attest(core={"nonce": b"\x09" * 32}, csr=genuine().csr).core
    with pytest.raises(BindingMismatchError, match="report data is"):
        verify(repack(genuine(), core=core))


def test_report_of_a_machine_that_was_launched_with_other_init_data_is_refused():
    with pytest.raises(BindingMismatchError, match="HOST_DATA is 0909"):
        verify(attest(machine={"host_data": b"\x09" * 32}))


def test_core_that_names_another_image_than_the_report_is_refused():
    with pytest.raises(BindingMismatchError, match=r"core\.image is 0909"):
        verify(attest(core={"image": b"\x09" * 48}))


# --- 6. whose machine it is ------------------------------------------------------------------------------------------


def test_chip_that_the_organisation_has_not_granted_is_refused():
    with pytest.raises(AppraisalError, match="runs on hardware that north has not granted: snp-chip-id"):
        verify(attest(machine={"chip": "somebody else's"}))


def test_image_that_the_organisation_has_not_granted_is_refused():
    with pytest.raises(AppraisalError, match="runs an image that north has not granted: measurement") as caught:
        verify(attest(machine={"measurement": b"\x09" * 48}))
    assert IMAGE.hex()[:16] in caught.value.message


# --- 7. devices ------------------------------------------------------------------------------------------------------


def test_gpu_that_the_organisation_has_not_granted_is_refused():
    with pytest.raises(AppraisalError, match="runs on hardware that north has not granted: gpu-ueid"):
        verify(attest(machine={"gpus": (gpu_of("hospital-b"),)}))


@pytest.mark.parametrize("count", [0, 2])
def test_other_number_of_devices_than_the_core_says_is_refused(count):
    with pytest.raises(BindingMismatchError, match=f"evidence of 1 devices came, the core says {count}"):
        verify(attest(core={"n_devices": count}))


def test_device_that_was_left_out_is_missed():
    def none(*_):
        return ()

    with pytest.raises(BindingMismatchError, match="evidence of 0 devices came, the core says 1"):
        verify(attest(collect=none))


def test_device_that_was_taken_out_after_the_report_is_missed():
    evidence = replace(genuine().evidence, devices=())
    with pytest.raises(BindingMismatchError, match="report data is"):
        verify(repack(genuine(), evidence=evidence))


def test_devices_in_another_order_are_refused():
    def swapped(attester, core, count):
        return collect_devices(attester, core, count)[::-1]

    with pytest.raises(BindingMismatchError, match="nonce"):
        verify(attest(machine={"gpus": (gpu_of(NODE), "second-gpu")}, collect=swapped))


def test_one_device_that_answers_twice_is_refused():
    with pytest.raises(BindingMismatchError, match="come from the same device"):
        verify(attest(machine={"gpus": (gpu_of(NODE), gpu_of(NODE))}))


@pytest.mark.parametrize(("index", "count"), [(1, 1), (0, 2)])
def test_device_that_answers_to_the_nonce_of_another_place_is_refused(index, count):
    def elsewhere(attester, core, _count):
        return [attester.collect_device(0, device_nonce(core_hash(core), index, count))]

    with pytest.raises(BindingMismatchError, match="nonce"):
        verify(attest(collect=elsewhere))


def test_evidence_of_a_switch_is_not_taken_for_one_of_a_gpu():
    def switch(attester, core, count):
        return [replace(device, device_class="switch") for device in collect_devices(attester, core, count)]

    with pytest.raises(MalformedEvidenceError, match="evidence of a switch cannot be verified yet"):
        verify(attest(collect=switch))


# --- everything at once ----------------------------------------------------------------------------------------------


def test_digests_of_the_core_are_of_the_bytes_that_travelled():
    core = verify(genuine()).core
    assert core.grant == Envelope.parse(genuine().grant).digest
    assert core.csr_sha256 == hashlib.sha256(genuine().csr).digest()
    assert core.sign_pk == raw_public_key(boot_keys(NODE).sign)
