"""Token buckets: how often one caller may ask."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from policies.errors import CloisterError

MAX_BUCKETS = 10_000


class TooManyRequestsError(CloisterError):
    """The caller asked too often; the same call may succeed later."""

    code = "attestation.too_many_requests"
    retryable = True


@dataclass(slots=True)
class RateLimit:
    """At most `burst` at once and `per_minute` in the long run, for each key."""

    what: str
    burst: int
    per_minute: int
    clock: Callable[[], float]  # seconds, monotonic
    _buckets: dict[Hashable, tuple[float, float]] = field(default_factory=dict)  # key -> (tokens, at)

    def take(self, key: Hashable) -> None:
        """Take one token of `key`.

        Raises:
            TooManyRequestsError: None is left.
        """
        now = self.clock()
        if len(self._buckets) >= MAX_BUCKETS:  # a flood of invented keys: forget those that are full again
            self._buckets = {k: v for k, v in self._buckets.items() if self._refilled(v, now) < self.burst}
        tokens = self._refilled(self._buckets.get(key, (float(self.burst), now)), now)
        if tokens < 1:
            wait = (1 - tokens) * 60 / self.per_minute
            raise TooManyRequestsError(
                f"{self.what}: more than {self.per_minute} a minute", hint=f"try again in {wait:.1f} seconds"
            )
        self._buckets[key] = (tokens - 1, now)

    def _refilled(self, bucket: tuple[float, float], now: float) -> float:
        tokens, at = bucket
        return min(float(self.burst), tokens + (now - at) * self.per_minute / 60)
