"""The first step: a folder with keys, settings and free ports. Nothing runs yet, and nothing is signed.

It is built beside its place and renamed into it, so that it is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import socket
import string
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from attestation.channel.credentials import key_pem, new_tls_key
from attestation.core import ServiceInitData
from attestation.issue import CertificateAuthority, admin_spiffe_id
from policies.documents import describe, raw_public_key
from policies.errors import UsageError
from policies.files import sync_folder, write_atomically
from provisioning.keys import load_signing_key, make_signing_key
from provisioning.layout import (
    ADMINISTRATOR,
    ATTESTATION,
    LAYOUT_FILE,
    MAX_SOCKET_PATH,
    SERVICE_LOG,
    Addresses,
    Laboratory,
    Layout,
)
from provisioning.toml import toml_text

HOST = "127.0.0.1"
OPERATOR = "consortium"
THRESHOLD = 1  # a laboratory's one signature stands for all organisations; a federation asks for more
AUTHORITY_LIFETIME = timedelta(days=3650)
ADMINISTRATOR_LIFETIME = timedelta(days=365)
_ORGANISATIONS = ("north", "east", "south", "west")

# Tests and demonstrations attest far more often than a federation's machines do.
_LABORATORY_LIMITS: Mapping[str, int] = {
    "challenges_burst": 10_000,
    "challenges_per_minute": 100_000,
    "attestations_per_minute": 10_000,
    "releases_per_minute": 10_000,
    "verify_queue": 1_000,
}


def default_sites(count: int) -> Mapping[str, str]:
    """Return `count` sites, each of an organisation of its own: hospital-a of north, hospital-b of east, ...

    Raises:
        UsageError: There are only letters for 26.
    """
    letters = string.ascii_lowercase
    if not 1 <= count <= len(letters):
        raise UsageError(f"found {count} sites, expected 1 to {len(letters)}", hint="name more of them with --site")
    organisations = (*_ORGANISATIONS, *(f"region-{letter}" for letter in letters[len(_ORGANISATIONS) :]))
    return {f"hospital-{letters[index]}": organisations[index] for index in range(count)}


def create_laboratory(
    directory: Path, *, sites: Mapping[str, str], trust_domain: str, base_port: int, now: datetime
) -> Laboratory:
    """Make a laboratory in `directory`.

    Args:
        directory: Does not exist yet, or is empty.
        sites: Each site with its organisation.
        trust_domain: Ends in `.mock`.
        base_port: The first of three ports in a row, or 0 for any that are free.
        now: When certificates begin.

    Raises:
        UsageError: There is something in `directory`; a name, port or path is not usable.
    """
    place = directory.resolve()
    enrol, attested, server = _addresses(base_port)
    try:
        layout = Layout(
            version=1,
            trust_domain=trust_domain,
            operator=OPERATOR,
            addresses=Addresses(enrol=enrol, attested=attested, server=server),
            sites=dict(sorted(sites.items())),
        )
    except ValidationError as error:
        raise UsageError(f"this laboratory cannot be made: {describe(error)}") from error
    laboratory = Laboratory(place, layout)
    _require_short_paths(laboratory)
    with _renamed_into(place) as staging:
        _fill(Laboratory(staging, layout), laboratory, now=now)
    return laboratory


def _fill(here: Laboratory, final: Laboratory, *, now: datetime) -> None:
    """Write every file: `here` is where they are written, `final` is what they say about where things are."""
    # One by one: the parents that mkdir makes along the way would be open to others.
    for name in ("organisations", "documents", "kits", "state", "audit", "data"):
        (here.directory / name).mkdir(mode=0o700)
    for folder in (here.attestation, here.administration, here.kit(ADMINISTRATOR), here.tee):
        folder.mkdir(mode=0o700)
    for organisation in here.organisations:
        make_signing_key(here.organisation_key(organisation))
    _write_administration(here, now=now)
    _write_service(here, final)
    _write_text(
        here.mock_tee_settings,
        toml_text("The mock TEE of this laboratory: cloister mock-tee serve --config FILE", {"directory": final.tee}),
    )
    layout = here.layout
    _write_text(
        here.directory / LAYOUT_FILE,
        toml_text(
            "What was chosen when this laboratory was made. Keys and documents follow it: do not edit.",
            {
                "version": layout.version,
                "trust_domain": layout.trust_domain,
                "operator": layout.operator,
                "addresses": layout.addresses.model_dump(),
                "sites": layout.sites,
            },
        ),
    )


def _write_administration(here: Laboratory, *, now: datetime) -> None:
    """Make the project's authority, and the one administrator: a certificate, and the key that jobs are signed with."""
    domain = here.layout.trust_domain
    authority = CertificateAuthority.create(f"{domain} administration", now=now, lifetime=AUTHORITY_LIFETIME)
    key = new_tls_key()
    certificate = authority.issue(
        key.public_key(),
        names=[x509.UniformResourceIdentifier(admin_spiffe_id(domain, ADMINISTRATOR))],
        not_before=now,
        not_after=now + ADMINISTRATOR_LIFETIME,
        server=False,
    )
    kit = here.kit(ADMINISTRATOR)
    for path, content in (
        (here.administration / "authority.pem", authority.certificate.public_bytes(serialization.Encoding.PEM)),
        (here.administration / "authority.key", key_pem(authority.key)),
        (kit / "admin.pem", certificate),
        (kit / "admin.key", key_pem(key)),
    ):
        write_atomically(path, content, mode=0o600)
    make_signing_key(kit / "submitter.key")


def _write_service(here: Laboratory, final: Laboratory) -> None:
    """Write what the attestation service is launched with, and its settings."""
    keys = (load_signing_key(here.organisation_key(organisation)) for organisation in here.organisations)
    init_data = ServiceInitData(
        trust_domain=here.layout.trust_domain,
        role="attestation-service",
        organisation_keys=tuple(raw_public_key(key) for key in keys),
        threshold=THRESHOLD,
    )
    write_atomically(here.service_init_data, init_data.encode(), mode=0o600)
    addresses = here.layout.addresses
    settings = toml_text(
        "The attestation service of a laboratory. One organisation's signature founds it (k = 1), its keys lie in an\n"
        "ordinary folder, and its limits are far above the defaults.",
        {
            "trust_domain": here.layout.trust_domain,
            "enrol_address": addresses.enrol,
            "attested_address": addresses.attested,
            "state": final.state(ATTESTATION),
            "audit": final.audit(SERVICE_LOG),
            "init_data": final.service_init_data,
            "tee_socket": final.tee_socket(ATTESTATION),
            "limits": _LABORATORY_LIMITS,
        },
    )
    _write_text(here.service_settings, settings)


# --- the folder and its ports ----------------------------------------------------------------------------------------


@contextmanager
def _renamed_into(place: Path) -> Iterator[Path]:
    """Give a new folder (0700) that takes the place of `place` when the block ends; nothing is left of one that raises.

    Raises:
        UsageError: There is something at `place`, or a folder cannot be made there.
    """
    if (place / LAYOUT_FILE).exists():
        raise UsageError(
            f"there is a laboratory in {place} already",
            hint="choose another folder, or remove this one: what its keys have signed is worth nothing then",
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    except OSError as error:
        raise UsageError(f"a laboratory cannot be made in {place}: {error.strerror}") from error
    try:
        yield staging
        try:
            os.rename(staging, place)  # noqa: PTH104 - takes the place of an empty folder, and of nothing else
        except OSError as error:
            raise UsageError(
                f"{place} is not free: {error.strerror}", hint="choose a folder that does not exist yet"
            ) from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(place.parent)


def _addresses(base_port: int) -> Sequence[str]:
    """Return three loopback addresses that nobody listens on right now.

    Raises:
        UsageError: A port that was asked for is taken, or there is no such port.
    """
    with ExitStack() as held:  # all three at once, so that no port is given out twice
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for index, each in enumerate(sockets):
            port = base_port + index if base_port else 0
            try:
                each.bind((HOST, port))
            except (OSError, OverflowError) as error:
                raise UsageError(
                    f"port {port} of {HOST} cannot be used: {error}",
                    hint="leave --base-port out to have free ones chosen",
                ) from error
        return [f"{HOST}:{each.getsockname()[1]}" for each in sockets]


def _require_short_paths(laboratory: Laboratory) -> None:
    longest = max(
        (laboratory.tee_socket(name) for name in (ATTESTATION, *laboratory.nodes)), key=lambda p: len(bytes(p))
    )
    size = len(bytes(longest))
    if size > MAX_SOCKET_PATH:
        raise UsageError(
            f"the path of the TEE device {longest} has {size} bytes, a unix socket's has at most {MAX_SOCKET_PATH}",
            hint="make the laboratory in a folder with a shorter path",
        )


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, text.encode(), mode=0o600)
