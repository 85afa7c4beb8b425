"""What a person writes about a mock TEE and its machines, in a file or on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from attestation.errors import MockTeeError
from attestation.evidence import MAX_DEVICES
from attestation.mock_tee.gpu import DRIVER_VERSION
from attestation.mock_tee.machines import (
    CURRENT_TCB,
    DriverVersion,
    GpuLaunch,
    GpuSerial,
    Launch,
    MilanTcb,
    chip_id_of,
    measure_image,
    snp_launch,
)
from policies.documents import Name
from policies.init_data import init_data_digest
from policies.settings import Settings

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex48 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


class MachineSettings(Settings):
    """One machine to launch."""

    name: Name
    chip: Hex64 | None = None  # the chip's id
    chip_seed: str | None = None  # or any text that stands for it; without either, the name of the machine
    image: tuple[Path, ...] = ()  # folders to measure
    measurement: Hex48 | None = None  # or the measurement itself
    init_data: Path | None = None  # file whose digest becomes host data
    host_data: Hex32 | None = None  # or the host data itself
    gpus: tuple[GpuSerial, ...] = Field(default=(), max_length=MAX_DEVICES)
    driver: DriverVersion = DRIVER_VERSION
    debug: bool = False
    tcb: MilanTcb = CURRENT_TCB
    launch_tcb: MilanTcb | None = None  # of a machine launched before its firmware was updated to `tcb`
    vmpl: int = Field(default=0, ge=0, le=3)
    report_version: Literal[2, 3, 4, 5] = 3

    @model_validator(mode="after")
    def _say_each_thing_once(self) -> Self:
        if self.chip is not None and self.chip_seed is not None:
            raise ValueError("chip and chip_seed are both given, expected at most one")
        if bool(self.image) == (self.measurement is not None):
            raise ValueError("expected either image or measurement")
        if (self.init_data is None) == (self.host_data is None):
            raise ValueError("expected either init_data or host_data")
        return self

    def to_launch(self) -> Launch:
        """Measure the image, read the init_data and return the parameters of the launch.

        Raises:
            MockTeeError: The image cannot be measured or the init_data cannot be read.
        """
        ordinary = snp_launch(
            chip_id=bytes.fromhex(self.chip) if self.chip else chip_id_of(self.chip_seed or self.name),
            measurement=bytes.fromhex(self.measurement) if self.measurement else measure_image(*self.image),
            host_data=self._host_data(),
            debug=self.debug,
            tcb=self.tcb,
        )
        unusual = {"launch_tcb": self.launch_tcb or self.tcb, "vmpl": self.vmpl, "report_version": self.report_version}
        return Launch(
            name=self.name,
            snp=ordinary.model_copy(update=unusual),
            gpus=tuple(GpuLaunch(serial=serial, driver_version=self.driver) for serial in self.gpus),
        )

    def _host_data(self) -> bytes:
        if self.init_data is None:
            return bytes.fromhex(self.host_data or "")
        try:
            return init_data_digest(self.init_data.read_bytes())
        except OSError as error:
            raise MockTeeError(f"init_data {self.init_data} cannot be read: {error}") from error


class MockTeeSettings(Settings):
    """A mock TEE: where it is, and what it launches as soon as it is ready."""

    directory: Path
    machine: tuple[MachineSettings, ...] = Field(default=())
