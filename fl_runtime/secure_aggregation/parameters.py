"""What a job's sites agree to before a sum: sizes, bounds, thresholds. Part of the signed job manifest.

The server never supplies these. Each site compares them with its own policy (`Limits`) before it takes part, and their
digest is in every message, so that two sites with different parameters notice before either masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from fl_runtime.secure_aggregation.errors import ParametersRefusedError
from policies.documents import Document
from policies.encoding import lp, sha256
from policies.errors import MalformedDocumentError

MICROS = 1_000_000  # clip bounds are integers in millionths, because documents hold no floats
SMALLEST_COHORT = 4  # with 3 or fewer, masks hide nothing or allow no drop-out
FEWEST_ORGANISATIONS = 3  # of two, each could read the other out of the sum
LARGEST_COHORT = 200  # one complete graph; more sites are summed cohort by cohort

SegmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]*$", max_length=256)]
WeightKind: TypeAlias = Literal["samples", "one"]
WEIGHT_KINDS: tuple[WeightKind, ...] = ("samples", "one")  # their order in a vector


def threshold_for(members: int) -> int:
    """Return t = floor(2n/3) + 1: how many of n must agree, and hold shares that together unmask.

    Two survivor sets for one round then need 2t - n > n/3 members that take part in both.
    """
    return 2 * members // 3 + 1


class Segment(Document):
    """A run of coordinates that share a bound and a weight: a whole model, or one tensor of it."""

    name: SegmentName
    length: int = Field(ge=1, le=1 << 36)  # coordinates
    clip_micros: int = Field(ge=1, le=10**15)  # bound C of each coordinate's absolute value, in millionths
    weight: WeightKind  # multiplied by the site's share of samples, or by one

    @property
    def clip(self) -> float:
        """The bound C."""
        return self.clip_micros / MICROS


class Limits(Document):
    """The parameters that one site's policy lets through."""

    max_sites: int = Field(ge=SMALLEST_COHORT)
    max_words: int = Field(ge=1)  # of a vector
    max_clip_micros: int = Field(ge=1)
    max_weight_cap: int = Field(ge=1)
    min_survivors: int = Field(ge=3)
    min_organisations: int = Field(ge=FEWEST_ORGANISATIONS)


class Parameters(Document):
    """How one job's updates are encoded, masked and summed. Constructing one checks that it hides what it must.

    A vector is, for each kind of weight that occurs: its segments in order, then one word that sums to their weight.
    """

    n_max: int  # sites in the largest cohort; the ring has room for exactly so many
    ring_bits: Literal[32, 64]
    threshold: int  # t of the secret sharing
    min_survivors: int = Field(ge=3)
    min_organisations: int = Field(ge=FEWEST_ORGANISATIONS)
    weight_cap: int = Field(ge=1)  # W_max: a site counts for min(its samples, W_max) / W_max
    segments: tuple[Segment, ...] = Field(min_length=1, max_length=8192)

    @classmethod
    def for_sites(
        cls,
        n_max: int,
        *,
        segments: Iterable[Segment],
        weight_cap: int,
        ring_bits: Literal[32, 64] = 32,
        min_survivors: int = 3,
    ) -> Self:
        """Return the usual parameters for cohorts of at most `n_max` sites.

        Raises:
            ParametersRefusedError: They hide too little or overflow the ring.
        """
        return cls(
            n_max=n_max,
            ring_bits=ring_bits,
            threshold=threshold_for(n_max),
            min_survivors=min_survivors,
            min_organisations=FEWEST_ORGANISATIONS,
            weight_cap=weight_cap,
            segments=tuple(segments),
        )

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the bytes of a document.

        Raises:
            ParametersRefusedError: The same, and parameters that hide too little or overflow the ring.
        """
        try:
            return super().parse(raw)
        except MalformedDocumentError as error:
            raise ParametersRefusedError(str(error)) from error

    @model_validator(mode="after")
    def _hides_and_fits(self) -> Self:
        # ParametersRefusedError is no ValueError, so pydantic lets it through as it is.
        if not SMALLEST_COHORT <= self.n_max <= LARGEST_COHORT:
            raise ParametersRefusedError(
                f"n_max is {self.n_max}, expected {SMALLEST_COHORT} to {LARGEST_COHORT}",
                hint="with two or three sites masks hide nothing or allow no drop-out: choose the profile `tee`",
            )
        if not threshold_for(self.n_max) <= self.threshold <= self.n_max:
            raise ParametersRefusedError(
                f"threshold is {self.threshold}, expected {threshold_for(self.n_max)} to {self.n_max} for {self.n_max} sites"
            )
        if not max(self.min_survivors, self.min_organisations) <= self.n_max:
            raise ParametersRefusedError(
                f"min_survivors {self.min_survivors} or min_organisations {self.min_organisations} exceeds n_max {self.n_max}"
            )
        if self.weight_cap > self.full_scale:
            raise ParametersRefusedError(
                f"weight_cap is {self.weight_cap}, at most {self.full_scale} fits {self.ring_bits} bits and {self.n_max} sites",
                hint="lower weight_cap or choose ring_bits 64",
            )
        names = [segment.name for segment in self.segments]
        if len(set(names)) != len(names):
            raise ParametersRefusedError("two segments have one name")
        return self

    @property
    def full_scale(self) -> int:
        """Q = floor((2^(bits-1) - 1) / n_max): no site's word exceeds it, so no sum of n_max words wraps."""
        return ((1 << (self.ring_bits - 1)) - 1) // self.n_max

    @property
    def layout(self) -> tuple[tuple[WeightKind, tuple[Segment, ...]], ...]:
        """The segments of each kind of weight that occurs, in the order of the vector; one weight word follows each."""
        groups = ((kind, tuple(s for s in self.segments if s.weight == kind)) for kind in WEIGHT_KINDS)
        return tuple((kind, segments) for kind, segments in groups if segments)

    @property
    def words(self) -> int:
        """Length of a vector in ring words: all coordinates, and one weight for each kind that occurs."""
        return sum(segment.length for segment in self.segments) + len(self.layout)

    @property
    def largest_clip_micros(self) -> int:
        """The widest bound of any segment, in millionths."""
        return max(segment.clip_micros for segment in self.segments)

    def digest(self) -> bytes:
        """SHA-256 that names these parameters in every message, 32 bytes."""
        return sha256("params", lp(self.encode()))

    def check_against(self, limits: Limits) -> None:
        """Refuse what a site's policy does not let through.

        Raises:
            ParametersRefusedError: Lists every field out of bounds.
        """
        at_most = {
            "n_max": (self.n_max, limits.max_sites),
            "words": (self.words, limits.max_words),
            "clip_micros": (self.largest_clip_micros, limits.max_clip_micros),
            "weight_cap": (self.weight_cap, limits.max_weight_cap),
        }
        at_least = {
            "min_survivors": (self.min_survivors, limits.min_survivors),
            "min_organisations": (self.min_organisations, limits.min_organisations),
        }
        reasons = [f"{name} is {found}, at most {bound}" for name, (found, bound) in at_most.items() if found > bound]
        reasons += [
            f"{name} is {found}, at least {bound}" for name, (found, bound) in at_least.items() if found < bound
        ]
        if reasons:
            raise ParametersRefusedError(f"this site's policy does not allow the parameters: {'; '.join(reasons)}")
