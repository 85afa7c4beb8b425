"""Claims: facts about one machine, after every signature and binding has held."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.core import Core
from attestation.nvidia_gpu.verify import GpuClaims
from attestation.snp.verify import SnpClaims
from policies.grant import Grant
from policies.roster import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What the hardware of one node says, and what the node says of itself, bound to each other.

    Made by `attestation.verifier` alone. Genuine, but not yet compared with what is expected of it.
    """

    core: Core
    cpu: SnpClaims
    devices: tuple[GpuClaims, ...]  # in evidence order
    grant: Grant  # opened under the organisation's key
    member: Member  # the node's entry in the roster
    evidence_sha256: bytes  # 32 bytes, of the attestation as it travelled

    @property
    def mock(self) -> bool:
        """Whether a development anchor verified any of it."""
        return self.cpu.mock or any(device.mock for device in self.devices)
