"""Reference Values: what the organisations expect to find. One compound entry must match as a whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from policies.documents import Document, Name, Sha384, Versioned
from policies.roster import Role

KIND = "reference-values"


class SnpMinimum(Document):
    """The least SNP platform that is accepted; holds for the reported, committed and launch TCB."""

    product: Literal["Milan", "Genoa", "Turin"]
    bootloader: int = Field(ge=0, le=255)
    tee: int = Field(ge=0, le=255)
    snp: int = Field(ge=0, le=255)
    microcode: int = Field(ge=0, le=255)
    fmc: int = Field(ge=0, le=255)  # Turin only; 0 elsewhere
    min_report_version: int = Field(ge=2, le=5)


class Devices(Document):
    """How many devices of one class there must be: exactly."""

    device_class: Literal["gpu", "switch"]
    count: int = Field(ge=1, le=16)
    features: frozenset[Literal["spt", "mpt", "ppcie"]] = Field(min_length=1)  # how a GPU may be passed to the guest
    min_driver: str = Field(pattern=r"^[0-9]+(\.[0-9]+){1,3}$")


class ReferenceEntry(Document):
    """One accepted combination of image, platform and devices."""

    name: Name
    roles: frozenset[Role] = Field(min_length=1)
    image: Sha384  # launch measurement: firmware, kernel, command line and, through it, the root file system
    snp: SnpMinimum
    devices: tuple[Devices, ...] = Field(max_length=2)


class ReferenceValues(Versioned):
    """All accepted combinations; signed by k organisations."""

    trust_domain: Name
    entries: tuple[ReferenceEntry, ...] = Field(min_length=1, max_length=256)
