"""The chips and boards of the development vendor, and the attester of a machine launched on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from attestation.attester import AttesterDescription
from attestation.errors import MockTeeError
from attestation.evidence import CpuEvidence, DeviceEvidence
from attestation.mock_tee.gpu import Gpu
from attestation.mock_tee.machines import GpuLaunch, Launch, MilanTcb
from attestation.mock_tee.snp import SnpChip
from attestation.mock_tee.vendor import Vendor

Randomness = Callable[[int], bytes]  # how many bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MockAttester:
    """The hardware of one launched machine: an `attestation.attester.Attester`.

    It refuses, with `MockTeeError`, what has no place in a report: report data or a nonce of another size, a device that
    is not there.
    """

    launch: Launch
    chip: SnpChip
    gpus: tuple[Gpu, ...]
    report_id: bytes  # 32 bytes, new at each launch
    randomness: Randomness

    def describe(self) -> AttesterDescription:
        """Say which CPU and which devices there are."""
        return AttesterDescription(kind="snp", devices=tuple("gpu" for _ in self.gpus))

    def collect_cpu(self, report_data: bytes) -> CpuEvidence:
        """Sign a report over `report_data` (64 bytes)."""
        _require_size("report data", report_data, 64)
        report = self.chip.report(self.launch.snp, report_id=self.report_id, report_data=report_data)
        return CpuEvidence(kind="snp", report=report, endorsements=self.chip.certificate_table)

    def collect_device(self, index: int, nonce: bytes) -> DeviceEvidence:
        """Let GPU `index` sign a report over `nonce` (32 bytes)."""
        _require_size("nonce", nonce, 32)
        if not 0 <= index < len(self.gpus):
            raise MockTeeError(f"machine {self.launch.name} has {len(self.gpus)} devices, none with index {index}")
        gpu = self.gpus[index]
        return DeviceEvidence(
            device_class="gpu",
            vendor="nvidia",
            report=gpu.report(nonce, responder_nonce=self.randomness(32)),
            chain=gpu.chain,
        )


class Hardware:
    """Everything one vendor has made; a chip or a board asked for twice is the same one, with the same certificate."""

    def __init__(self, vendor: Vendor, *, now: Callable[[], datetime], randomness: Randomness) -> None:
        self._vendor = vendor
        self._now = now
        self._randomness = randomness
        self._chips: dict[tuple[bytes, MilanTcb], SnpChip] = {}
        self._gpus: dict[GpuLaunch, Gpu] = {}

    def start(self, launch: Launch) -> MockAttester:
        """Start a machine; its certificates are made here (some milliseconds), so that its first report is as fast as any."""
        chip = self._chip(launch.snp.chip_id, launch.snp.reported_tcb)
        gpus = tuple(self._gpu(gpu) for gpu in launch.gpus)
        attester = MockAttester(
            launch=launch, chip=chip, gpus=gpus, report_id=self._randomness(32), randomness=self._randomness
        )
        attester.collect_cpu(bytes(64))
        for index in range(len(gpus)):
            attester.collect_device(index, bytes(32))
        return attester

    def _chip(self, chip_id: bytes, tcb: MilanTcb) -> SnpChip:
        if (chip_id, tcb) not in self._chips:
            self._chips[chip_id, tcb] = SnpChip(self._vendor, chip_id=chip_id, reported_tcb=tcb, now=self._now())
        return self._chips[chip_id, tcb]

    def _gpu(self, launch: GpuLaunch) -> Gpu:
        if launch not in self._gpus:
            self._gpus[launch] = Gpu(self._vendor, launch, now=self._now())
        return self._gpus[launch]


def _require_size(what: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise MockTeeError(f"{what} has {len(value)} bytes, expected {size}")
