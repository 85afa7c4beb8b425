"""All attacks on a running federation: most at the same time, then the one that takes the server's place."""

from __future__ import annotations

import asyncio

from fl_runtime.demo.attacks.jobs import forbidden_job, two_models
from fl_runtime.demo.attacks.machines import impersonate
from fl_runtime.demo.attacks.strangers import replay, unattested
from fl_runtime.demo.ground import AttackOutcome, DemoGround


async def run_attacks(ground: DemoGround) -> tuple[AttackOutcome, ...]:
    """Make nine attacks through the interfaces that everybody uses; the tenth, on the record, is `tamper_with_audit`.

    Each counts as refused only where the check that is there for it refused it. The federation is as it was afterwards,
    but that its server has booted twice more: once as the liar, once as itself.

    Raises:
        DemoError: The federation could not be left as it was.
    """
    first, *_, last = ground.sites
    replayed, machines, unattested_caller, job = await asyncio.gather(
        replay(ground, victim=first),
        impersonate(ground, victim=first, other=last),
        unattested(ground, victim=first),
        forbidden_job(ground),
    )
    *others, gpu = machines
    lie = await two_models(ground, victim=last)
    return (replayed, *others, unattested_caller, gpu, lie, job)
