from dataclasses import replace

import pytest

from attestation.nvidia_gpu.appraise import GpuExpectations, appraise
from attestation.nvidia_gpu.rim import VerifiedRim, verify_rim
from attestation.nvidia_gpu.rim_match import match_rims, rim_ids
from attestation.nvidia_gpu.verify import GpuClaims, verify
from tests.fakes.lab_nvidia import NONCE, SWITCH, SWITCH_NAMES, LabReport, anchors, block, chain, good_pem, measurement
from tests.fakes.lab_rim import DRIVER_ID, SWITCH_BIOS, SWITCH_ID, VBIOS, VBIOS_ID, LabRim, resource, rim_anchors
from tests.fakes.lab_x509 import NOW, pem

BOARD = {"_15": b"885\0\0", "_17": b"1010\0", "_18": b"0200\0"}
GPU = LabReport().with_fields(**BOARD)


def gpu(report: LabReport = GPU, *, mock: bool = True) -> GpuClaims:
    return verify(report.encode(), good_pem(), nonce=NONCE, anchors=anchors(mock=mock), now=NOW)


def switch() -> GpuClaims:
    ders = chain(names=SWITCH_NAMES)
    return verify(SWITCH.encode(), pem(*ders), nonce=NONCE, anchors=anchors(root=ders[-1]), now=NOW)


def verified(rim: LabRim, rim_id: str, *, mock: bool = True) -> VerifiedRim:
    return verify_rim(rim.encode(), rim_id=rim_id, anchors=rim_anchors(mock=mock), now=NOW)


DRIVER = LabRim()
RIMS = (verified(DRIVER, DRIVER_ID), verified(VBIOS, VBIOS_ID))


def fields(claims: GpuClaims, *rims: VerifiedRim) -> list[str]:
    found = match_rims(claims, rims)
    assert all(finding.status == "contraindicated" and finding.repair for finding in found)
    return [finding.field for finding in found]


def with_block(index: int, value: bytes | None) -> LabReport:
    """Return the good report with another measurement at an SPDM index, or without it."""
    blocks = {number: measurement(number) for number in range(1, 65)} | {index: value}
    return GPU.but(blocks=tuple(block(number, digest) for number, digest in blocks.items() if digest is not None))


def test_gpu_that_matches_both_manifests_has_no_findings():
    assert match_rims(gpu(), RIMS) == ()


def test_switch_that_matches_its_manifest_has_no_findings():
    assert match_rims(switch(), [verified(SWITCH_BIOS, SWITCH_ID)]) == ()


def test_manifests_of_other_devices_are_passed_over():
    other = verified(DRIVER.but(version="550.90.07"), "NV_GPU_DRIVER_GH100_550.90.07")
    assert match_rims(gpu(), [other, *RIMS, verified(SWITCH_BIOS, SWITCH_ID)]) == ()


# --- ids ---------------------------------------------------------------------------------------------------------------


def test_ids_follow_from_the_signed_report():
    assert rim_ids(gpu()) == {"driver": DRIVER_ID, "vbios": VBIOS_ID}
    assert rim_ids(switch()) == {"switch": SWITCH_ID}


def test_blackwell_names_its_driver_manifest_by_the_chip_of_the_report():
    names = ("GB100 A01 FSP FMC LF", "GB100 A01 FSP BROM", "Provisioner ICA 1", "GB100 Identity", "Device Identity CA")
    ders = chain(names=names)
    report = GPU.with_fields(_35=b"GB100\0").encode()
    claims = verify(report, pem(*ders), nonce=NONCE, anchors=anchors(root=ders[-1]), now=NOW)
    assert rim_ids(claims)["driver"] == "NV_GPU_CC_DRIVER_GB100_580.95.05"


@pytest.mark.parametrize("part", [None, b"", b"../x", b"\xff\xfe", b"1010_0200", b"x" * 17])
def test_part_that_is_absent_or_no_name_makes_an_id_that_no_manifest_has(part):
    claims = gpu(GPU.with_fields(_17=part))
    assert rim_ids(claims)["vbios"] == "NV_GPU_VBIOS_?_0200_885_96009F0001"
    assert fields(claims, *RIMS) == ["gpu.rim.vbios"]


# --- manifests ---------------------------------------------------------------------------------------------------------


def test_manifest_that_is_absent_is_found():
    assert fields(gpu(), RIMS[0]) == ["gpu.rim.vbios"]
    assert fields(gpu(), RIMS[1]) == ["gpu.rim.driver"]
    assert fields(switch(), *RIMS) == ["gpu.rim.switch"]


def test_no_manifests_at_all_match_nothing():
    assert fields(gpu()) == ["gpu.rim.driver", "gpu.rim.vbios"]


def test_report_without_a_driver_has_no_driver_manifest():
    assert fields(gpu(GPU.with_fields(_3=None)), *RIMS) == ["gpu.rim.driver"]


def test_manifest_without_active_measurements_is_found():
    assert fields(gpu(), replace(RIMS[0], measurements={}), RIMS[1]) == ["gpu.rim.driver"]


def test_genuine_device_is_not_compared_with_development_manifests_nor_the_other_way():
    vendors = ["gpu.rim.driver.vendor", "gpu.rim.vbios.vendor"]
    assert fields(gpu(mock=False), *RIMS) == vendors
    assert fields(gpu(), verified(DRIVER, DRIVER_ID, mock=False), verified(VBIOS, VBIOS_ID, mock=False)) == vendors


def test_index_that_both_manifests_list_is_found():
    both = verified(VBIOS.but(resources=(resource(30, measurement(31)),)), VBIOS_ID)
    assert fields(gpu(), RIMS[0], both) == ["gpu.rim.index.30"]


# --- measurements ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "found"), [(21, ["gpu.measurement.21"]), (2, ["gpu.measurement.2"]), (20, [])])
def test_measurement_that_differs_is_found_where_a_manifest_lists_it(index, found):
    assert fields(gpu(with_block(index, bytes(48))), *RIMS) == found


def test_measurement_that_is_missing_is_found():
    finding = match_rims(gpu(with_block(31, None)), RIMS)[0]
    assert (finding.field, finding.found, finding.expected) == ("gpu.measurement.31", "absent", measurement(31).hex())


def test_measurement_may_equal_any_alternative():
    driver = verified(DRIVER.but(resources=(resource(20, bytes(48), measurement(21)),)), DRIVER_ID)
    assert fields(gpu(), driver, RIMS[1]) == []
    assert fields(gpu(with_block(21, b"\1" * 48)), driver, RIMS[1]) == ["gpu.measurement.21"]


@pytest.mark.parametrize(
    ("status", "found"), [(b"\x55", []), (b"\xaa", ["gpu.measurement.36"]), (None, ["gpu.measurement.36"])]
)
def test_decoder_is_not_compared_while_it_is_off_and_only_then(status, found):
    report = with_block(36, bytes(48)).with_fields(_11=status)
    assert fields(gpu(report), *RIMS) == found


# --- as part of appraisal ----------------------------------------------------------------------------------------------


def test_policy_that_asks_for_manifests_gets_their_findings():
    asked = GpuExpectations(device_class="gpu", min_driver=None, features=None, ueids=None)
    assert appraise(gpu(), replace(asked, rims=RIMS)) == ()
    assert [finding.field for finding in appraise(gpu(), replace(asked, rims=RIMS[:1]))] == ["gpu.rim.vbios"]
    assert len(appraise(gpu(), replace(asked, rims=()))) == 2
