"""Genuine claims against reference values: one entry must match as a whole, and every finding is listed."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.appraisal import appraise, appraise_service
from attestation.mock_tee.machines import POLICY, POLICY_DEBUG, STALE_TCB, chip_id_of
from attestation.reference_values import Devices
from attestation.verifier import verify_attestation
from policies.attestation_result import ORDER
from policies.grant import HardwareId
from tests.fakes.trust_domain import (
    ENTRY,
    IMAGE,
    NOW,
    domain,
    draft_reference_values,
    gpu_of,
    ueid_of,
)

NODE = "hospital-a"
STALE = {f"{name}_tcb": STALE_TCB for name in ("current", "committed", "reported", "launch")}


def claims_of(**machine):
    serials = machine.get("gpus", (gpu_of(NODE),))
    hardware = (
        HardwareId(kind="snp-chip-id", value=chip_id_of(NODE)),
        *(HardwareId(kind="gpu-ueid", value=ueid_of(serial)) for serial in serials),
    )
    grant = domain().grant(NODE, hardware=hardware)
    return verify_attestation(domain().attestation(NODE, grant=grant, machine=machine), trust=domain().trust, now=NOW)


@cache
def usual():
    return claims_of()


def entry(**changes):
    return ENTRY.model_copy(update=changes)


def least(**changes):
    return entry(snp=ENTRY.snp.model_copy(update=changes))


def devices(**changes):
    return entry(devices=(ENTRY.devices[0].model_copy(update=changes),))


def against(*entries, claims=None):
    return appraise(claims or usual(), draft_reference_values(entries=entries))


def test_mock_node_that_matches_is_a_warning_and_never_more():
    appraisal = against(ENTRY)
    assert (appraisal.status, appraisal.reference, appraisal.findings) == ("warning", "release-1", ())
    assert set(appraisal.submods) == {"cpu0", "gpu0"}
    for part in appraisal.submods.values():
        assert (part.status, part.trust_vector.status) == ("warning", "warning")
        assert part.advisories == ("signed by a mock vendor: nothing here is attested by hardware",)
    assert appraisal.submods["gpu0"].hardware.value == ueid_of(gpu_of(NODE))
    assert appraisal.submods["cpu0"].hardware.value == chip_id_of(NODE)


@pytest.mark.parametrize(
    ("machine", "field", "part", "claim"),
    [
        ({"policy": POLICY | POLICY_DEBUG}, "snp.policy.debug", "cpu0", "configuration"),
        ({"vmpl": 1}, "snp.vmpl", "cpu0", "configuration"),
        (STALE, "snp.reported_tcb", "cpu0", "hardware"),
        ({"launch_tcb": STALE_TCB}, "snp.launch_tcb", "cpu0", "hardware"),
        ({"report_version": 2}, "snp.report_version", "cpu0", "configuration"),
        ({"driver": "535.104.05"}, "gpu.driver_version", "gpu0", "configuration"),
        ({"gpus": ()}, "devices.gpu", "cpu0", "configuration"),
        ({"gpus": (gpu_of(NODE), "second-gpu")}, "devices.gpu", "cpu0", "configuration"),
    ],
)
def test_machine_that_is_not_what_is_expected_is_contraindicated(machine, field, part, claim):
    appraisal = against(ENTRY, claims=claims_of(**machine))
    assert appraisal.status == "contraindicated"
    assert field in {finding.field for finding in appraisal.findings}
    assert appraisal.submods[part].status == "contraindicated"
    vector = appraisal.submods[part].trust_vector.model_dump()
    assert [name for name, status in vector.items() if status == "contraindicated"] == [claim]


@pytest.mark.parametrize(
    ("reference", "field"),
    [
        (least(bootloader=5), "snp.reported_tcb"),
        (least(tee=1), "snp.reported_tcb"),
        (least(snp=0x19), "snp.committed_tcb"),
        (least(microcode=0xDC), "snp.launch_tcb"),
        (least(min_report_version=4), "snp.report_version"),
        (least(product="Genoa"), "snp.product"),
        (least(product="Turin"), "snp.product"),
        (least(product="Turin"), "snp.reported_tcb"),  # Turin numbers other firmware
        (devices(min_driver="999.0"), "gpu.driver_version"),
        (devices(features=frozenset({"ppcie"})), "gpu.feature"),
        (devices(count=2), "devices.gpu"),
        (devices(device_class="switch"), "devices.switch"),
        (entry(devices=()), "devices.gpu"),
    ],
)
def test_each_field_of_a_reference_entry_is_asked(reference, field):
    appraisal = against(reference)
    assert appraisal.status == "contraindicated"
    assert field in {finding.field for finding in appraisal.findings}


@pytest.mark.parametrize("reference", [entry(image=bytes(48)), entry(roles=frozenset({"server"}))])
def test_image_that_no_entry_names_for_this_role_is_contraindicated(reference):
    appraisal = against(reference)
    (finding,) = appraisal.findings
    assert (appraisal.status, appraisal.reference, finding.field) == ("contraindicated", "", "measurement")
    assert finding.found.startswith(IMAGE.hex()[:16])
    vector = appraisal.submods["cpu0"].trust_vector
    assert (vector.executables, vector.configuration) == ("contraindicated", "warning")
    assert set(appraisal.submods) == {"cpu0", "gpu0"}


def test_one_entry_matches_as_a_whole_and_no_two_do_by_halves():
    right_platform, right_devices = devices(min_driver="999.0"), least(snp=0x19)
    assert against(right_platform, right_devices).status == "contraindicated"
    appraisal = against(right_platform, entry(name="release-2"), right_devices)
    assert (appraisal.status, appraisal.reference) == ("warning", "release-2")


components = st.fixed_dictionaries(
    {name: st.integers(0, 255) for name in ("bootloader", "tee", "snp", "microcode")}
    | {"min_report_version": st.integers(2, 5)}
)


@given(components, components)
def test_asking_for_more_never_makes_a_node_look_better(asked, more):
    stricter = {name: max(value, more[name]) for name, value in asked.items()}
    before, after = against(least(**asked)), against(least(**stricter))
    assert ORDER.index(after.status) >= ORDER.index(before.status)
    assert len(after.findings) >= len(before.findings)


def test_findings_come_worst_first_and_all_of_them():
    appraisal = against(ENTRY, claims=claims_of(policy=POLICY | POLICY_DEBUG, driver="535.104.05", **STALE))
    fields = [finding.field for finding in appraisal.findings]
    assert {"snp.policy.debug", "snp.reported_tcb", "gpu.driver_version"} <= set(fields)
    severities = [finding.status for finding in appraisal.findings]
    assert severities == sorted(severities, key=["contraindicated", "warning"].index)


def test_service_is_compared_with_the_image_that_the_root_names():
    assert appraise_service(usual().cpu, IMAGE) == ()
    (finding,) = appraise_service(usual().cpu, bytes(48))
    assert (finding.field, finding.status) == ("snp.measurement", "contraindicated")


def test_devices_of_a_reference_entry_say_how_they_are_shared():
    with pytest.raises(ValueError, match="features"):
        Devices(device_class="gpu", count=1, features=frozenset(), min_driver="580.0")
