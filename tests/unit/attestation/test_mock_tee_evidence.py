"""What the development vendor signs: byte for byte by the vendors' documents, and accepted by the strict verifiers.

The first parts read reports with offsets written here by hand and check signatures with `cryptography` alone; the last
hands the same bytes to `attestation.snp` and `attestation.nvidia_gpu`.
"""

import itertools
import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import BindingMismatchError, EndorsementError, MockTeeError, SignatureError
from attestation.mock_tee.hardware import Hardware
from attestation.mock_tee.machines import (
    CURRENT_TCB,
    POLICY_DEBUG,
    STALE_TCB,
    GpuLaunch,
    Launch,
    MilanTcb,
    chip_id_of,
    snp_launch,
)
from attestation.mock_tee.vendor import create_vendor
from attestation.nvidia_gpu.verify import verify as verify_gpu
from attestation.snp.appraise import SnpExpectations, appraise
from attestation.snp.certificate_table import CertificateTable
from attestation.snp.verify import verify as verify_snp
from attestation.trust_anchors import GENUINE, TrustAnchor, with_development

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
NONCE = bytes(range(100, 132))


@pytest.fixture(scope="module")
def vendor():
    return create_vendor(now=NOW)


@pytest.fixture(scope="module")
def hardware(vendor):
    return hardware_of(vendor)


def hardware_of(vendor):
    counter = itertools.count(1)
    return Hardware(vendor, now=lambda: NOW, randomness=lambda size: next(counter).to_bytes(size, "big"))


@pytest.fixture(scope="module")
def anchors(vendor):
    return with_development(
        TrustAnchor(vendor=anchor.vendor, product=anchor.product, sha256=anchor.sha256, mock=True)
        for anchor in vendor.anchors
    )


def launch_of(*gpus, driver="580.95.05", chip="chip", **snp):
    ordinary = {"chip_id": chip_id_of(chip), "measurement": b"m" * 48, "host_data": b"h" * 32}
    return Launch(
        name="machine",
        snp=snp_launch(**ordinary).model_copy(update=snp),
        gpus=tuple(GpuLaunch(serial=serial, driver_version=driver) for serial in gpus),
    )


def report_of(hardware, **snp):
    return hardware.start(launch_of(**snp)).collect_cpu(REPORT_DATA).report


def certificates_of(table):
    """Return the certificates of a GHCB table by GUID, read by hand."""
    found, at = {}, 0
    while table[at : at + 24] != bytes(24):
        guid, offset, length = struct.unpack_from("<16sII", table, at)
        found[str(UUID(bytes=guid))] = table[offset : offset + length]
        at += 24
    return found


def vcek_of(cpu):
    return x509.load_der_x509_certificate(certificates_of(cpu.endorsements)["63da758d-e664-4564-adc5-f4b93be8accd"])


# --- SNP reports -----------------------------------------------------------------------------------------------------


def test_report_fields_stand_where_amd_56860_puts_them(hardware):
    tcb = [MilanTcb(bootloader=n, tee=n + 1, snp=n + 2, microcode=n + 3) for n in (40, 30, 20, 10)]
    report = report_of(
        hardware,
        policy=0xB0000,
        vmpl=2,
        current_tcb=tcb[0],
        committed_tcb=tcb[1],
        reported_tcb=tcb[2],
        launch_tcb=tcb[3],
    )
    assert len(report) == 1184
    u32 = {at: struct.unpack_from("<I", report, at)[0] for at in (0, 4, 0x30, 0x34, 0x48, 0x4C)}
    assert u32 == {0: 3, 4: 0, 0x30: 2, 0x34: 1, 0x48: 0, 0x4C: 0}
    assert struct.unpack_from("<Q", report, 0x08) == (0xB0000,)
    assert report[0x10:0x30] == bytes(32)
    assert report[0x38:0x40] == bytes((40, 41, 0, 0, 0, 0, 42, 43))
    assert struct.unpack_from("<Q", report, 0x40) == (0x25,)
    assert report[0x50:0x90] == REPORT_DATA
    assert report[0x90:0xC0] == b"m" * 48
    assert report[0xC0:0xE0] == b"h" * 32
    assert report[0xE0:0x140] == bytes(96)
    assert report[0x140:0x160] != bytes(32)
    assert report[0x160:0x180] == b"\xff" * 32
    assert report[0x180:0x188] == bytes((20, 21, 0, 0, 0, 0, 22, 23))
    assert report[0x188:0x1A0] == b"\x19\x01\x01" + bytes(21)
    assert report[0x1A0:0x1E0] == chip_id_of("chip")
    assert report[0x1E0:0x1E8] == bytes((30, 31, 0, 0, 0, 0, 32, 33))
    assert report[0x1E8:0x1F0] == bytes.fromhex("1d3701001d370100")
    assert report[0x1F0:0x1F8] == bytes((10, 11, 0, 0, 0, 0, 12, 13))
    assert report[0x1F8:0x2A0] == bytes(168)
    assert report[0x2A0 + 48 : 0x2A0 + 72] == bytes(24)
    assert report[0x2E8 + 48 :] == bytes(24 + 368)


@pytest.mark.parametrize(
    ("version", "cpuid", "mitigations"), [(2, "000000", 0), (3, "190101", 0), (4, "190101", 0), (5, "190101", 11)]
)
def test_each_report_version_fills_the_fields_it_has(hardware, version, cpuid, mitigations):
    report = report_of(hardware, report_version=version)
    assert struct.unpack_from("<I", report) == (version,)
    assert report[0x188:0x18B].hex() == cpuid
    assert struct.unpack_from("<QQ", report, 0x1F8) == (mitigations, mitigations)


def test_signature_is_little_endian_and_verifies_with_the_vcek(hardware):
    cpu = hardware.start(launch_of()).collect_cpu(REPORT_DATA)
    r = int.from_bytes(cpu.report[0x2A0:0x2E8], "little")
    s = int.from_bytes(cpu.report[0x2E8:0x330], "little")
    key = vcek_of(cpu).public_key()
    key.verify(encode_dss_signature(r, s), cpu.report[:0x2A0], ec.ECDSA(hashes.SHA384()))
    with pytest.raises(InvalidSignature):
        key.verify(encode_dss_signature(r, s), b"\0" + cpu.report[1:0x2A0], ec.ECDSA(hashes.SHA384()))


def test_report_id_is_new_at_each_launch_and_stays_within_one(hardware):
    first, second = hardware.start(launch_of()), hardware.start(launch_of())
    ids = [machine.collect_cpu(bytes(64)).report[0x140:0x160] for machine in (first, first, second)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_size_is_refused_and_never_padded(hardware, size):
    with pytest.raises(MockTeeError, match=f"report data has {size} bytes, expected 64"):
        hardware.start(launch_of()).collect_cpu(bytes(size))


# --- AMD certificates ------------------------------------------------------------------------------------------------


def test_vcek_carries_every_amd_extension(hardware):
    cpu = hardware.start(launch_of()).collect_cpu(REPORT_DATA)
    found = {extension.oid.dotted_string: extension.value.value.hex() for extension in vcek_of(cpu).extensions}
    prefix = "1.3.6.1.4.1.3704.1."
    assert found == {
        prefix + "1": "020100",
        prefix + "2": "1608" + b"Milan-B0".hex(),
        prefix + "3.1": "020104",
        prefix + "3.2": "020100",
        prefix + "3.3": "020118",
        prefix + "3.4": "020100",
        prefix + "3.5": "020100",
        prefix + "3.6": "020100",
        prefix + "3.7": "020100",
        prefix + "3.8": "020200db",
        prefix + "4": chip_id_of("chip").hex(),
    }


def test_amd_chain_is_signed_by_rsa_pss_with_salt_48_and_named_as_amd_does(vendor, hardware):
    vcek = vcek_of(hardware.start(launch_of()).collect_cpu(REPORT_DATA))
    for certificate, issuer, name in (
        (vcek, vendor.ask, "SEV-VCEK"),
        (vendor.ask, vendor.ark, "SEV-Milan"),
        (vendor.ark, vendor.ark, "ARK-Milan"),
    ):
        key = issuer.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 4096
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, pss, hashes.SHA384())
        assert certificate.issuer == issuer.subject
        assert certificate.subject.rfc4514_string() == (
            f"CN={name},O=Advanced Micro Devices,ST=CA,L=Santa Clara,C=US,OU=Engineering"
        )
    assert vcek.public_key().curve.name == "secp384r1"


def test_certificate_table_holds_ark_ask_and_vcek_without_gaps(vendor, hardware):
    table = hardware.start(launch_of()).collect_cpu(REPORT_DATA).endorsements
    found = certificates_of(table)
    assert list(found) == [
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",
        "4ab7b379-bbac-4fe4-a02f-05aef327c782",
        "63da758d-e664-4564-adc5-f4b93be8accd",
    ]
    ark, ask, _ = found.values()
    assert x509.load_pem_x509_certificate(ark) == vendor.ark
    assert ask == vendor.ask.public_bytes(Encoding.DER)
    assert len(table) == 4 * 24 + sum(map(len, found.values()))


def test_chip_has_another_key_at_another_tcb_and_the_same_key_again_later(vendor, hardware):
    def key(of, **snp):
        certificate = vcek_of(of.start(launch_of(**snp)).collect_cpu(REPORT_DATA))
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    assert key(hardware) == key(hardware_of(vendor))
    assert len({key(hardware), key(hardware, reported_tcb=STALE_TCB), key(hardware, chip_id=b"c" * 64)}) == 3


# --- GPU reports -----------------------------------------------------------------------------------------------------


def gpu_report_of(hardware, serial="H100-1", nonce=NONCE):
    return hardware.start(launch_of(serial)).collect_device(0, nonce)


def opaque_of(report):
    at = 37 + 8 + 64 * 55 + 32
    (length,) = struct.unpack_from("<H", report, at)
    opaque, found, at = report[at + 2 : at + 2 + length], {}, 0
    while at < length:
        kind, size = struct.unpack_from("<HH", opaque, at)
        assert kind not in found
        found[kind] = opaque[at + 4 : at + 4 + size]
        at += 4 + size
    return found


def test_gpu_report_is_an_spdm_1_1_request_and_response(hardware):
    report = gpu_report_of(hardware).report
    assert report[:37] == b"\x11\xe0\x01\xff" + NONCE + b"\x00"
    assert report[37:45] == b"\x11\x60\x00\x00" + bytes((64,)) + (64 * 55).to_bytes(3, "little")
    for index in range(64):
        assert report[45 + 55 * index :][:7] == bytes((index + 1, 1, 51, 0, 1, 48, 0))
    (opaque_length,) = struct.unpack_from("<H", report, 45 + 64 * 55 + 32)
    assert len(report) == 45 + 64 * 55 + 32 + 2 + opaque_length + 96


def test_opaque_data_names_driver_vbios_firmware_and_feature(hardware):
    opaque = opaque_of(gpu_report_of(hardware).report)
    assert opaque[3] == b"580.95.05\0"
    assert opaque[6] == bytes.fromhex("009f009601000000")
    assert opaque[11] == b"\x55"
    assert len(opaque[12]) == 256
    assert len(opaque[20]) == 48
    assert opaque[21] == b"\x55"
    assert opaque[34] == b"\x01\x00"
    assert opaque[35] == b"GH100\0"
    assert opaque[36] == b"\x00\x00"


def test_gpu_signature_is_big_endian_and_verifies_with_the_leaf(hardware):
    device = gpu_report_of(hardware)
    leaf = x509.load_pem_x509_certificates(device.chain)[0]
    signed, signature = device.report[:-96], device.report[-96:]
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    leaf.public_key().verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    with pytest.raises(InvalidSignature):
        leaf.public_key().verify(encode_dss_signature(r, s), signed[:-1] + b"\xff", ec.ECDSA(hashes.SHA384()))


def test_gpu_chain_has_five_certificates_leaf_first_each_signed_by_the_next(vendor, hardware):
    chain = x509.load_pem_x509_certificates(gpu_report_of(hardware).chain)
    names = [c.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value for c in chain]
    assert names == [
        "GH100 A01 GSP FMC LF",
        "GH100 A01 GSP BROM",
        "NVIDIA GH100 Provisioner ICA 1",
        "NVIDIA GH100 Identity",
        "NVIDIA Device Identity CA",
    ]
    for subject, issuer in itertools.pairwise((*chain, chain[-1])):
        subject.verify_directly_issued_by(issuer)
        assert subject.public_key().curve.name == "secp384r1"
    assert chain[-1] == vendor.device_root


def test_leaf_carries_the_firmware_id_of_the_report_last_in_its_dice_extension(hardware):
    device = gpu_report_of(hardware)
    leaf, rom, *_ = x509.load_pem_x509_certificates(device.chain)
    value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier("2.23.133.5.4.1")).value.value
    assert value[:6] == bytes.fromhex("3081ba020101")
    assert value[6:126] == rom.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert value[-48:] == opaque_of(device.report)[20]


def test_every_gpu_report_has_a_responder_nonce_of_its_own(hardware):
    machine = hardware.start(launch_of("H100-1"))
    at = slice(45 + 64 * 55, 45 + 64 * 55 + 32)
    assert machine.collect_device(0, NONCE).report[at] != machine.collect_device(0, NONCE).report[at]


def test_board_keeps_its_keys_wherever_it_is_plugged_in(vendor, hardware):
    def keys(of, serial):
        chain = x509.load_pem_x509_certificates(gpu_report_of(of, serial).chain)
        return [certificate.public_key().public_numbers().x for certificate in chain[:2]]

    assert keys(hardware, "H100-1") == keys(hardware_of(vendor), "H100-1")
    assert not set(keys(hardware, "H100-1")) & set(keys(hardware, "H100-2"))


@pytest.mark.parametrize("index", [-1, 1])
def test_device_that_is_not_there_is_refused(hardware, index):
    with pytest.raises(MockTeeError, match=f"has 1 devices, none with index {index}"):
        hardware.start(launch_of("H100-1")).collect_device(index, NONCE)


def test_nonce_of_another_size_is_refused_and_never_padded(hardware):
    with pytest.raises(MockTeeError, match="nonce has 31 bytes, expected 32"):
        hardware.start(launch_of("H100-1")).collect_device(0, bytes(31))


# --- accepted by the strict verifiers --------------------------------------------------------------------------------


def verified(cpu, anchors, now=NOW):
    table = CertificateTable.parse(cpu.endorsements)
    return verify_snp(cpu.report, table.endorsements(), anchors=anchors, now=now)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_verifier_accepts_the_report_and_labels_it_mock(hardware, anchors, version):
    claims = verified(hardware.start(launch_of(report_version=version)).collect_cpu(REPORT_DATA), anchors)
    assert claims.mock
    assert claims.product == "Milan"
    assert claims.chip_id == chip_id_of("chip")
    assert claims.report.report_data == REPORT_DATA
    assert claims.report.measurement == b"m" * 48
    assert claims.report.host_data == b"h" * 32


def test_verifier_reads_a_deliberately_bad_launch_as_launched(hardware, anchors):
    machine = hardware.start(launch_of(policy=0x30000 | POLICY_DEBUG, vmpl=1, launch_tcb=STALE_TCB))
    report = verified(machine.collect_cpu(REPORT_DATA), anchors).report
    assert report.vmpl == 1
    assert report.policy.debug
    assert (report.launch_tcb.snp, report.launch_tcb.microcode) == (STALE_TCB.snp, STALE_TCB.microcode)
    assert (report.current_tcb.snp, report.current_tcb.microcode) == (CURRENT_TCB.snp, CURRENT_TCB.microcode)


@pytest.mark.parametrize(
    ("launched", "found"),
    [
        ({}, []),
        ({"policy": 0x30000 | POLICY_DEBUG}, ["policy.debug"]),
        ({"measurement": b"x" * 48}, ["measurement"]),
        ({"host_data": b"x" * 32}, ["host_data"]),
        ({"chip_id": b"x" * 64}, ["chip_id"]),
        ({"vmpl": 1}, ["vmpl"]),
        ({"report_version": 2}, ["report_version"]),
    ],
)
def test_appraisal_finds_what_is_wrong_with_a_launch_and_nothing_else(hardware, anchors, launched, found):
    expected = SnpExpectations(
        measurements=frozenset({b"m" * 48}),
        host_data=b"h" * 32,
        min_tcb=None,
        chip_ids=frozenset({chip_id_of("chip")}),
    )
    claims = verified(hardware.start(launch_of(**launched)).collect_cpu(REPORT_DATA), anchors)
    assert [finding.field.removeprefix("snp.") for finding in appraise(claims, expected)] == found


@pytest.mark.parametrize("days", [-300, 0, 5 * 365])
def test_evidence_holds_for_tests_with_a_clock_of_their_own(hardware, anchors, days):
    now = NOW + timedelta(days=days)
    machine = hardware.start(launch_of("H100-1"))
    device = machine.collect_device(0, NONCE)
    assert verified(machine.collect_cpu(REPORT_DATA), anchors, now).mock
    assert verify_gpu(device.report, device.chain, nonce=NONCE, anchors=anchors, now=now).mock


def test_verifier_with_genuine_roots_alone_refuses_the_vendor(hardware):
    machine = hardware.start(launch_of("H100-1"))
    device = machine.collect_device(0, NONCE)
    with pytest.raises(SignatureError, match="expected one of the pinned amd roots"):
        verified(machine.collect_cpu(REPORT_DATA), GENUINE)
    with pytest.raises(SignatureError, match="expected one of the pinned nvidia roots"):
        verify_gpu(device.report, device.chain, nonce=NONCE, anchors=GENUINE, now=NOW)


def test_report_with_the_certificates_of_another_chip_is_refused(hardware, anchors):
    report = hardware.start(launch_of()).collect_cpu(REPORT_DATA)
    other = hardware.start(launch_of(chip="other")).collect_cpu(REPORT_DATA)
    table = CertificateTable.parse(other.endorsements).endorsements()
    with pytest.raises(EndorsementError, match="VCEK is for chip"):
        verify_snp(report.report, table, anchors=anchors, now=NOW)


def test_verifier_accepts_the_gpu_report_and_labels_it_mock(hardware, anchors):
    device = gpu_report_of(hardware)
    claims = verify_gpu(device.report, device.chain, nonce=NONCE, anchors=anchors, now=NOW)
    assert claims.mock
    assert (claims.device_class, claims.hwmodel, claims.driver_version) == ("gpu", "GH100", "580.95.05")
    assert claims.vbios_version.upper() == "96.00.9F.00.01"
    assert claims.fwid == opaque_of(device.report)[20]
    assert len(claims.measurements) == 64


def test_gpu_report_for_another_nonce_is_refused(hardware, anchors):
    device = gpu_report_of(hardware, nonce=bytes(32))
    with pytest.raises(BindingMismatchError):
        verify_gpu(device.report, device.chain, nonce=NONCE, anchors=anchors, now=NOW)


def test_two_boards_are_told_apart_and_one_board_in_two_machines_is_not(hardware, anchors):
    def ueid(machine):
        device = machine.collect_device(0, NONCE)
        return verify_gpu(device.report, device.chain, nonce=NONCE, anchors=anchors, now=NOW).ueid

    own, other, lent = (
        hardware.start(launch_of(serial, chip=chip)) for serial, chip in (("A", "1"), ("B", "2"), ("A", "2"))
    )
    assert ueid(own) == ueid(lent) != ueid(other)
