"""Where a log takes its time from."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic_ns
from typing import Protocol


class Clock(Protocol):
    """Where a log takes its time from."""

    def now(self) -> datetime:
        """The time of day, with its zone."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds that never run back within a boot."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return monotonic_ns()
