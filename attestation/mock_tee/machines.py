"""What a machine was launched with: everything its hardware will say about it until it is destroyed.

A mock machine is whatever its launch says. A guest that may be debugged, one on old firmware or one of another image is
launched with those parameters; its evidence says so and is signed like any other. Refusing it is the verifier's work.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from attestation.errors import MockTeeError
from attestation.evidence import MAX_DEVICES
from policies.documents import Document, Name, Sha384
from policies.encoding import lp, sha384, sha512

POLICY = 0x30000  # bit 17 (must be one) and bit 16 (SMT allowed), as cloud hosts launch
POLICY_DEBUG = 1 << 19  # the host may read and write the guest's memory

MEASURED_SUFFIXES = frozenset({".py", ".toml", ".proto"})

GpuSerial = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
DriverVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+){1,3}$", max_length=32)]
_SecurityVersion = Annotated[int, Field(ge=0, le=255)]


class MilanTcb(Document):
    """Security versions of a Milan chip's firmware."""

    bootloader: _SecurityVersion
    tee: _SecurityVersion
    snp: _SecurityVersion
    microcode: _SecurityVersion


CURRENT_TCB = MilanTcb(bootloader=4, tee=0, snp=0x18, microcode=0xDB)  # repairs AMD-SB-3019
STALE_TCB = MilanTcb(bootloader=3, tee=0, snp=0x08, microcode=0x73)  # from before CacheWarp (AMD-SB-3005) was repaired


class SnpLaunch(Document):
    """What the SNP firmware knows about one guest."""

    chip_id: bytes = Field(min_length=64, max_length=64)
    measurement: Sha384
    host_data: bytes = Field(min_length=32, max_length=32)
    policy: int = Field(ge=0, lt=1 << 64)
    vmpl: int = Field(ge=0, le=3)
    current_tcb: MilanTcb
    committed_tcb: MilanTcb
    reported_tcb: MilanTcb
    launch_tcb: MilanTcb
    report_version: Literal[2, 3, 4, 5]


class GpuLaunch(Document):
    """One GPU given to a guest. The same serial number in two machines is one board that answers in both."""

    serial: GpuSerial
    driver_version: DriverVersion


class Launch(Document):
    """The parameters of one launch."""

    name: Name
    snp: SnpLaunch
    gpus: tuple[GpuLaunch, ...] = Field(max_length=MAX_DEVICES)


def snp_launch(
    *,
    chip_id: bytes,
    measurement: bytes,
    host_data: bytes,
    debug: bool = False,
    tcb: MilanTcb = CURRENT_TCB,
) -> SnpLaunch:
    """Return a launch as hosts do it: version 3 reports at VMPL 0, firmware not updated since.

    Args:
        chip_id: 64 bytes.
        measurement: 48 bytes, launch digest.
        host_data: 32 bytes, digest of the init_data.
        debug: Whether the host may read the guest's memory.
        tcb: The firmware; `model_copy` the result for one that was updated after the launch.
    """
    return SnpLaunch(
        chip_id=chip_id,
        measurement=measurement,
        host_data=host_data,
        policy=POLICY | (POLICY_DEBUG if debug else 0),
        vmpl=0,
        current_tcb=tcb,
        committed_tcb=tcb,
        reported_tcb=tcb,
        launch_tcb=tcb,
        report_version=3,
    )


def chip_id_of(seed: str) -> bytes:
    """Return the 64-byte id of the chip that goes by this name."""
    return sha512("mock-chip", lp(seed))


def measure_image(*folders: Path) -> bytes:
    """Return the 48 bytes that stand for the launch digest of these folders, whatever their order.

    Covers the name of each folder, and path and content of each Python, TOML and protobuf file in it; everything else
    (caches, notes, data) may change freely. A launch digest of a real image covers its every byte.

    Raises:
        MockTeeError: A folder holds nothing to measure, two have the same name, or a file cannot be read.
    """
    trees: dict[str, bytes] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in trees:
            raise MockTeeError(f"two image folders are called {name!r}, expected different names")
        trees[name] = _measure_tree(folder)
    if not trees:
        raise MockTeeError("no image folder to measure")
    return sha384("mock-image", *(lp(name) + digest for name, digest in sorted(trees.items())))


def _measure_tree(folder: Path) -> bytes:
    try:
        files = sorted(
            (path.relative_to(folder).as_posix(), hashlib.sha384(path.read_bytes()).digest())
            for path in folder.rglob("*")
            if path.suffix in MEASURED_SUFFIXES and path.is_file()
        )
    except OSError as error:
        raise MockTeeError(f"image folder {folder} cannot be measured: {error}") from error
    if not files:
        raise MockTeeError(f"{folder} holds no file to measure, expected an image folder with Python code")
    return sha384("mock-image-tree", *(lp(path) + digest for path, digest in files))
