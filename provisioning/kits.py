"""Kits: the folder that a node, or the administrator, starts from. What is there stays: a kit may have been edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from attestation.trust import TrustContext
from policies import site_policy
from policies.documents import Envelope, raw_public_key
from policies.files import write_atomically
from provisioning.documents import draft_init_data, draft_site_policy
from provisioning.keys import load_signing_key
from provisioning.layout import ADMINISTRATOR, SERVER, Laboratory
from provisioning.toml import Value, toml_text

DOCUMENTS = ("root", "roster", "reference-values")
INIT_DATA = "init-data.json"
SITE_POLICY = "policy.json"
GRANT = "grant.json"


def write_kits(laboratory: Laboratory, trust: TrustContext, *, image: bytes, now: datetime) -> Iterator[str]:
    """Write what is missing of every kit; yields the name of each when it is whole.

    Args:
        laboratory: Founded: its documents are there.
        trust: Those documents, opened.
        image: The launch measurement of the server (48 bytes), which the sites' policies name.
        now: When the sites' policies come into force.
    """
    shared = {f"{kind}.json": laboratory.document(kind).read_bytes() for kind in DOCUMENTS}
    for node, member in laboratory.nodes.items():
        key = load_signing_key(laboratory.organisation_key(member.organisation))
        init_data = draft_init_data(
            laboratory, node, root_sha256=trust.root_sha256, organisation_key=raw_public_key(key)
        )
        files = {**shared, INIT_DATA: init_data.encode()}
        if member.role == "site":
            submitter = raw_public_key(load_signing_key(laboratory.kit(ADMINISTRATOR) / "submitter.key"))
            policy = draft_site_policy(laboratory, node, image=image, submitter=submitter, now=now)
            files[SITE_POLICY] = Envelope.sign(policy, site_policy.KIND, [key]).encode()
            files["site.toml"] = _site_settings(laboratory, node).encode()
        else:
            files["server.toml"] = _server_settings(laboratory).encode()
        _write_missing(laboratory.kit(node), files)
        yield node
    _write_missing(laboratory.kit(ADMINISTRATOR), {**shared, "admin.toml": _admin_settings(laboratory).encode()})
    yield ADMINISTRATOR


def _write_missing(kit: Path, files: Mapping[str, bytes]) -> None:
    kit.mkdir(exist_ok=True, mode=0o700)
    for name, content in files.items():
        if not (kit / name).exists():
            write_atomically(kit / name, content, mode=0o600)


def _server_settings(laboratory: Laboratory) -> str:
    return toml_text(
        "The FL server of a laboratory.",
        {
            "kit": ".",
            **_service(laboratory),
            "listen": laboratory.layout.addresses.server,
            "tee_socket": laboratory.tee_socket(SERVER),
            "state": laboratory.state(SERVER),
            "audit": laboratory.audit(SERVER),
        },
    )


def _site_settings(laboratory: Laboratory, site: str) -> str:
    return toml_text(
        f"The site {site} of a laboratory.",
        {
            "kit": ".",
            **_service(laboratory),
            "server": laboratory.layout.addresses.server,
            "server_node": SERVER,
            "tee_socket": laboratory.tee_socket(site),
            "state": laboratory.state(site),
            "audit": laboratory.audit(site),
            "data": laboratory.data(site),
            "work": laboratory.state(site) / "work",
            "trainer_threads": 1,
        },
    )


def _admin_settings(laboratory: Laboratory) -> str:
    return toml_text(
        "The administrator of a laboratory: submits jobs, and signs them.",
        {
            "name": ADMINISTRATOR,
            "kit": ".",
            "server": laboratory.layout.addresses.server,
            "server_node": SERVER,
            **_service(laboratory),
            "certificate": "admin.pem",
            "key": "admin.key",
            "signing_key": "submitter.key",
        },
    )


def _service(laboratory: Laboratory) -> Mapping[str, Value]:
    addresses = laboratory.layout.addresses
    return {"service_enrol": addresses.enrol, "service_attested": addresses.attested}
