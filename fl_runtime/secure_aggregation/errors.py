"""Everything that can go wrong while masked updates are summed.

AggregationError
├── ParametersRefusedError    the job's parameters hide too little, overflow the ring, or exceed a site's policy
├── MalformedUpdateError      an update has NaN or infinite values, or other segments than were agreed
├── MalformedMessageError     the bytes of a message do not follow the format
├── PeerRefusedError          a message is forged, replayed, or its sender was shown something else; names the sites
├── OutOfOrderError           a step was asked for before its turn, or a second time
├── BelowThresholdError       too few sites or organisations are left; names who is missing; the job parks
├── ConsistencyError          sites were shown different survivors, or too few agree on them
├── ShareMismatchError        shares do not give back what their owner committed to; names the owners
├── RoundAbandonedError       this site may take no further part in this round
└── ImplausibleSumError       the unmasked sum cannot come from clipped updates: masks did not cancel
"""

from __future__ import annotations

from collections.abc import Iterable

from policies.errors import CloisterError


class AggregationError(CloisterError):
    """A secure sum is not as it must be."""

    code = "aggregation"


class ParametersRefusedError(AggregationError):
    """The job's parameters hide too little, overflow the ring, or exceed a site's policy."""

    code = "aggregation.parameters"


class MalformedUpdateError(AggregationError):
    """An update has NaN or infinite values, or other segments than were agreed."""

    code = "aggregation.update"


class MalformedMessageError(AggregationError):
    """The bytes of a message do not follow the format."""

    code = "aggregation.message"


class PeerRefusedError(AggregationError):
    """A message is forged or replayed, or its sender was shown something else.

    Args:
        message: What was found and what was expected.
        sites: The sites it is about, by name.
    """

    code = "aggregation.peer"

    def __init__(self, message: str, *, sites: Iterable[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sites = tuple(sites)


class OutOfOrderError(AggregationError):
    """A step was asked for before its turn, or a second time."""

    code = "aggregation.order"


class BelowThresholdError(AggregationError):
    """Too few sites or organisations are left to hide anyone; may pass when the missing return.

    Args:
        message: How many there are and how many are needed.
        missing: Sites of the cohort that are not there, by name.
    """

    code = "aggregation.threshold"
    retryable = True

    def __init__(self, message: str, *, missing: Iterable[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.missing = tuple(missing)


class ConsistencyError(AggregationError):
    """Sites were shown different survivors, or too few agree on them."""

    code = "aggregation.consistency"


class ShareMismatchError(AggregationError):
    """Shares do not give back the seed or key that their owner committed to.

    Args:
        message: What does not fit.
        sites: The owners, by name. Either they dealt bad shares, or a site that answered altered some.
    """

    code = "aggregation.shares"

    def __init__(self, message: str, *, sites: Iterable[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sites = tuple(sites)


class RoundAbandonedError(AggregationError):
    """This site may take no further part in this round; the model stays and the next round trains again."""

    code = "aggregation.abandoned"


class ImplausibleSumError(AggregationError):
    """The unmasked sum cannot come from clipped updates: masks did not cancel, or a site did not encode as agreed."""

    code = "aggregation.sum"
