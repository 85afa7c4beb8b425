"""The settings file of `cloister attestation serve`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from policies.documents import Name
from policies.settings import Settings


class Limits(Settings):
    """How much one caller may ask; a demo or benchmark raises them in its own file."""

    challenges_burst: int = Field(default=64, ge=1)  # for each (peer address, claimed node), before any verification
    challenges_per_minute: int = Field(default=120, ge=1)
    attestations_per_minute: int = Field(default=6, ge=1)  # for each hardware id, after verification
    releases_per_minute: int = Field(default=60, ge=1)  # for each node
    verify_queue: int = Field(default=64, ge=1)  # attestations waiting or being verified; more are told to come again


class AttestationSettings(Settings):
    """Where the service listens, what it keeps, and the machine it runs on."""

    name: Name = "attestation"
    trust_domain: Name
    enrol_address: str  # host:port, server-authenticated
    attested_address: str  # host:port, mutual TLS
    state: Path  # keys and database; sealed storage in a CVM
    audit: Path  # the folder of this service's log
    init_data: Path  # attestation.core.ServiceInitData: what this machine was launched with
    tee_socket: Path  # the TEE device
    result_lifetime_seconds: int = Field(default=1800, ge=600, le=86_400)
    challenge_lifetime_seconds: int = Field(default=60, ge=1, le=600)
    limits: Limits = Limits()
