"""The settings file of `cloister site start`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from attestation.enrolment import ServiceAddress
from attestation.node import NodeSettings
from policies.documents import Name
from policies.settings import Settings


class SiteSettings(Settings):
    """Which server a site works with, where its data lies, and the machine it runs on."""

    kit: Path
    service_enrol: str  # host:port
    service_attested: str  # host:port
    server: str  # host:port
    server_node: Name  # the server's name in the roster
    tee_socket: Path
    state: Path
    audit: Path
    data: Path  # what the training script finds under `flare.get_config()["data"]`
    work: Path  # scratch of trainers
    trainer_threads: int = Field(default=1, ge=1)
    trainer_uid: int | None = Field(default=None, ge=1)  # the trainer's own user; needs root
    preload: tuple[str, ...] = ("torch", "torch._dynamo")  # what the launcher imports once for all trainers

    def node(self) -> NodeSettings:
        """What every node's settings have in common."""
        return NodeSettings(
            kit=self.kit,
            service=ServiceAddress(enrol=self.service_enrol, attested=self.service_attested),
            tee_socket=self.tee_socket,
            state=self.state,
            audit=self.audit,
        )
