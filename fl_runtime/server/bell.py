"""A bell: rung when something may have changed; whoever waits looks for themselves. No polling, no sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Bell:
    """Wakes one waiter. Ringing while nobody waits is remembered once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something may have changed."""
        self._event.set()

    async def until(self, holds: Callable[[], bool], *, deadline: float | None) -> bool:
        """Wait until `holds()` or until `deadline` (monotonic seconds; None for ever); says whether it holds."""
        while not holds():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._event.clear()
            try:
                await asyncio.wait_for(self._event.wait(), left)
            except TimeoutError:
                return holds()
        return True
