"""The release policy: who may be given the key of one job. Signed by the job's submitter, the model's owner."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from policies.documents import Document, Name, Sha256, Sha384
from policies.roster import Role, Tier

KIND = "release-policy"


class ReleasePolicy(Document):
    """Deny by default: whatever is not listed here gets no key."""

    key_id: Name
    job_sha256: Sha256  # digest of the job manifest's payload: code, cohort and parameters are fixed with it
    nodes: dict[Name, Role] = Field(min_length=1, max_length=10_000)
    tiers: frozenset[Tier] = Field(min_length=1)
    images: frozenset[Sha384] = Field(min_length=1, max_length=64)  # launch measurements
    accepted_statuses: frozenset[Literal["affirming", "warning"]] = Field(min_length=1)
    allow_mock: bool
    max_result_age_seconds: int = Field(gt=0, le=120)
    min_approvals: int = Field(ge=1)  # sites that must have approved the job before anybody gets its key
    max_releases: int = Field(ge=1)  # in all, over the life of the key
