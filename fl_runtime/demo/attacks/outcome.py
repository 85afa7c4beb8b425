"""How an attack is judged: it counts as refused only where the check that is there for it refused it, in its own words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence

from fl_runtime.demo.ground import AttackOutcome
from policies.errors import CloisterError

LONGEST_REASON = 200  # characters: one row of a table
_LONG_HEX = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{8,}…?")  # digests and ids: eight digits tell them apart


async def attempt(
    name: str, work: Awaitable[object], *, code: str, says: str, seconds: float, told: str | None = None
) -> AttackOutcome:
    """Make an attempt that must be refused.

    Args:
        name: Of the attack.
        work: The attempt; it succeeds when it returns.
        code: Of the error that must end it.
        says: What that error's message must hold, so that another check's refusal does not count.
        seconds: How long it may take.
        told: What to give as the reason; the error's own message where not said.

    Returns:
        Refused only if it ended with this error; else what happened instead. Nothing that an attempt does is raised.
    """
    try:
        async with asyncio.timeout(seconds):
            await work
    except CloisterError as error:
        if error.code == code and says in error.message:
            return AttackOutcome(name=name, refused=True, reason=shortened(told or error.message))
        reason = f"ended for another reason ({error.code}): {error.message}"
    except TimeoutError:
        reason = f"no answer within {seconds:g} s"
    except OSError as error:
        reason = f"the attack could not be made: {error}"
    else:
        reason = "was accepted"
    return AttackOutcome(name=name, refused=False, reason=shortened(reason))


def together(name: str, outcomes: Sequence[AttackOutcome]) -> AttackOutcome:
    """Join several attempts at one attack: it is refused where every one is, and the reasons are told one after the other.

    Where one was not refused, only what was not is told.
    """
    failed = [outcome for outcome in outcomes if not outcome.refused]
    reason = "; ".join(dict.fromkeys(outcome.reason for outcome in failed or outcomes))  # each once, in order
    return AttackOutcome(name=name, refused=bool(outcomes) and not failed, reason=shortened(reason))


def shortened(text: str) -> str:
    """Cut a reason to what a row of a table can hold: one line, long hex abbreviated."""
    line = _LONG_HEX.sub(r"\1…", " ".join(text.split()))
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"
