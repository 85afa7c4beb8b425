"""The version of an AMD platform's security-relevant firmware, component by component.

Two platforms are compared component by component and never as one integer: a newer microcode does not make up for an
older SNP firmware.

Source: AMD 56860, "TCB_VERSION"; the Turin layout adds the FMC and moves the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attestation.errors import MalformedEvidenceError

Product = Literal["Milan", "Genoa", "Turin"]

TCB_SIZE = 8  # bytes

_BOOTLOADER, _TEE, _SNP, _MICROCODE = 0, 1, 6, 7  # Milan, Genoa
_TURIN_FMC, _TURIN_BOOTLOADER, _TURIN_TEE, _TURIN_SNP = 0, 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcb:
    """Security version numbers, each 0 to 255; as a floor, 0 asks nothing of a component."""

    bootloader: int = 0
    tee: int = 0
    snp: int = 0
    microcode: int = 0
    fmc: int | None = None  # Turin only; None on Milan and Genoa

    @classmethod
    def parse(cls, raw: bytes, *, product: Product) -> Tcb:
        """Read the 8 bytes of a report.

        Raises:
            MalformedEvidenceError: A reserved byte is not zero.
        """
        if len(raw) != TCB_SIZE:
            raise MalformedEvidenceError(f"TCB version has {len(raw)} bytes, expected {TCB_SIZE}")
        turin = product == "Turin"
        reserved = raw[4:7] if turin else raw[2:6]
        if any(reserved):
            raise MalformedEvidenceError(f"TCB version {raw.hex()} has reserved bytes set, expected zero on {product}")
        if turin:
            return cls(
                fmc=raw[_TURIN_FMC],
                bootloader=raw[_TURIN_BOOTLOADER],
                tee=raw[_TURIN_TEE],
                snp=raw[_TURIN_SNP],
                microcode=raw[_MICROCODE],
            )
        return cls(bootloader=raw[_BOOTLOADER], tee=raw[_TEE], snp=raw[_SNP], microcode=raw[_MICROCODE])

    def at_least(self, floor: Tcb) -> bool:
        """Whether every component is at least the floor's.

        A floor for Turin never holds for Milan or Genoa, nor the other way round: they number different
        firmware.
        """
        if (self.fmc is None) != (floor.fmc is None):
            return False
        return all(own >= least for own, least in zip(self._components(), floor._components(), strict=True))

    def _components(self) -> tuple[int, ...]:
        return (self.fmc or 0, self.bootloader, self.tee, self.snp, self.microcode)

    def __str__(self) -> str:
        """All components by name: `bootloader 4, tee 0, snp 24, microcode 219`."""
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        return f"{fmc}bootloader {self.bootloader}, tee {self.tee}, snp {self.snp}, microcode {self.microcode}"
