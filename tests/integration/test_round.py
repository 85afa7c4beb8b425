"""Whole rounds of four real sites: what is summed, who may take part, and what the programs load."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from tests.fakes.programs import Program
from tests.fakes.running import NAMES, ROUNDING, federation, script

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOUR = NAMES[:4]
BYPASS = (
    "import fl_runtime.client.context as context; context.from_script = lambda params, layout: params; "
    "import fl_runtime.arrays as arrays; arrays.require_finite = lambda params: None; "
    "params = {'weight': np.full((3, 4), np.nan, np.float32)} if flare.get_site_name() == 'hospital-b' else params"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fed(tmp_path_factory):
    async with federation(tmp_path_factory.mktemp("round"), sites=4) as running:
        yield running


async def test_model_of_a_job_is_the_initial_one_and_every_round_s_mean(fed):
    blobs = fed.laboratory.state("server") / "blobs"
    before = set(blobs.glob("*"))
    job = await fed.submit(rounds=3)
    assert (await job.ended()).state == "completed"
    assert len(set(blobs.glob("*")) - before) <= 3  # code, initial model, final model: those between are let go
    np.testing.assert_allclose(await fed.model(job), 3 * 2.5 / 8, atol=ROUNDING)
    for number in (1, 2, 3):
        event = await job.round(number)
        assert list(event.sites) == list(FOUR)
        accuracy = event.metrics["accuracy"]
        assert dict(accuracy.by_site) == {site: index / 8 for index, site in enumerate(FOUR, start=1)}
        assert accuracy.mean == pytest.approx(2.5 / 8)
    await fed.verify_record()


async def test_job_that_wants_a_metric_that_a_site_s_policy_does_not_let_out_is_refused(fed):
    job = await fed.submit(settings='metrics = ["accuracy", "loss"]')
    end = await job.ended()
    assert end.state == "failed"
    assert "returns.metrics: job wants loss, allowed are accuracy" in end.text


async def test_metric_that_a_job_does_not_ask_for_stays_at_the_site(fed):
    job = await fed.submit(code=script().replace('"accuracy": step', '"accuracy": step, "loss": step'))
    assert (await job.ended()).state == "completed"
    assert list((await job.round(1)).metrics) == ["accuracy"]


async def test_nan_of_a_script_that_bypasses_its_own_checks_does_not_reach_the_sum(fed):
    """The site refuses what its trainer answers, and drops out of the round; the others go on."""
    job = await fed.submit(rounds=1, code=script(BYPASS))
    assert (await job.ended()).state == "completed"
    done = await job.round(1)
    assert list(done.sites) == ["hospital-a", "hospital-c", "hospital-d"]
    assert "hospital-b: tensor weight holds NaN" in done.text
    np.testing.assert_allclose(await fed.model(job), (1 + 3 + 4) / 3 / 8, atol=ROUNDING)


async def test_two_jobs_at_the_same_time_do_not_disturb_each_other(fed):
    one, other = await asyncio.gather(fed.submit(rounds=2), fed.submit(rounds=3))
    assert [(await job.ended()).state for job in (one, other)] == ["completed", "completed"]
    np.testing.assert_allclose(await fed.model(one), 2 * 2.5 / 8, atol=ROUNDING)
    np.testing.assert_allclose(await fed.model(other), 3 * 2.5 / 8, atol=ROUNDING)


def loaded_by(pid):
    return Path(f"/proc/{pid}/maps").read_text()


async def test_programs_that_do_not_train_have_loaded_neither_torch_nor_scikit_learn(fed):
    job = await fed.submit(rounds=1)
    await job.ended()
    for name, program in fed.programs.items():
        maps = loaded_by(program.pid)
        assert "/grpc/" in maps
        assert not [lib for lib in ("torch", "sklearn", "scipy") if f"/site-packages/{lib}/" in maps], name


PROGRAMS = (
    *("fl_runtime.server.program", "fl_runtime.site.program", "attestation.service.program"),
    *("attestation.mock_tee.server", "attestation.mock_tee.cli", "fl_runtime.jobs.administrator", "fl_runtime.cli"),
    *("policies.audit", "policies.cli"),
)


async def test_no_program_that_does_not_train_imports_torch_or_scikit_learn():
    code = f"import sys, {', '.join(PROGRAMS)}; print(*sorted({{'torch', 'sklearn'}} & set(sys.modules)), 'end')"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "end"


async def test_job_whose_workflow_a_person_follows_tells_each_round_once(fed):
    folder = fed.job_folder(rounds=2)
    status, lines = await Program.run("job", "submit", folder, "--config", fed.admin_settings)
    assert status == 0, lines
    assert [line.split("   ")[0] for line in lines if line.startswith("round ")] == ["round 1/2", "round 2/2"]
    assert lines[-1] == "job completed"
