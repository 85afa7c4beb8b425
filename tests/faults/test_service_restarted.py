"""The attestation service is restarted while everything runs: nodes verify it again and go on."""

import pytest

from tests.fakes.running import NAMES

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOUR = NAMES[:4]


async def test_job_submitted_after_the_service_was_restarted_completes(fed):
    await fed.stop_service()
    await fed.lab.start_service()
    job = await fed.submit(rounds=2, sites=FOUR)
    assert (await job.ended()).state == "completed", job.events
    record = await fed.verify_record()
    boots = [entry for entry in record.records if entry.log == "service" and entry.action == "log.open"]
    assert len(boots) >= 2


@pytest.mark.slow
async def test_job_whose_rounds_have_begun_does_not_need_the_service(fed):
    with fed.gates(["hospital-a"], round_number=0):
        job = await fed.submit(rounds=2, sites=FOUR)
        goes_on = await fed.trains("hospital-a", round_number=0)
        await fed.stop_service()
        goes_on()
        assert (await job.ended()).state == "completed", job.events
    await fed.lab.start_service()


@pytest.mark.slow
async def test_site_that_starts_while_the_service_is_down_joins_when_it_is_back(fed):
    await fed.stop("hospital-d")
    await fed.stop_service()
    starting = await fed.start("hospital-d")
    await starting.said("attestation does not succeed yet, trying again")
    await fed.lab.start_service()
    await starting.said("channel open")
