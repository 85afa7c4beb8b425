"""One site's part in one attempt at one round: advertise, share, mask, agree on the survivors, unmask.

Every step can be taken once and in this order. All that could tell this site's update from the sum is decided here: whose
keys it masks with, whose survivors it signs, and which one of two secrets it hands out for each peer. Sockets, files and
clocks are the caller's. Keys and seeds are this object's alone and end with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_runtime.secure_aggregation.adverts import Adverts
from fl_runtime.secure_aggregation.agreement import PrivateKey, open_shares, seal_shares, seed_commitment
from fl_runtime.secure_aggregation.cohort import Cohort
from fl_runtime.secure_aggregation.context import RoundContext
from fl_runtime.secure_aggregation.errors import ConsistencyError, OutOfOrderError, PeerRefusedError
from fl_runtime.secure_aggregation.memory import RoundMemory
from fl_runtime.secure_aggregation.messages import Advertise, Consistency, Masked, Shares, Signed, Step, Unmask
from fl_runtime.secure_aggregation.parameters import Parameters
from fl_runtime.secure_aggregation.prg import Mask, add_masks
from fl_runtime.secure_aggregation.ring import require_vector
from fl_runtime.secure_aggregation.shamir import SECRET_SIZE, draw_secret, split
from fl_runtime.secure_aggregation.stages import ClippedUpdate, MaskedUpdate, Randomness
from policies.documents import raw_public_key
from policies.encoding import domain, lp


class Stage(IntEnum):
    """How far a site has come."""

    JOINED = 0
    ADVERTISED = 1
    SHARED = 2
    MASKED = 3
    SIGNED = 4
    ANSWERED = 5


@dataclass(slots=True, kw_only=True)
class _Secrets:
    """What ends with the attempt."""

    channel: PrivateKey
    seed: PrivateKey
    self_mask: bytes  # 32 bytes, b
    held: dict[int, bytes] = field(default_factory=dict)  # by owner: share of b (32 bytes), share of its seed key (32)


class SiteRound:
    """The state of one site in one attempt."""

    def __init__(
        self,
        *,
        context: RoundContext,
        cohort: Cohort,
        parameters: Parameters,
        site: str,
        signing_key: Ed25519PrivateKey,
        memory: RoundMemory,
        randomness: Randomness,
    ) -> None:
        """Join an attempt, with keys of its own.

        Args:
            context: The attempt, with the hash of the model that this site received.
            cohort: Its members, each verified by this site against the roster.
            parameters: From the signed manifest, already checked against this site's policy.
            site: This site's name.
            signing_key: The Ed25519 key of this boot.
            memory: What this site did in earlier attempts; shared by all of them.
            randomness: Cryptographic outside tests.

        Raises:
            ParametersRefusedError: The cohort does not fit the parameters.
            BelowThresholdError: The cohort is too small, or too much of it is one organisation's.
            PeerRefusedError: This site, with this key, is not in the cohort; or the context is of another cohort or parameters.
            RoundAbandonedError: This site may take no further part in the round.
        """
        cohort.require_fit(parameters)
        self._place = cohort.index(site)
        if cohort.members[self._place].sign_pk != raw_public_key(signing_key):
            raise PeerRefusedError(f"the cohort names another key for {site} than that of this boot", sites=(site,))
        stated = (context.cohort_digest, context.params_digest, context.vector_length)
        if stated != (cohort.digest(), parameters.digest(), parameters.words):
            raise PeerRefusedError(
                "the context is of another cohort or other parameters than this site's", sites=(site,)
            )
        memory.join(context)
        self._context, self._cohort, self._parameters, self._site = context, cohort, parameters, site
        self._signing_key, self._memory, self._randomness = signing_key, memory, randomness
        self._pair_context = context.pair_context()
        self._stage = Stage.JOINED
        self._adverts: Adverts | None = None
        self._agreed: Consistency | None = None
        self._sharers: tuple[int, ...] = ()
        self._answer = b""
        self._secrets: _Secrets | None = _Secrets(
            channel=PrivateKey.draw(site, randomness),
            seed=PrivateKey.draw(site, randomness),
            self_mask=draw_secret(randomness),
        )

    @property
    def stage(self) -> Stage:
        """How far this site has come."""
        return self._stage

    def advertise(self) -> bytes:
        """Step 0: return this site's public keys for the attempt, signed."""
        secrets = self._enter(Stage.ADVERTISED)
        return self._sign(
            Step.ADVERTISE, Advertise(c_pk=secrets.channel.public.raw, s_pk=secrets.seed.public.raw).encode()
        )

    def share(self, adverts: Iterable[bytes]) -> bytes:
        """Step 1: accept the peers' keys and deal out shares of this site's two secrets.

        Args:
            adverts: The signed adverts of all sites that advertised, this one's among them.

        Returns:
            Signed shares for every other site that advertised, each sealed for its recipient.

        Raises:
            PeerRefusedError: Names each site whose advert is forged or replayed, or that was shown another model, cohort or
                parameters than this site; and this one where its own keys are missing or changed.
            BelowThresholdError: Too few sites advertised.
            MalformedMessageError: An advert does not follow the layout.
        """
        secrets = self._require(Stage.ADVERTISED)
        shown = Adverts.verify(adverts, context=self._context, cohort=self._cohort, parameters=self._parameters)
        own = (shown.channel.get(self._place), shown.seed.get(self._place))
        if own != (secrets.channel.public, secrets.seed.public):
            raise PeerRefusedError(
                "this site's own keys are not among the adverts that it was shown", sites=(self._site,)
            )
        self._enter(Stage.SHARED)
        dealt = [
            split(secret, holders=shown.places, threshold=self._parameters.threshold, randomness=self._randomness)
            for secret in (secrets.self_mask, secrets.seed.secret)
        ]
        pairs = {place: dealt[0][place] + dealt[1][place] for place in shown.places}
        secrets.held[self._place] = pairs.pop(self._place)
        self._adverts = shown
        sealed = {
            place: seal_shares(
                pair,
                key=secrets.channel.channel_key(shown.channel[place], self._pair_context, sending=True),
                associated=self._associated(shown, sender=self._place, recipient=place),
            )
            for place, pair in pairs.items()
        }
        body = Shares(seed_commitment=seed_commitment(secrets.self_mask, self._site, self._pair_context), sealed=sealed)
        return self._sign(Step.SHARE, body.encode(members=len(self._cohort)))

    def mask(self, update: ClippedUpdate, mailbox: Mapping[str, bytes], *, threads: int = 1) -> MaskedUpdate:
        """Step 2: put this site's masks on its update, in place: its own, and one with each peer that shared.

        Nothing is masked unless every share in the mailbox opens, which proves that its sender saw the very same keys.

        Args:
            update: In the clear; its vector holds the masked words afterwards.
            mailbox: For each peer that shared, by name, what it sealed for this site (80 bytes).
            threads: For the keystreams.

        Raises:
            PeerRefusedError: Names the sites whose shares do not open or that did not advertise.
            BelowThresholdError: Too few sites shared.
            MalformedUpdateError: The vector is of another ring or length.
        """
        secrets = self._require(Stage.SHARED)
        require_vector(update.vector, self._parameters)
        held = self._open(mailbox, secrets)
        sharers = tuple(sorted({*held, self._place}))
        self._cohort.require_quorum(sharers, self._parameters)
        masks = [Mask(secrets.self_mask, 1)]
        masks += [
            Mask(secrets.seed.pair_seed(self._shown.seed[peer], self._pair_context), 1 if peer > self._place else -1)
            for peer in sharers
            if peer != self._place
        ]
        self._enter(Stage.MASKED)  # before the first word changes: keys that met a vector never meet another
        secrets.held.update(held)
        self._sharers = sharers
        add_masks(update.vector, masks, threads=threads)
        return MaskedUpdate(vector=update.vector, clipped_count=update.clipped_count)

    def announce(self, masked: MaskedUpdate, *, digest: bytes) -> bytes:
        """Return the signed name of the masked vector; `digest` is `vector_digest` of the bytes that travel."""
        if self._stage < Stage.MASKED:
            raise OutOfOrderError("there is no masked vector yet")
        return self._sign(
            Step.MASKED, Masked(digest=digest, words=len(masked.vector), clipped=masked.clipped_count).encode()
        )

    def consistency(self, survivors: Iterable[str]) -> bytes:
        """Step 3: sign the survivors, or the same bytes again.

        Args:
            survivors: By name, those whose masked upload the server has whole. This site need not be among them.

        Raises:
            ConsistencyError: A survivor is not among the sites that this one masked with, or other survivors were signed before.
            BelowThresholdError: Too few survivors to hide each of them.
        """
        places = self._cohort.indices(survivors)
        if not set(places) <= set(self._sharers):
            strangers = sorted(
                {self._cohort.names[place] for place in places} - {self._cohort.names[p] for p in self._sharers}
            )
            raise ConsistencyError(f"{', '.join(strangers)} survived, but this site shares no mask with them")
        agreed = Consistency(sharers=self._sharers, survivors=places)
        self._cohort.require_quorum(places, self._parameters)
        if self._agreed is None:
            self._enter(Stage.SIGNED)
            self._agreed = agreed
        elif self._agreed != agreed:
            raise ConsistencyError(
                f"this site was shown two survivor sets: {self._names(self._agreed)} and {self._names(agreed)}"
            )
        return self._sign(Step.CONSISTENCY, agreed.encode(members=len(self._cohort)))

    def unmask(self, agreement: Iterable[bytes]) -> bytes:
        """Step 4: hand out one share for each sharer: of its self-mask if it survived, of its seed key if not.

        The caller saves the `RoundMemory` before it sends the answer. Asked again, the same bytes are returned.

        Args:
            agreement: Signed consistency messages, this site's among them or not.

        Raises:
            ConsistencyError: A site has signed other survivors than this one.
            BelowThresholdError: Fewer than t sites or organisations have signed these survivors.
            PeerRefusedError: A message is forged or replayed, or a site is counted twice or did not share.
            RoundAbandonedError: This site has joined another attempt since.
        """
        if self._stage is Stage.ANSWERED:
            return self._answer
        secrets = self._require(Stage.SIGNED)
        agreed = self._signed_survivors
        self._require_agreement(agreement, agreed)
        self._cohort.require_quorum(agreed.survivors, self._parameters)
        self._memory.answer(self._context)
        shares = {place: secrets.held[place][:SECRET_SIZE] for place in agreed.survivors}
        shares |= {place: secrets.held[place][SECRET_SIZE:] for place in agreed.dropped}
        self._answer = self._sign(Step.UNMASK, Unmask(agreed=agreed, shares=shares).encode(members=len(self._cohort)))
        self._enter(Stage.ANSWERED)
        self._secrets = None  # nothing more can be asked of them
        return self._answer

    def _open(self, mailbox: Mapping[str, bytes], secrets: _Secrets) -> dict[int, bytes]:
        places = self._cohort.indices(mailbox)
        strangers = [self._cohort.names[p] for p in places if p not in self._shown.channel or p == self._place]
        if strangers:
            raise PeerRefusedError(f"shares came from {', '.join(strangers)}, which did not advertise", sites=strangers)
        held: dict[int, bytes] = {}
        refused: list[PeerRefusedError] = []
        for place in places:
            peer = self._shown.channel[place]
            try:
                held[place] = open_shares(
                    mailbox[peer.site],
                    key=secrets.channel.channel_key(peer, self._pair_context, sending=False),
                    associated=self._associated(self._shown, sender=place, recipient=self._place),
                    sender=peer.site,
                )
            except PeerRefusedError as error:
                refused.append(error)
        if refused:
            raise PeerRefusedError(
                "; ".join(map(str, refused)), sites=[site for error in refused for site in error.sites]
            )
        return held

    def _require_agreement(self, agreement: Iterable[bytes], agreed: Consistency) -> None:
        signers: set[int] = set()
        for message in map(Signed.parse, agreement):
            body = message.verify(Step.CONSISTENCY, context=self._context, cohort=self._cohort)
            place = self._cohort.index(message.sender)
            if place in signers or place not in agreed.sharers:
                raise PeerRefusedError(
                    f"{message.sender} signed twice, or shares no mask with this site", sites=(message.sender,)
                )
            theirs = Consistency.parse(body, members=len(self._cohort))
            if theirs != agreed:
                raise ConsistencyError(
                    f"{message.sender} was shown the survivors {self._names(theirs)}, this site {self._names(agreed)}"
                )
            signers.add(place)
        self._cohort.require_agreement(signers, self._parameters)

    def _associated(self, shown: Adverts, *, sender: int, recipient: int) -> bytes:
        names = self._cohort.names
        return domain("shares") + self._pair_context + shown.digest + lp(names[sender]) + lp(names[recipient])

    def _sign(self, step: Step, body: bytes) -> bytes:
        return Signed.sign(body, step=step, context=self._context, sender=self._site, key=self._signing_key).encode()

    def _names(self, agreed: Consistency) -> str:
        return ", ".join(self._cohort.names[place] for place in agreed.survivors)

    def _require(self, stage: Stage) -> _Secrets:
        if self._stage is not stage or self._secrets is None:
            raise OutOfOrderError(f"{self._site} is at the stage {self._stage.name}, expected {stage.name}")
        return self._secrets

    def _enter(self, stage: Stage) -> _Secrets:
        secrets = self._require(Stage(stage - 1))
        self._stage = stage
        return secrets

    @property
    def _shown(self) -> Adverts:
        if self._adverts is None:
            raise OutOfOrderError("this site has not been shown any keys")
        return self._adverts

    @property
    def _signed_survivors(self) -> Consistency:
        if self._agreed is None:
            raise OutOfOrderError("this site has not signed any survivors")
        return self._agreed
