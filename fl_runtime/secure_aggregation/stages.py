"""Update → ClippedUpdate → MaskedUpdate → Sum: one type for each stage, so that a skipped step does not type-check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fl_runtime.secure_aggregation.parameters import Parameters

Floats: TypeAlias = npt.NDArray[np.float32]
RingVector: TypeAlias = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
Randomness: TypeAlias = Callable[[int], bytes]  # n -> n bytes, cryptographic outside tests: `secrets.token_bytes`


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What training gave, unchecked: differences from the received model, by segment. Anything may be in it."""

    segments: Mapping[str, Floats] = field(repr=False)  # one flat float32 vector for each segment of the parameters
    sample_count: int  # examples that were trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedUpdate:
    """One site's update as ring words, finite and within bounds, **in the clear**: it never leaves the site's memory."""

    vector: RingVector = field(repr=False)
    clipped: Mapping[str, int]  # for each segment, how many coordinates lay outside its bound

    @property
    def clipped_count(self) -> int:
        """Coordinates that were clipped, in all segments."""
        return sum(self.clipped.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedUpdate:
    """One site's vector under all its masks: to anyone without the seeds, uniformly random words."""

    vector: RingVector = field(repr=False)
    clipped_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """The sum over the survivors, unmasked, in ring words; nothing of it belongs to one site alone."""

    vector: RingVector = field(repr=False)
    survivors: tuple[str, ...]
    clipped_counts: Mapping[str, int]  # what each survivor said it clipped
    parameters: Parameters
