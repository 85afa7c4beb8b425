"""What was chosen for a laboratory, and where each of its files is. One folder holds it all.

laboratory.toml            this layout
organisations/ORG.key      what each organisation signs with (raw Ed25519, 32 bytes)
administration/            the project's authority, which issues administrators
attestation/               init_data and settings of the attestation service
mock-tee.toml  tee/        the mock TEE: settings; its vendor, control socket and TEE devices
documents/                 what was signed at genesis: root, roster, reference values
kits/NODE/  kits/admin/    what each node, and the administrator, starts from
state/  audit/  data/      what programs keep, what they record, and the sites' own data
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from policies.documents import Name
from policies.errors import UsageError
from policies.roster import Member
from policies.settings import Settings, load_settings

LAYOUT_FILE = "laboratory.toml"
SERVER = "server"
ADMINISTRATOR = "admin"
ATTESTATION = "attestation"  # the machine of the attestation service
SERVICE_LOG = "service"  # its audit log
RESERVED = frozenset({SERVER, ADMINISTRATOR, ATTESTATION, SERVICE_LOG, "control"})  # control.sock is the mock TEE's own
MAX_ORGANISATIONS = 256  # of a root
MAX_SOCKET_PATH = 107  # bytes; unix(7): sun_path holds 108, with the zero that ends it


class Addresses(Settings):
    """Where the programs of a laboratory listen; each host:port on the loopback interface."""

    enrol: str
    attested: str
    server: str


class Layout(Settings):
    """The content of `laboratory.toml`."""

    version: Literal[1]
    trust_domain: Name
    operator: Name  # the organisation that runs the attestation service and the server
    addresses: Addresses
    sites: dict[Name, Name] = Field(min_length=1, max_length=1000)  # site -> its organisation

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not self.trust_domain.endswith(".mock"):
            raise ValueError(
                f"trust domain {self.trust_domain} is not a laboratory's, expected a name that ends in .mock"
            )
        taken = sorted(RESERVED & set(self.sites))
        if taken:
            raise ValueError(f"a site cannot be called {taken[0]}: the laboratory itself uses that name")
        organisations = {self.operator, *self.sites.values()}
        if len(organisations) > MAX_ORGANISATIONS:
            raise ValueError(f"there are {len(organisations)} organisations, at most {MAX_ORGANISATIONS} are possible")
        return self


@dataclass(frozen=True, slots=True)
class Laboratory:
    """A laboratory's folder and its layout."""

    directory: Path  # absolute
    layout: Layout

    @classmethod
    def load(cls, directory: Path) -> Laboratory:
        """Read the layout of the laboratory in `directory`.

        Raises:
            UsageError: There is none, or its layout is not usable.
        """
        path = directory.resolve() / LAYOUT_FILE
        if not path.is_file():
            raise UsageError(
                f"{directory} holds no laboratory", hint=f"make one: cloister provision laboratory {directory}"
            )
        return cls(path.parent, load_settings(path, Layout))

    @property
    def nodes(self) -> Mapping[str, Member]:
        """Every node: the server, then the sites in the order of their names."""
        sites = {
            site: Member(organisation=organisation, role="site", tier="attested")
            for site, organisation in sorted(self.layout.sites.items())
        }
        return {SERVER: Member(organisation=self.layout.operator, role="server", tier="attested"), **sites}

    @property
    def organisations(self) -> tuple[str, ...]:
        """Every organisation, in the order of their names."""
        return tuple(sorted({self.layout.operator, *self.layout.sites.values()}))

    def member(self, node: str) -> Member:
        """Return who `node` is.

        Raises:
            UsageError: It is not a node of this laboratory.
        """
        if node not in self.nodes:
            raise UsageError(f"there is no node {node!r}, expected one of {', '.join(self.nodes)}")
        return self.nodes[node]

    def organisation_key(self, organisation: str) -> Path:
        """What an organisation signs with."""
        return self.directory / "organisations" / f"{organisation}.key"

    def kit(self, node: str) -> Path:
        """What a node, or the administrator, starts from."""
        return self.directory / "kits" / node

    def document(self, kind: str) -> Path:
        """The envelope of a document that was signed at genesis: root, roster or reference-values."""
        return self.directory / "documents" / f"{kind}.json"

    def state(self, program: str) -> Path:
        """What a program keeps."""
        return self.directory / "state" / program

    def audit(self, log: str) -> Path:
        """The folder of one log; the folder around it is what `cloister audit verify` reads."""
        return self.directory / "audit" / log

    def data(self, site: str) -> Path:
        """A site's own data."""
        return self.directory / "data" / f"{site}.npz"

    @property
    def tee(self) -> Path:
        """The folder of the mock TEE."""
        return self.directory / "tee"

    def tee_socket(self, machine: str) -> Path:
        """The TEE device of a machine."""
        return self.tee / f"{machine}.sock"

    @property
    def mock_tee_settings(self) -> Path:
        """The settings of `cloister mock-tee serve`."""
        return self.directory / "mock-tee.toml"

    @property
    def attestation(self) -> Path:
        """The folder with the attestation service's init_data and settings."""
        return self.directory / ATTESTATION

    @property
    def service_init_data(self) -> Path:
        """What the attestation service's machine is launched with."""
        return self.attestation / "init-data.json"

    @property
    def service_settings(self) -> Path:
        """The settings of `cloister attestation serve`."""
        return self.attestation / "attestation.toml"

    @property
    def administration(self) -> Path:
        """The folder of the project's authority."""
        return self.directory / "administration"

    @property
    def audit_trust(self) -> Path:
        """Whom `cloister audit verify` believes."""
        return self.directory / "trust.json"
