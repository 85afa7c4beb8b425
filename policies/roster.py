"""The roster: which nodes there are, whose they are, and what they may be. Signed by k organisations.

A job's cohort is drawn from the roster, never supplied by the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from policies.documents import Document, Name, Versioned
from policies.errors import DeniedError

KIND = "roster"

Role = Literal["server", "site"]
Tier = Literal["attested", "enrolled"]  # attested: in a TEE; enrolled: a site without one


class Member(Document):
    """One node of the federation."""

    organisation: Name
    role: Role
    tier: Tier


class Roster(Versioned):
    """Every node that may take part."""

    trust_domain: Name
    nodes: dict[Name, Member] = Field(min_length=1, max_length=10_000)

    def member(self, node: str) -> Member:
        """Return the entry of `node`.

        Raises:
            DeniedError: It is not in the roster.
        """
        if node not in self.nodes:
            raise DeniedError(
                f"{node} is not in roster version {self.version}",
                hint="have the organisations sign a roster that names it",
            )
        return self.nodes[node]

    @property
    def sites(self) -> Mapping[str, Member]:
        """The members that are sites, by name."""
        return {name: member for name, member in self.nodes.items() if member.role == "site"}
