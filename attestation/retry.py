"""One way to try again: only what is retryable, with growing jittered waits, saying so once; never inside a decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from policies.errors import CloisterError

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 15.0


def is_retryable(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, CloisterError) and error.retryable


async def persistently(call: Callable[[], Awaitable[T]], *, what: str, say: Callable[[str], None]) -> T:
    """Call until it succeeds or fails for good; the person at the terminal is told of each new reason.

    Raises:
        CloisterError: An error that is not retryable.
    """
    told: set[str] = set()

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, CloisterError) and error.code not in told and state.attempt_number > 2:
            told.add(error.code)
            say(f"{what} does not succeed yet, trying again: {error.message}")

    retrying = AsyncRetrying(
        retry=retry_if_exception(is_retryable),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS),
        before_sleep=tell,
        reraise=True,
    )

    async def once() -> T:  # tenacity looks whether what it is given is a coroutine function; a lambda is none
        return await call()

    return await retrying(once)
