"""The job manifest: everything about one job that the sites agree to. Signed by its submitter, approved by sites."""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import Field, model_validator

from policies.documents import Document, Ed25519Key, Envelope, Instant, Name, Sha256
from policies.encoding import lp, sha256
from policies.site_policy import Profile

KIND = "job"
APPROVAL_KIND = "job-approval"


class CodeReference(Document):
    """The job's code: a content-addressed archive and the script in it that is run."""

    sha256: Sha256
    size: int = Field(gt=0)
    script: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}$")
    args: tuple[str, ...] = Field(max_length=64)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if ".." in self.script.split("/"):
            raise ValueError(f"script {self.script} leaves the archive")
        return self


class ModelReference(Document):
    """The initial model: an encrypted file, the key that opens it, and the tensors it must hold."""

    sealed_sha256: Sha256
    sealed_size: int = Field(gt=0)
    key_id: Name
    layout: dict[str, Any]  # fl_runtime.arrays.Layout
    layout_sha256: Sha256


class JobManifest(Document):
    """What is run, by whom, over which sites, and how updates are summed."""

    job: Name
    trust_domain: Name
    submitter: Name
    submitter_key: Ed25519Key
    submitted_at: Instant
    workflow: Name  # which server-side algorithm: "fedavg"
    rounds: int = Field(ge=1, le=100_000)
    sites: tuple[Name, ...] = Field(min_length=1, max_length=10_000)
    min_sites: int = Field(ge=1)
    profile: Profile
    aggregation: dict[str, Any]  # fl_runtime.secure_aggregation.parameters.Parameters
    metrics: tuple[Name, ...] = Field(max_length=64)  # gathered from each site, by name
    code: CodeReference
    model: ModelReference
    config: dict[str, str | int | bool]  # for the training script
    round_timeout_seconds: int = Field(gt=0)

    def model_layout(self) -> bytes:
        """The layout's JSON, for `fl_runtime.arrays.Layout.parse`."""
        return _bytes_of(self.model.layout)

    def aggregation_parameters(self) -> bytes:
        """The parameters' JSON, for `fl_runtime.secure_aggregation.parameters.Parameters.parse`."""
        return _bytes_of(self.aggregation)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError("sites must be distinct and in order")
        if self.min_sites > len(self.sites):
            raise ValueError(f"min_sites {self.min_sites} exceeds the {len(self.sites)} sites")
        return self


def _bytes_of(part: dict[str, Any]) -> bytes:
    return json.dumps(part, sort_keys=True, separators=(",", ":")).encode()


def job_digest(payload: bytes) -> bytes:
    """Name a job by the bytes of its manifest, 32 bytes."""
    return sha256("job", lp(payload))


def open_job(envelope: Envelope) -> JobManifest:
    """Open a manifest under the key of the submitter that it names.

    Whether that submitter may do so is for the site's policy, and for the key broker: the key's policy is signed by the
    same key.

    Raises:
        PolicyError: Malformed, or not signed by the submitter it names.
    """
    claimed = JobManifest.parse(envelope.payload)  # unverified: read only to learn whose key must have signed it
    return envelope.open(JobManifest, KIND, [claimed.submitter_key])


class JobApproval(Document):
    """One site's word that its policy allows a job; signed with the signing key of the site's boot."""

    trust_domain: Name
    site: Name
    boot: bytes = Field(min_length=16, max_length=16)
    job: Name
    job_sha256: Sha256
    site_policy_sha256: Sha256
    approved_at: Instant
