"""The grant: one organisation's word on which machines, running which image, may act as one of its nodes.

A measurement alone says "some genuine machine somewhere"; the grant says "one of ours". That stops evidence relayed from a
TEE that an attacker owns (threat T3).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from policies.documents import Document, Name, Sha384, Versioned
from policies.roster import Role, Tier

KIND = "grant"
MAX_LIFETIME = timedelta(days=90)

HardwareKind = Literal["snp-chip-id", "tdx-platform-instance-id", "tdx-ppid", "gpu-ueid"]


class HardwareId(Document):
    """A typed identity of one piece of hardware."""

    kind: HardwareKind
    value: bytes = Field(min_length=8, max_length=64)

    @model_validator(mode="after")
    def _not_masked(self) -> Self:
        if not any(self.value):
            raise ValueError("an all-zero hardware id is a masked one and matches nothing")
        return self


class Grant(Versioned):
    """What one node may be; signed by the node's own organisation."""

    trust_domain: Name
    node: Name
    organisation: Name
    role: Role
    tier: Tier
    hardware: tuple[HardwareId, ...] = Field(min_length=1, max_length=256)
    images: frozenset[Sha384] = Field(min_length=1, max_length=64)  # launch measurements
    disk_epoch: int = Field(ge=0)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.expires_at - self.issued_at > MAX_LIFETIME:
            raise ValueError(f"lasts {self.expires_at - self.issued_at}, at most {MAX_LIFETIME.days} days are allowed")
        return self

    def allows(self, kind: HardwareKind, value: bytes) -> bool:
        """Whether the hardware `value` of `kind` is one of this organisation's."""
        return any(item.kind == kind and item.value == value for item in self.hardware)
