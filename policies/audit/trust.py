"""What an auditor must be told from outside: which logs there are, whose keys sign them, and who witnesses them.

Everything else is in the folder and proves itself against this. Whoever hands out the file is trusted; its fingerprint is
printed so that two people can compare what they hold.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from policies.audit.record import Bytes16
from policies.documents import Document, Ed25519Key, Name

LogKind = Literal["service", "server", "site"]
TrustDomain = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,252}$")]
KeyName = Annotated[str, StringConstraints(pattern=r"^[!-*,-~]{1,255}$")]  # C2SP signed-note: no space, no plus


class BootKey(Document):
    """The log key of one boot, as the attestation result of that boot certifies it."""

    boot: Bytes16
    key: Ed25519Key


class LogTrust(Document):
    """What must hold of one log."""

    name: Name  # also of its folder
    kind: LogKind
    boots: tuple[BootKey, ...] = Field(min_length=1)
    witnesses: dict[KeyName, Annotated[tuple[Ed25519Key, ...], Field(min_length=1)]]  # by the name in their lines
    min_cosignatures: int = Field(ge=0)  # different witnesses of the last checkpoint
    closed: bool  # whether its last record must be `log.close`

    @model_validator(mode="after")
    def _require_sound(self) -> Self:
        boots = [entry.boot for entry in self.boots]
        if len(set(boots)) != len(boots):
            raise ValueError(f"log {self.name}: a boot is listed twice")
        keys = [key for listed in self.witnesses.values() for key in listed]
        if len(set(keys)) != len(keys):
            # tlog-cosignature does not sign the witness's name: a key under two names would count twice.
            raise ValueError(f"log {self.name}: one key is listed twice among the witnesses")
        least = len(self.witnesses) // 2 + 1 if self.witnesses else 0
        if not least <= self.min_cosignatures <= len(self.witnesses):
            raise ValueError(
                f"log {self.name}: min_cosignatures must be {least} to {len(self.witnesses)}, more than half"
            )
        if self.kind != "site" and not self.witnesses:
            raise ValueError(f"log {self.name}: a {self.kind} log needs witnesses")
        return self

    def key_of(self, boot: bytes) -> bytes | None:
        """The log key of a boot, or None where that boot is unknown."""
        return next((entry.key for entry in self.boots if entry.boot == boot), None)


class AuditTrust(Document):
    """The content of `trust.json`."""

    v: Literal[1]
    trust_domain: TrustDomain
    logs: tuple[LogTrust, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _require_distinct(self) -> Self:
        names = [log.name for log in self.logs]
        if len(set(names)) != len(names):
            raise ValueError("a log is listed twice")
        return self

    def origin(self, log: str) -> str:
        """The origin line of a log's checkpoints."""
        return f"{self.trust_domain}/{log}"


def fingerprint(raw: bytes) -> str:
    """SHA-256 of the bytes of `trust.json`, 64 hex digits."""
    return hashlib.sha256(raw).hexdigest()
