"""What is read of a machine before it is granted."""

import secrets
from datetime import UTC, datetime

import pytest

from attestation.attester import AttesterDescription
from attestation.errors import BindingMismatchError, SignatureError
from attestation.mock_tee.hardware import Hardware
from attestation.mock_tee.machines import GpuLaunch, Launch, chip_id_of, snp_launch
from attestation.mock_tee.vendor import open_vendor
from attestation.trust_anchors import GENUINE, TrustAnchor, with_development
from provisioning.errors import UnexpectedMachineError
from provisioning.grants import Machine, read_machine
from tests.fakes.federation import vendor_file

NOW = datetime.now(UTC)
IMAGE, HOST_DATA = bytes(range(48)), b"\x07" * 32


@pytest.fixture(scope="module")
def vendor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vendor")
    (folder / "vendor.json").write_bytes(vendor_file())
    return open_vendor(folder, now=NOW)


@pytest.fixture(scope="module")
def machine(vendor):
    hardware = Hardware(vendor, now=lambda: NOW, randomness=secrets.token_bytes)
    gpus = tuple(GpuLaunch(serial=serial, driver_version="580.95.05") for serial in ("H100-1", "H100-2"))
    snp = snp_launch(chip_id=chip_id_of("a"), measurement=IMAGE, host_data=HOST_DATA)
    return hardware.start(Launch(name="a", snp=snp, gpus=gpus))


@pytest.fixture(scope="module")
def anchors(vendor):
    return with_development(
        TrustAnchor(vendor=anchor.vendor, product=anchor.product, sha256=anchor.sha256, mock=True)
        for anchor in vendor.anchors
    )


def test_machine_is_read_with_its_chip_and_every_gpu(machine, anchors):
    read = read_machine(machine, anchors=anchors, now=NOW)
    assert (read.image, read.host_data, read.chip_id) == (IMAGE, HOST_DATA, chip_id_of("a"))
    assert len(set(read.gpus)) == 2
    assert [item.kind for item in read.hardware] == ["snp-chip-id", "gpu-ueid", "gpu-ueid"]


def test_machine_of_a_vendor_that_is_not_pinned_is_refused(machine):
    with pytest.raises(SignatureError):
        read_machine(machine, anchors=GENUINE, now=NOW)


def test_gpu_that_answers_to_an_old_nonce_is_refused(machine, anchors):
    old = machine.collect_device(0, bytes(32))

    class Replaying:
        def describe(self):
            return AttesterDescription(kind="snp", devices=("gpu",))

        def collect_cpu(self, report_data):
            return machine.collect_cpu(report_data)

        def collect_device(self, index, nonce):
            return old

    with pytest.raises(BindingMismatchError, match="nonce"):
        read_machine(Replaying(), anchors=anchors, now=NOW)


def test_chip_that_hides_its_identity_cannot_be_granted():
    masked = Machine(image=IMAGE, host_data=HOST_DATA, chip_id=bytes(64), gpus=())
    with pytest.raises(UnexpectedMachineError, match="masked"):
        _ = masked.hardware
