from dataclasses import replace
from functools import cache
from types import MappingProxyType

import pytest

from attestation.nvidia_gpu.topology import PPCIE_GPUS, PPCIE_SWITCHES, appraise_devices, appraise_ppcie
from attestation.nvidia_gpu.verify import GpuClaims, verify
from tests.fakes.lab_nvidia import NONCE, SWITCH, SWITCH_NAMES, LabReport, anchors, chain, good_pem
from tests.fakes.lab_x509 import NOW, pem

COUNT = PPCIE_GPUS + PPCIE_SWITCHES
NONCES = [NONCE] * COUNT
UNUSED = bytes(8)
GPU_PDIS = b"".join(bytes((0xA0 + place,)) * 8 for place in range(PPCIE_GPUS))
PORTS = b"\xff" * 64  # which port leads to which GPU: not identifiers


def switch_pdi(place: int) -> bytes:
    return bytes((place, 1, 2, 3, 4, 5, 6, 7))


# As a GPU writes them: reversed, several links to each switch, one link unused.
SWITCHES_SEEN = b"".join(switch_pdi(place)[::-1] * 4 for place in range(PPCIE_SWITCHES)) + UNUSED * 2


@cache
def lab_gpu() -> GpuClaims:
    report = LabReport().with_fields(_21=b"\xaa", _22=SWITCHES_SEEN, _36=b"\x02\0").encode()
    return verify(report, good_pem(), nonce=NONCE, anchors=anchors(), now=NOW)


@cache
def lab_switch() -> GpuClaims:
    ders = chain(names=SWITCH_NAMES)
    return verify(SWITCH.encode(), pem(*ders), nonce=NONCE, anchors=anchors(root=ders[-1]), now=NOW)


def with_opaque(claims: GpuClaims, field: int, value: bytes | None) -> GpuClaims:
    opaque = {kind: one for kind, one in claims.report.opaque.items() if kind != field}
    opaque |= {} if value is None else {field: value}
    return replace(claims, report=replace(claims.report, opaque=MappingProxyType(opaque)))


def with_report(claims: GpuClaims, **changes) -> GpuClaims:
    return replace(claims, report=replace(claims.report, **changes))


def machine() -> list[GpuClaims]:
    """Return eight GPUs and four switches that belong together."""
    gpus = [replace(lab_gpu(), ueid=bytes((place,)) * 32) for place in range(PPCIE_GPUS)]
    switches = [
        replace(
            with_opaque(with_opaque(lab_switch(), 22, switch_pdi(place)), 26, GPU_PDIS + PORTS),
            ueid=bytes((100 + place,)) * 32,
        )
        for place in range(PPCIE_SWITCHES)
    ]
    return gpus + switches


def fields(devices: list[GpuClaims], nonces=None) -> list[str]:
    found = appraise_ppcie(devices, [NONCE] * len(devices) if nonces is None else nonces)
    assert all(finding.status == "contraindicated" and finding.repair for finding in found)
    return [finding.field.removeprefix("topology.") for finding in found]


def changed(place: int, change) -> list[GpuClaims]:
    devices = machine()
    devices[place] = change(devices[place])
    return devices


def test_machine_of_eight_gpus_and_four_switches_has_no_findings_in_any_order():
    assert fields(machine()) == fields(machine()[::-1]) == []


def test_drivers_that_do_not_report_a_feature_are_believed_by_their_pcie_status():
    assert fields([with_report(device, feature=None) for device in machine()]) == []


# --- distinct, and of one session --------------------------------------------------------------------------------------


def test_distinct_devices_of_one_session_have_no_findings():
    assert appraise_devices(machine()[:2], [NONCE] * 2) == ()


def test_devices_may_each_have_a_nonce_of_their_own():
    devices = [with_report(device, nonce=bytes((place,)) * 32) for place, device in enumerate(machine()[:2])]
    assert appraise_devices(devices, [bytes(32), b"\1" * 32]) == ()


def test_no_devices_at_all_are_found():
    assert [finding.field for finding in appraise_devices([], [])] == ["topology.count"]


def test_device_that_is_sent_twice_is_found():
    twice = [*machine()[:7], machine()[0], *machine()[8:]]
    assert fields(twice) == ["ueid"]


def test_device_that_answers_to_another_session_is_found():
    assert fields(changed(9, lambda device: with_report(device, nonce=bytes(32)))) == ["9.nonce"]


@pytest.mark.parametrize("count", [0, COUNT - 1, COUNT + 1])
def test_each_device_needs_its_nonce(count):
    with pytest.raises(ValueError, match="zip"):
        appraise_ppcie(machine(), [NONCE] * count)


# --- complete ----------------------------------------------------------------------------------------------------------


def test_missing_gpu_is_found():
    assert fields(machine()[1:]) == ["gpus"]


def test_missing_switch_is_found_by_its_absence_and_by_every_gpu():
    assert fields(machine()[:-1]) == ["switches", *(f"gpu.{place}.switches" for place in range(PPCIE_GPUS))]


def test_gpus_alone_and_switches_alone_are_found():
    assert "switches" in fields(machine()[:PPCIE_GPUS])
    assert fields(machine()[PPCIE_GPUS:]) == ["gpus"]
    assert fields([], []) == ["count", "gpus", "switches"]


def test_device_too_many_is_found():
    extra = replace(lab_gpu(), ueid=b"\x77" * 32)
    assert fields([*machine(), extra]) == ["gpus"]


# --- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", ["spt", "mpt"])
def test_gpu_in_another_mode_is_found(feature):
    found = fields(changed(3, lambda device: with_report(device, feature=feature)))
    assert found == ["gpu.3.feature", "software"]


@pytest.mark.parametrize("status", [False, None])
def test_gpu_without_protected_pcie_is_found(status):
    assert fields(changed(3, lambda device: with_report(device, protected_pcie=status))) == ["gpu.3.protected_pcie"]


@pytest.mark.parametrize("change", [{"driver_version": "570.0"}, {"feature": None}])
def test_gpu_with_another_driver_or_feature_flag_is_found(change):
    assert fields(changed(3, lambda device: with_report(device, **change))) == ["software"]


def test_gpu_of_another_model_is_found():
    assert fields(changed(3, lambda device: replace(device, hwmodel="GB100"))) == ["software"]


# --- wiring ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seen",
    [
        None,
        b"",
        SWITCHES_SEEN[:96],
        SWITCHES_SEEN + b"\x99" * 8,
        SWITCHES_SEEN + b"\0",
        b"".join(switch_pdi(place) for place in range(PPCIE_SWITCHES)),
    ],
    ids=["absent", "empty", "fewer", "stranger", "cut", "own-order"],
)
def test_gpu_that_is_wired_to_other_switches_is_found(seen):
    assert fields(changed(3, lambda device: with_opaque(device, 22, seen))) == ["gpu.3.switches"]


@pytest.mark.parametrize("own", [None, b"", switch_pdi(0)])
def test_switch_without_an_identifier_of_its_own_is_found(own):
    found = fields(changed(9, lambda device: with_opaque(device, 22, own)))
    assert found == ["switches.pdi", *(f"gpu.{place}.switches" for place in range(PPCIE_GPUS))]


@pytest.mark.parametrize(
    "listed",
    [None, b"", GPU_PDIS[:56] + b"\x99" * 8, GPU_PDIS[:56] + GPU_PDIS[:8], GPU_PDIS[:56] + UNUSED, GPU_PDIS[:60]],
    ids=["absent", "empty", "stranger", "repeated", "unused", "cut"],
)
def test_switch_that_lists_other_gpus_is_found(listed):
    assert fields(changed(9, lambda device: with_opaque(device, 26, listed))) == ["switch.1.gpus"]


@pytest.mark.parametrize("listed", [GPU_PDIS[:56] + UNUSED, GPU_PDIS[:60]], ids=["unused", "cut"])
def test_switches_that_agree_on_fewer_gpus_are_found(listed):
    devices = machine()[:PPCIE_GPUS] + [with_opaque(one, 26, listed) for one in machine()[PPCIE_GPUS:]]
    assert fields(devices) == [f"switch.{place}.gpus" for place in range(PPCIE_SWITCHES)]


def test_port_map_behind_the_identifiers_is_not_read():
    assert fields(changed(9, lambda device: with_opaque(device, 26, GPU_PDIS + bytes(64)))) == []
