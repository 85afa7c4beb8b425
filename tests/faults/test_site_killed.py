"""A site is killed in the middle of a round: the round completes, the next one waits for it by name, or does not need it."""

import numpy as np
import pytest

from tests.fakes.running import NAMES, ROUNDING

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOUR = NAMES[:4]
LOST = "hospital-d"


def waits_for(site):
    return lambda event: event.kind == "waiting" and list(event.sites) == [site]


async def test_site_killed_before_its_upload_is_left_out_and_the_next_round_waits_for_its_return(fed):
    with fed.gates([LOST], round_number=0):
        job = await fed.submit(rounds=2, sites=FOUR)
        await fed.trains(LOST, round_number=0)
        await fed.kill(LOST)
        assert list((await job.round(1)).sites) == ["hospital-a", "hospital-b", "hospital-c"]
    waiting = await job.told(waits_for(LOST))
    assert "hospital-d" in waiting.text
    assert "3 of at least 4 sites are here" in waiting.text
    assert list(fed.work(LOST).iterdir())  # what it was at when it was killed
    await fed.start_site(LOST)
    assert (await job.ended()).state == "completed"
    await fed.emptied(LOST)
    assert list((await job.round(2)).sites) == list(FOUR)
    # Sites add 1/8, 2/8, 3/8 and 4/8: the mean of the first three, then of all four.
    np.testing.assert_allclose(await fed.model(job), 2 / 8 + 2.5 / 8, atol=ROUNDING)
    await fed.verify_record()


async def test_site_killed_after_its_upload_is_counted_and_the_next_round_waits_for_its_return(fed):
    server, slow = fed.programs["server"], "hospital-a"
    with fed.gates([slow], round_number=0):
        heard = len(server.lines)
        job = await fed.submit(rounds=2, sites=FOUR)
        goes_on = await fed.trains(slow, round_number=0)
        await server.said(f"update counted job={job.job_id} round=0 site={LOST}", since=heard)
        await fed.kill(LOST)
        goes_on()
        assert list((await job.round(1)).sites) == list(FOUR)
    await job.told(waits_for(LOST))
    await fed.start_site(LOST)
    assert (await job.ended()).state == "completed"
    np.testing.assert_allclose(await fed.model(job), 2 * 2.5 / 8, atol=ROUNDING)


async def test_job_of_five_that_needs_four_goes_on_without_a_killed_site(fed):
    with fed.gates([LOST], round_number=0):
        job = await fed.submit(rounds=2, min_sites=4)
        await fed.trains(LOST, round_number=0)
        await fed.kill(LOST)
        assert (await job.ended()).state == "completed"
    left = [name for name in NAMES if name != LOST]
    assert [list((await job.round(number)).sites) for number in (1, 2)] == [left, left]
    assert not [event for event in job.events if event.text.startswith("waiting for the return")]
