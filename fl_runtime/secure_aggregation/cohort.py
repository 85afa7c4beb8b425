"""Who takes part in a round, and how many of them must be left for a sum to hide each one.

A cohort is drawn from the roster by each site for itself: a member is here only after its grant and its Attestation
Result (or its enrolled key) verified. The server supplies none of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

from fl_runtime.secure_aggregation.errors import BelowThresholdError, ParametersRefusedError, PeerRefusedError
from fl_runtime.secure_aggregation.parameters import SMALLEST_COHORT, Parameters, threshold_for
from policies.encoding import lp, sha256, u16

BOOT_SIZE = 16
SIGN_PK_SIZE = 32  # Ed25519, raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One site of a cohort, already accepted by whoever built the cohort."""

    site: str
    organisation: str
    sign_pk: bytes  # 32 bytes, Ed25519 key of this boot
    boot: bytes  # 16 bytes; a restarted site is another member, so that its old keys and shares mean nothing


@dataclass(frozen=True, slots=True)
class Cohort:
    """The members of one round, sorted by site. A member's place, from 0, is its index everywhere."""

    members: tuple[Member, ...]

    @classmethod
    def of(cls, members: Iterable[Member]) -> Self:
        """Return the cohort of these members, whatever order they come in.

        Raises:
            ParametersRefusedError: Two members share a site name or a signing key, or a field has the wrong size.
        """
        ordered = tuple(sorted(members, key=lambda member: member.site))
        for member in ordered:
            if len(member.sign_pk) != SIGN_PK_SIZE or len(member.boot) != BOOT_SIZE:
                raise ParametersRefusedError(
                    f"{member.site}: key of {len(member.sign_pk)} and boot of {len(member.boot)} bytes, expected 32 and 16"
                )
        if len({m.site for m in ordered}) != len(ordered) or len({m.sign_pk for m in ordered}) != len(ordered):
            raise ParametersRefusedError("two members of the cohort share a site name or a signing key")
        return cls(ordered)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def names(self) -> tuple[str, ...]:
        """The sites, in order."""
        return tuple(member.site for member in self.members)

    def digest(self) -> bytes:
        """SHA-256 that names this cohort in every message, 32 bytes."""
        fields = (lp(m.site) + lp(m.organisation) + m.sign_pk + m.boot for m in self.members)
        return sha256("cohort", u16(len(self.members)), *fields)

    def index(self, site: str) -> int:
        """Return the place of `site`.

        Raises:
            PeerRefusedError: It is not in the cohort.
        """
        for place, member in enumerate(self.members):
            if member.site == site:
                return place
        raise PeerRefusedError(f"{site!r} is not in this round's cohort", sites=(site,))

    def indices(self, sites: Iterable[str]) -> tuple[int, ...]:
        """Return the places of `sites`, sorted; raises `PeerRefusedError` where one is not in the cohort."""
        places = {name: place for place, name in enumerate(self.names)}
        chosen = frozenset(sites)
        if unknown := sorted(chosen - places.keys()):
            raise PeerRefusedError(f"{', '.join(unknown)} not in this round's cohort", sites=unknown)
        return tuple(sorted(places[site] for site in chosen))

    def require_fit(self, parameters: Parameters) -> None:
        """Refuse a cohort that cannot open a round under `parameters`.

        Raises:
            ParametersRefusedError: More sites than the ring has room for, or fewer than masks can hide.
            BelowThresholdError: Not even the whole cohort would be enough survivors.
        """
        if not SMALLEST_COHORT <= len(self) <= parameters.n_max:
            raise ParametersRefusedError(
                f"the cohort has {len(self)} sites, expected {SMALLEST_COHORT} to {parameters.n_max}",
                hint="with two or three sites masks hide nothing or allow no drop-out: choose the profile `tee`",
            )
        self.require_quorum(range(len(self)), parameters)

    def require_quorum(self, places: Collection[int], parameters: Parameters) -> None:
        """Refuse to go on with only the members at `places`: too few to hide each of them from the others.

        Enough means: at least max(t, min_survivors) sites, of at least min_organisations organisations and of at least
        t organisations counted among those of the cohort, none of which owns more than all but two of the sites. Of all
        but one, an organisation would read the last one out of the sum.

        Raises:
            BelowThresholdError: Names who is missing.
        """
        missing = tuple(member.site for place, member in enumerate(self.members) if place not in places)
        needed = max(parameters.threshold, parameters.min_survivors)
        if len(places) < needed:
            raise BelowThresholdError(
                f"{len(places)} of {len(self)} sites are left, expected at least {needed}; missing: {_list(missing)}",
                missing=missing,
            )
        owned = Counter(self.members[place].organisation for place in places)
        needed = max(self._organisation_threshold(), parameters.min_organisations)
        if len(owned) < needed:
            raise BelowThresholdError(
                f"sites of {len(owned)} organisations are left, expected at least {needed}; missing: {_list(missing)}",
                missing=missing,
            )
        largest, count = owned.most_common(1)[0]
        if count > len(places) - 2:
            raise BelowThresholdError(
                f"{largest} owns {count} of the {len(places)} sites that are left, at most {len(places) - 2} hide the others;"
                f" missing: {_list(missing)}",
                missing=missing,
            )

    def require_agreement(self, signers: Collection[int], parameters: Parameters) -> None:
        """Refuse survivors that fewer than t sites, or sites of fewer than t organisations, have signed.

        Counted in organisations too, so that one organisation with several sites is not several voices.

        Raises:
            BelowThresholdError: Names who has not signed.
        """
        silent = tuple(member.site for place, member in enumerate(self.members) if place not in signers)
        owners = {self.members[place].organisation for place in signers}
        if len(signers) < parameters.threshold or len(owners) < self._organisation_threshold():
            raise BelowThresholdError(
                f"{len(signers)} sites of {len(owners)} organisations signed equal survivors, expected at least"
                f" {parameters.threshold} of {self._organisation_threshold()}; not among them: {_list(silent)}",
                missing=silent,
            )

    def _organisation_threshold(self) -> int:
        return threshold_for(len({member.organisation for member in self.members}))


def _list(sites: Collection[str]) -> str:
    return ", ".join(sites) or "none"
