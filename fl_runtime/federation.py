"""What a server-side algorithm may ask of the sites. It sees sums and named metrics, never one site's update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fl_runtime.arrays import ModelArrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train this model on what each site has."""

    model: ModelArrays = field(repr=False)
    round: int  # from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What a `reduce` gives: a weighted mean over the survivors, and nothing of any one of them."""

    model: ModelArrays = field(repr=False)  # the mean of the survivors' models, each weighted by its samples
    sample_count: float  # behind it, each site's capped by the job's weight_cap
    survivors: tuple[str, ...]
    clipped: int  # coordinates that the clip bound touched, over all survivors
    metrics: Mapping[str, Mapping[str, float]]  # by name, then by site: only those that each site's policy lets out

    def mean(self) -> ModelArrays:
        """The model that the sites' models average to."""
        return self.model


class Federation(Protocol):
    """The sites of one job, as an algorithm sees them."""

    def reduce(self, task: Train) -> Total:
        """Have every site of the cohort do `task`, and return the sum over those that finished.

        Raises:
            JobFailedError: No sum can be had: a site's script raised, or the job was aborted.
        """
        ...
