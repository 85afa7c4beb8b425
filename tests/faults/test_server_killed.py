"""The server is killed in the middle of a round: nothing is corrupt, the job is marked, and can be submitted again."""

import sqlite3

import numpy as np
import pytest

from tests.fakes.running import NAMES, ROUNDING

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOUR = NAMES[:4]


async def test_server_killed_in_mid_round_marks_the_job_as_failed_and_keeps_its_state_and_record_whole(fed):
    with fed.gates(["hospital-a"], round_number=1):
        job = await fed.submit(rounds=3, sites=FOUR)
        await fed.trains("hospital-a", round_number=1)
        await fed.kill("server")
    restarted = await fed.start_server()
    await restarted.said(f"job {job.job_id} was interrupted when this server stopped: it is marked as failed")
    end = await job.ended()
    assert (end.state, end.text) == ("failed", "the server stopped while the job was running")
    store = sqlite3.connect(f"file:{fed.laboratory.state('server') / 'jobs.sqlite'}?mode=ro", uri=True)
    assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert store.execute("SELECT state, rounds_done FROM jobs WHERE job_id = ?", (job.job_id,)).fetchall() == [
        ("failed", 1)
    ]
    store.close()

    for site in FOUR:
        await fed.emptied(site)

    again = await fed.submit(rounds=1, sites=FOUR)
    assert again.job_id != job.job_id
    assert (await again.ended()).state == "completed"
    np.testing.assert_allclose(await fed.model(again), 2.5 / 8, atol=ROUNDING)
    verified = await fed.verify_record()
    boots = [record for record in verified.records if record.log == "server" and record.action == "log.open"]
    assert len(boots) >= 2
