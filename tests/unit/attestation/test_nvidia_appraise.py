from dataclasses import replace

import pytest

from attestation.nvidia_gpu.appraise import GpuExpectations, appraise
from attestation.nvidia_gpu.verify import verify
from tests.fakes.lab_nvidia import NONCE, SWITCH, SWITCH_NAMES, LabReport, anchors, chain, good_pem, measurement
from tests.fakes.lab_x509 import NOW, pem

NOTHING = GpuExpectations(device_class="gpu", min_driver=None, features=None, ueids=None)


def claims(**fields):
    report = LabReport().with_fields(**fields).encode()
    return verify(report, good_pem(), nonce=NONCE, anchors=anchors(), now=NOW)


def switch_claims():
    ders = chain(names=SWITCH_NAMES)
    return verify(SWITCH.encode(), pem(*ders), nonce=NONCE, anchors=anchors(root=ders[-1]), now=NOW)


def fields(verified, asked) -> list[str]:
    found = appraise(verified, asked)
    assert all(finding.status == "contraindicated" and finding.repair for finding in found)
    return [finding.field for finding in found]


def test_good_gpu_has_no_findings_even_when_everything_is_asked():
    verified = claims()
    strict = GpuExpectations(
        device_class="gpu",
        min_driver="580.95.05",
        features=frozenset({"spt"}),
        ueids=frozenset({verified.ueid}),
        vbios_versions=frozenset({"96.00.9f.00.01"}),
        measurements={1: measurement(1), 64: measurement(64)},
    )
    assert appraise(verified, strict) == ()


@pytest.mark.parametrize(
    ("floor", "found"),
    [
        ("580.95.05", []),
        ("580.9", []),
        ("580", []),
        ("580.95.06", ["gpu.driver_version"]),
        ("580.100", ["gpu.driver_version"]),
        ("900", ["gpu.driver_version"]),
        ("r580", ["gpu.driver_version"]),
    ],
)
def test_driver_is_compared_number_by_number(floor, found):
    assert fields(claims(), replace(NOTHING, min_driver=floor)) == found


@pytest.mark.parametrize("driver", [None, b"999-dev\0"])
def test_driver_that_is_absent_or_not_numbers_is_below_every_floor(driver):
    assert fields(claims(_3=driver), replace(NOTHING, min_driver="0")) == ["gpu.driver_version"]


@pytest.mark.parametrize("flag", [b"\x02\0", None])
def test_feature_that_the_policy_does_not_list_is_found(flag):
    assert fields(claims(_36=flag), replace(NOTHING, features=frozenset({"spt", "mpt"}))) == ["gpu.feature"]


def test_missing_firmware_id_is_found_unless_the_policy_gives_it_up():
    assert fields(claims(_20=None), NOTHING) == ["gpu.fwid"]
    assert fields(claims(_20=None), replace(NOTHING, require_fwid=False)) == []


def test_device_that_is_not_enrolled_is_found():
    assert fields(claims(), replace(NOTHING, ueids=frozenset({bytes(32)}))) == ["gpu.ueid"]


def test_vbios_that_the_policy_does_not_list_is_found():
    assert fields(claims(), replace(NOTHING, vbios_versions=frozenset({"96.00.a5.00.01"}))) == ["gpu.vbios_version"]


def test_measurement_that_differs_or_is_absent_is_found():
    asked = replace(NOTHING, measurements={2: measurement(2), 7: measurement(8), 65: measurement(65)})
    assert fields(claims(), asked) == ["gpu.measurement.7", "gpu.measurement.65"]


def test_switch_sent_as_a_gpu_and_gpu_sent_as_a_switch_are_found():
    assert "gpu.device_class" in fields(switch_claims(), NOTHING)
    assert fields(claims(), replace(NOTHING, device_class="switch")) == ["gpu.device_class"]


def test_switch_is_not_asked_what_only_gpus_report():
    asked = GpuExpectations(device_class="switch", min_driver="580", features=frozenset({"ppcie"}), ueids=None)
    assert fields(switch_claims(), asked) == []
