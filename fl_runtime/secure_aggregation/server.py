"""The server's part in one attempt at one round: collect, forward, fix the survivors, and take the masks off the sum.

It sees signed messages, masked vectors and, at the end, shares: of the survivors' self-masks and of the seed keys of those
that dropped out. Streaming, spooling and durability are the caller's; `transcript` is what to keep to go on after a restart.
Each step is closed before the next begins; what comes late is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from fl_runtime.secure_aggregation.adverts import Adverts
from fl_runtime.secure_aggregation.cohort import Cohort
from fl_runtime.secure_aggregation.context import RoundContext
from fl_runtime.secure_aggregation.errors import (
    BelowThresholdError,
    OutOfOrderError,
    PeerRefusedError,
)
from fl_runtime.secure_aggregation.messages import Consistency, Masked, Shares, Signed, Step, Unmask
from fl_runtime.secure_aggregation.parameters import Parameters
from fl_runtime.secure_aggregation.prg import add_masks
from fl_runtime.secure_aggregation.ring import require_vector
from fl_runtime.secure_aggregation.stages import RingVector, Sum
from fl_runtime.secure_aggregation.unmasking import masks_in_sum, reconstruct, require_committed


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The signed messages that decided who is in a sum, as they arrived."""

    adverts: tuple[bytes, ...]
    shares: tuple[bytes, ...]
    masked: tuple[bytes, ...]


class ServerRound:
    """The state of the server in one attempt."""

    def __init__(self, *, context: RoundContext, cohort: Cohort, parameters: Parameters) -> None:
        """Open an attempt for `cohort`.

        Raises:
            ParametersRefusedError: The cohort does not fit the parameters.
            BelowThresholdError: The cohort is too small, or too much of it is one organisation's.
        """
        cohort.require_fit(parameters)
        self._context, self._cohort, self._parameters = context, cohort, parameters
        self._step: Step | None = Step.ADVERTISE
        self._received: dict[Step, dict[int, bytes]] = {step: {} for step in Step}
        self._adverts: Adverts | None = None
        self._shares: dict[int, Shares] = {}
        self._masked: dict[int, Masked] = {}
        self._agreed = Consistency(sharers=(), survivors=())
        self._answers: dict[int, Unmask] = {}

    @classmethod
    def resume(cls, transcript: Transcript, *, context: RoundContext, cohort: Cohort, parameters: Parameters) -> Self:
        """Return the round as it was when its uploads were closed.

        Raises:
            AggregationError: The messages do not verify or do not make a round.
        """
        server = cls(context=context, cohort=cohort, parameters=parameters)
        for raw in transcript.adverts:
            server.receive_advert(raw)
        server.close_adverts()
        for raw in transcript.shares:
            server.receive_shares(raw)
        server.close_shares()
        for raw in transcript.masked:
            # The vector that arrived had the digest that its message names, or the message would not have been kept.
            server.receive_masked(raw, digest=Masked.parse(Signed.parse(raw).body).digest)
        server.close_uploads()
        return server

    @property
    def transcript(self) -> Transcript:
        """What to save, together with the accumulator, once uploads are closed and before sites are asked to agree."""
        return Transcript(
            adverts=tuple(self._received[Step.ADVERTISE].values()),
            shares=tuple(self._received[Step.SHARE].values()),
            masked=tuple(self._received[Step.MASKED].values()),
        )

    # --- step 0 ------------------------------------------------------------------------------------------------------

    def receive_advert(self, raw: bytes) -> str:
        """Keep one site's signed keys and return its name; the same bytes again change nothing.

        Raises:
            MalformedMessageError: The bytes do not follow the layout.
            PeerRefusedError: Forged, replayed, or different from what the site sent before.
            OutOfOrderError: The step is closed.
        """
        place, _, new = self._verify(Step.ADVERTISE, raw)
        if new:
            self._keep(Step.ADVERTISE, place, raw)
        return self._cohort.names[place]

    def close_adverts(self) -> tuple[bytes, ...]:
        """Fix who takes part and return all adverts, for each of them.

        Raises:
            BelowThresholdError: Too few sites advertised; names who is missing. The step stays open.
            PeerRefusedError: Two sites advertised one key.
        """
        self._require(Step.ADVERTISE)
        messages = self._received[Step.ADVERTISE].values()
        self._adverts = Adverts.verify(
            messages, context=self._context, cohort=self._cohort, parameters=self._parameters
        )
        self._step = Step.SHARE
        return tuple(messages)

    # --- step 1 ------------------------------------------------------------------------------------------------------

    def receive_shares(self, raw: bytes) -> str:
        """Keep one site's sealed shares and return its name; the same bytes again change nothing.

        Raises:
            MalformedMessageError: The bytes do not follow the layout.
            PeerRefusedError: Forged, replayed, different from before, or not for exactly the other sites that advertised.
            OutOfOrderError: The step is closed, or not yet open.
        """
        place, body, new = self._verify(Step.SHARE, raw)
        shares = Shares.parse(body, members=len(self._cohort))
        expected = set(self._keys.places) - {place}
        if place not in self._keys.places or shares.sealed.keys() != expected:
            raise self._refusal(place, "shared with other sites than those that advertised")
        if new:
            self._keep(Step.SHARE, place, raw)
            self._shares[place] = shares
        return self._cohort.names[place]

    def close_shares(self) -> tuple[str, ...]:
        """Fix and return the names of the sites that shared: each masks with all the others.

        Raises:
            BelowThresholdError: Too few sites shared; names who is missing. The step stays open.
        """
        self._require(Step.SHARE)
        self._cohort.require_quorum(self._shares.keys(), self._parameters)
        self._step = Step.MASKED
        return self._names(self._shares)

    def mailbox(self, site: str) -> Mapping[str, bytes]:
        """Return what each other site that shared has sealed for `site`, by name; 80 bytes each.

        Raises:
            PeerRefusedError: `site` did not share.
            OutOfOrderError: The shares are not yet closed.
        """
        if self._step in {Step.ADVERTISE, Step.SHARE}:
            raise OutOfOrderError("the shares are not yet closed")
        recipient = self._cohort.index(site)
        if recipient not in self._shares:
            raise self._refusal(recipient, "did not share")
        return {
            self._cohort.names[place]: shares.sealed[recipient]
            for place, shares in sorted(self._shares.items())
            if place != recipient
        }

    # --- step 2 ------------------------------------------------------------------------------------------------------

    def receive_masked(self, raw: bytes, *, digest: bytes) -> str:
        """Note that one site's masked vector is here, whole, and return its name: now, and only now, add it to the sum.

        Args:
            raw: The signed message.
            digest: `vector_digest` of the bytes that arrived.

        Raises:
            MalformedMessageError: The bytes do not follow the layout.
            PeerRefusedError: Forged, replayed, of another vector than the one that arrived, or not the site's first: a vector
                that was added twice would leave its mask in the sum.
            OutOfOrderError: The step is closed, or not yet open.
        """
        place, body, new = self._verify(Step.MASKED, raw)
        masked = Masked.parse(body)
        if place not in self._shares or not new:
            raise self._refusal(place, "uploaded before, or did not share")
        if masked.words != self._parameters.words or masked.digest != digest:
            raise self._refusal(place, "announced another vector than the one that arrived")
        self._keep(Step.MASKED, place, raw)
        self._masked[place] = masked
        return self._cohort.names[place]

    def close_uploads(self) -> tuple[str, ...]:
        """Fix and return the survivors: the sites whose vectors are in the sum. Make it and the sum durable, then ask them.

        Raises:
            BelowThresholdError: Too few survived; names who is missing. The step stays open.
        """
        self._require(Step.MASKED)
        self._cohort.require_quorum(self._masked.keys(), self._parameters)
        self._agreed = Consistency(sharers=tuple(sorted(self._shares)), survivors=tuple(sorted(self._masked)))
        self._step = Step.CONSISTENCY
        return self._names(self._masked)

    # --- step 3 ------------------------------------------------------------------------------------------------------

    def receive_consistency(self, raw: bytes) -> str:
        """Keep one site's signature on the survivors and return its name; the same bytes again change nothing.

        Raises:
            MalformedMessageError: The bytes do not follow the layout.
            PeerRefusedError: Forged, replayed, or of other survivors; or the site did not share.
            OutOfOrderError: The step is closed, or not yet open.
        """
        place, body, new = self._verify(Step.CONSISTENCY, raw)
        if place not in self._shares or Consistency.parse(body, members=len(self._cohort)) != self._agreed:
            raise self._refusal(place, "signed other survivors than those whose vectors are in the sum")
        if new:
            self._keep(Step.CONSISTENCY, place, raw)
        return self._cohort.names[place]

    def agreement(self) -> tuple[bytes, ...]:
        """Return the signatures on the survivors, for every site that shared.

        Raises:
            BelowThresholdError: Too few have signed; names who has not. The step stays open.
        """
        signed = self._received[Step.CONSISTENCY]
        if self._step is not Step.UNMASK:
            self._require(Step.CONSISTENCY)
            self._cohort.require_agreement(signed.keys(), self._parameters)
            self._step = Step.UNMASK
        return tuple(signed.values())

    # --- step 4 ------------------------------------------------------------------------------------------------------

    def receive_unmask(self, raw: bytes) -> str:
        """Keep one site's shares and return its name; the same bytes again change nothing.

        Raises:
            MalformedMessageError: The bytes do not follow the layout.
            PeerRefusedError: Forged, replayed, different from before, or for other survivors; or the site did not share.
            OutOfOrderError: The step is closed, or not yet open.
        """
        place, body, new = self._verify(Step.UNMASK, raw)
        answer = Unmask.parse(body, members=len(self._cohort))
        if place not in self._shares or answer.agreed != self._agreed:
            raise self._refusal(place, "answered for other survivors than those whose vectors are in the sum")
        if new:
            self._keep(Step.UNMASK, place, raw)
            self._answers[place] = answer
        return self._cohort.names[place]

    @property
    def answers_missing(self) -> int:
        """How many more sites must answer before the sum can be unmasked."""
        return max(0, self._parameters.threshold - len(self._answers))

    def unmask(self, accumulator: RingVector, *, threads: int = 1) -> Sum:
        """Take every mask off the sum of the survivors' vectors, in place.

        Args:
            accumulator: The sum, in the ring, of exactly the survivors' masked vectors.
            threads: For the keystreams.

        Raises:
            BelowThresholdError: Fewer than t sites have answered; more may yet.
            ShareMismatchError: Shares do not give back what their owners committed to. Nothing was subtracted.
            MalformedUpdateError: The accumulator is of another ring or length.
        """
        self._require(Step.UNMASK)
        require_vector(accumulator, self._parameters)
        if self.answers_missing:
            missing = self._names(set(self._agreed.sharers) - self._answers.keys())
            raise BelowThresholdError(
                f"{len(self._answers)} sites answered the unmask, expected {self._parameters.threshold}",
                missing=missing,
            )
        secrets = reconstruct(self._answers, self._agreed, threshold=self._parameters.threshold)
        commitments = {place: self._shares[place].seed_commitment for place in self._agreed.survivors}
        require_committed(secrets, self._agreed, commitments=commitments, adverts=self._keys, context=self._context)
        masks = masks_in_sum(secrets, self._agreed, adverts=self._keys, context=self._context)
        self._step = None  # the sum is unmasked once
        add_masks(accumulator, [mask.inverse() for mask in masks], threads=threads)
        names = self._cohort.names
        return Sum(
            vector=accumulator,
            survivors=self._names(self._agreed.survivors),
            clipped_counts={names[place]: self._masked[place].clipped for place in self._agreed.survivors},
            parameters=self._parameters,
        )

    # --- all steps ---------------------------------------------------------------------------------------------------

    def _verify(self, step: Step, raw: bytes) -> tuple[int, bytes, bool]:
        """Return the sender's place, the body, and whether it is the first; refuse a second that differs."""
        self._require(step)
        message = Signed.parse(raw)
        body = message.verify(step, context=self._context, cohort=self._cohort)
        place = self._cohort.index(message.sender)
        known = self._received[step].get(place)
        if known not in {None, raw}:
            raise self._refusal(place, f"sent two different {step} messages")
        return place, body, known is None

    def _keep(self, step: Step, place: int, raw: bytes) -> None:
        self._received[step][place] = raw

    def _require(self, step: Step) -> None:
        if self._step is not step:
            raise OutOfOrderError(f"the round is at the step {self._step or 'done'}, expected {step}")

    def _names(self, places: Iterable[int]) -> tuple[str, ...]:
        return tuple(self._cohort.names[place] for place in sorted(places))

    def _refusal(self, place: int, what: str) -> PeerRefusedError:
        site = self._cohort.names[place]
        return PeerRefusedError(f"{site} {what}", sites=(site,))

    @property
    def _keys(self) -> Adverts:
        if self._adverts is None:
            raise OutOfOrderError("the adverts are not yet closed")
        return self._adverts
