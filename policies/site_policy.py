"""The site policy: what one site will receive, execute, return and persist. Deny by default; nobody else can relax it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from policies.documents import Document, Ed25519Key, Name, Sha256, Sha384, Versioned
from policies.roster import Tier

KIND = "site-policy"

Profile = Literal["tee+mask", "tee", "mask"]


class Receive(Document):
    """From whom, and what."""

    server_images: frozenset[Sha384] = Field(min_length=1, max_length=64)
    accept_mock: bool  # a development federation; never in production
    peer_tiers: frozenset[Tier] = Field(min_length=1)
    max_model_bytes: int = Field(gt=0)


class Execute(Document):
    """Which code, by whom."""

    submitters: frozenset[Ed25519Key] = Field(max_length=256)  # keys whose jobs may run
    code_sha256: frozenset[Sha256] = Field(max_length=256)  # digests of code that may run whoever submits it
    max_rounds: int = Field(ge=1)


class Return(Document):
    """What may leave."""

    profiles: frozenset[Profile] = Field(max_length=3)
    metrics: frozenset[Name] = Field(max_length=64)  # by name; each leaves as this site's own value
    min_cohort: int = Field(ge=2)
    min_survivors: int = Field(ge=2)
    max_clip_micros: int = Field(gt=0)  # the largest bound for one coordinate, in millionths
    max_weight_cap: int = Field(ge=1)  # the largest number of samples that may be claimed
    script_errors: bool  # whether what a script's exception says may leave; if not, only its type and place do


class Persist(Document):
    """What may stay at the site after the job."""

    model: bool
    logs: bool


class SitePolicy(Versioned):
    """One site's house rules, signed by its organisation."""

    trust_domain: Name
    site: Name
    receive: Receive
    execute: Execute
    returns: Return
    persist: Persist
