import pytest

from attestation.errors import MalformedEvidenceError
from attestation.snp.tcb import Tcb

FLOOR = Tcb(bootloader=4, tee=1, snp=24, microcode=219)


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode"])
def test_one_older_component_is_below_the_floor_whatever_the_others_are(component):
    newer = {"bootloader": 200, "tee": 200, "snp": 200, "microcode": 250}
    older = newer | {component: getattr(FLOOR, component) - 1}
    assert Tcb(**newer).at_least(FLOOR)
    assert not Tcb(**older).at_least(FLOOR)


def test_equal_tcb_is_at_least_the_floor():
    assert FLOOR.at_least(FLOOR)


def test_older_fmc_is_below_a_turin_floor():
    assert not Tcb(fmc=1).at_least(Tcb(fmc=2))
    assert Tcb(fmc=2).at_least(Tcb(fmc=2))


def test_floors_of_turin_and_of_others_never_hold_for_each_other():
    assert not Tcb(fmc=0).at_least(Tcb())
    assert not Tcb().at_least(Tcb(fmc=0))


def test_tcb_of_another_size_is_malformed():
    with pytest.raises(MalformedEvidenceError, match="7 bytes, expected 8"):
        Tcb.parse(bytes(7), product="Milan")


def test_tcb_names_its_components_in_words():
    assert str(FLOOR) == "bootloader 4, tee 1, snp 24, microcode 219"
    assert str(Tcb(fmc=2)).startswith("fmc 2, ")
