"""An administrator ends a job in the middle of a round, or while it waits for somebody."""

import pytest

from tests.fakes.programs import Program, children_of, gone
from tests.fakes.running import NAMES

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOUR = NAMES[:4]


async def test_job_aborted_in_mid_round_ends_and_leaves_nothing_at_the_sites(fed):
    before = {site: children_of(fed.programs[site].pid) for site in FOUR}
    heard = {site: len(fed.programs[site].lines) for site in FOUR}
    with fed.gates(FOUR, round_number=1):
        job = await fed.submit(rounds=3, sites=FOUR)
        for site in FOUR:
            await fed.trains(site, round_number=1)
        trainers = {site: children_of(fed.programs[site].pid) - before[site] for site in FOUR}
        assert all(trainers.values())
        status, lines = await Program.run("job", "abort", job.job_id, "--config", fed.admin_settings)
        assert (status, lines[-1]) == (0, f"job {job.job_id} aborted")
        end = await job.ended()
    assert (end.state, end.text) == ("aborted", "aborted by admin")
    assert [failure.text for failure in job.failures] == ["aborted by admin"]
    for site in FOUR:
        await fed.programs[site].said(f"job {job.job_id} has aborted: aborted by admin", since=heard[site])
        assert await gone(trainers[site])
        await fed.emptied(site)


@pytest.mark.slow
async def test_job_that_waits_for_a_site_can_be_aborted(fed):
    await fed.stop("hospital-d")
    job = await fed.submit(sites=FOUR)
    await job.told(lambda event: event.kind == "waiting" and "hospital-d" in event.text)
    await fed.session.abort(job.job_id)
    assert (await job.ended()).state == "aborted"


async def test_job_that_is_not_there_cannot_be_aborted(fed):
    status, lines = await Program.run("job", "abort", "nothing", "--config", fed.admin_settings)
    assert status != 0
    assert [line for line in lines if line.startswith("error: ")] == ["error: there is no job 'nothing'"]
    assert "Traceback" not in "\n".join(lines)
