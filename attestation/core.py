"""The core of an attestation: everything that one report must bind, as JSON that is hashed as received."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from policies.documents import Document, Ed25519Key, Name, Sha256, Sha384
from policies.roster import Role

HPKE_SUITE: Literal["MLKEM768_X25519/HKDF_SHA256/AES_256_GCM"] = "MLKEM768_X25519/HKDF_SHA256/AES_256_GCM"
HPKE_PUBLIC_BYTES = 1216  # MLKEM768 1184 || X25519 32

Purpose = Literal["issue", "release"]


class Core(Document):
    """What a node says about itself; worth something only once evidence binds it."""

    v: Literal[1]
    td: Name
    node: Name
    role: Role
    tee: Literal["snp", "tdx"]
    boot: bytes = Field(min_length=16, max_length=16)
    cid: bytes = Field(min_length=16, max_length=16)  # challenge id
    nonce: bytes = Field(min_length=32, max_length=32)  # of the challenge
    crand: bytes = Field(min_length=32, max_length=32)  # the client_random that asked for the challenge
    service_ca: Sha256  # of the SPKI of the certificate authority that the node has pinned
    tls_spki: Sha256
    csr_sha256: Sha256
    hpke_suite: Literal["MLKEM768_X25519/HKDF_SHA256/AES_256_GCM"]
    hpke_pk: bytes = Field(min_length=HPKE_PUBLIC_BYTES, max_length=HPKE_PUBLIC_BYTES)
    sign_pk: Ed25519Key
    image: Sha384
    root: Sha256
    roster: Sha256
    site_policy: Sha256 | None  # null for a node that is no site
    grant: Sha256
    purpose: Purpose
    prev_jti: str | None
    n_devices: int = Field(ge=0, le=16)
    peer_nonces: Sha256  # `attestation.binding.peer_nonces_digest`
    audit_size: int = Field(ge=0)
    audit_root: Sha256


class ServiceCore(Document):
    """What the attestation service says about itself."""

    v: Literal[1]
    td: Name
    tee: Literal["snp", "tdx"]
    boot: bytes = Field(min_length=16, max_length=16)
    client_nonce: bytes = Field(min_length=32, max_length=32)
    tls_spki: Sha256
    ca_spki: Sha256
    result_key: Ed25519Key
    log_key: Ed25519Key
    hpke_suite: Literal["MLKEM768_X25519/HKDF_SHA256/AES_256_GCM"]
    hpke_pk: bytes = Field(min_length=HPKE_PUBLIC_BYTES, max_length=HPKE_PUBLIC_BYTES)
    image: Sha384


class ServiceInitData(Document):
    """The attestation service's init_data: who may sign its first root. It comes before any root exists."""

    trust_domain: Name
    role: Literal["attestation-service"]
    organisation_keys: tuple[Ed25519Key, ...] = Field(min_length=1, max_length=256)
    threshold: int = Field(ge=1)
