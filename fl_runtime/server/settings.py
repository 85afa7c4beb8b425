"""The settings file of `cloister server start`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from attestation.enrolment import ServiceAddress
from attestation.node import NodeSettings
from policies.settings import Settings


class ServerSettings(Settings):
    """Where the server listens, what it keeps, and the machine it runs on."""

    kit: Path
    service_enrol: str  # host:port
    service_attested: str  # host:port
    listen: str  # host:port, mutual TLS
    tee_socket: Path
    state: Path
    audit: Path
    return_grace_seconds: int = Field(default=3, ge=0)  # how long a site that lost its connection is still waited for
    park_after_seconds: int = Field(default=5, ge=0)  # how long a job waits for sites before it says for whom
    max_job_bytes: int = Field(default=8 << 30, gt=0)  # code and model of one submission

    def node(self) -> NodeSettings:
        """What every node's settings have in common."""
        return NodeSettings(
            kit=self.kit,
            service=ServiceAddress(enrol=self.service_enrol, attested=self.service_attested),
            tee_socket=self.tee_socket,
            state=self.state,
            audit=self.audit,
        )
