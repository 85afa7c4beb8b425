"""The public keys of one attempt, as one party was shown them, and the masks that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from fl_runtime.secure_aggregation.agreement import PublicKey
from fl_runtime.secure_aggregation.cohort import Cohort
from fl_runtime.secure_aggregation.context import RoundContext
from fl_runtime.secure_aggregation.errors import PeerRefusedError
from fl_runtime.secure_aggregation.messages import Advertise, Signed, Step
from fl_runtime.secure_aggregation.parameters import Parameters
from policies.encoding import lp, sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Adverts:
    """Verified public keys by place: each signed by its member for this attempt, all different."""

    channel: Mapping[int, PublicKey]
    seed: Mapping[int, PublicKey]
    digest: bytes  # 32 bytes: who advertised what; shares are sealed under it, so peers that saw other keys cannot read them

    @classmethod
    def verify(
        cls, messages: Iterable[bytes], *, context: RoundContext, cohort: Cohort, parameters: Parameters
    ) -> Self:
        """Verify the adverts of one attempt.

        Raises:
            MalformedMessageError: One does not follow the layout.
            PeerRefusedError: Names every site whose advert is forged, replayed, or made for another model, cohort or parameters;
                and those that advertise a key twice.
            BelowThresholdError: Too few sites advertised.
        """
        found: dict[int, Advertise] = {}
        refused: list[PeerRefusedError] = []
        for message in map(Signed.parse, messages):
            try:
                body = message.verify(Step.ADVERTISE, context=context, cohort=cohort)
            except PeerRefusedError as error:
                refused.append(error)
                continue
            place = cohort.index(message.sender)
            if place in found:
                refused.append(PeerRefusedError(f"{message.sender} advertised twice", sites=(message.sender,)))
            found[place] = Advertise.parse(body)
        if refused:
            sites = sorted({site for error in refused for site in error.sites})
            raise PeerRefusedError("; ".join(str(error) for error in refused), sites=sites, hint=refused[0].hint)
        ordered = dict(sorted(found.items()))
        _require_distinct(ordered, cohort)
        cohort.require_quorum(ordered.keys(), parameters)
        names = cohort.names
        return cls(
            channel={place: PublicKey(site=names[place], raw=advert.c_pk) for place, advert in ordered.items()},
            seed={place: PublicKey(site=names[place], raw=advert.s_pk) for place, advert in ordered.items()},
            digest=sha256("adverts", *(lp(names[place]) + advert.encode() for place, advert in ordered.items())),
        )

    @property
    def places(self) -> tuple[int, ...]:
        """Who advertised, in order."""
        return tuple(self.seed)


def _require_distinct(adverts: Mapping[int, Advertise], cohort: Cohort) -> None:
    owner: dict[bytes, str] = {}
    for place, advert in adverts.items():
        site = cohort.names[place]
        for key in (advert.c_pk, advert.s_pk):
            if key in owner:
                raise PeerRefusedError(f"{owner[key]} and {site} advertise one key", sites=sorted({owner[key], site}))
            owner[key] = site
