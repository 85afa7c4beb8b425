"""T7, T9 and T11 in a whole federation: certificates without attestation, a server that lies, a job that is not allowed."""

from dataclasses import replace

import pytest
import pytest_asyncio

from fl_runtime.demo.attacks import run_attacks
from fl_runtime.demo.attacks.jobs import two_models
from fl_runtime.demo.attacks.strangers import unattested
from fl_runtime.demo.ground import cloister
from tests.fakes.ground import ground_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory):
    async with ground_of(tmp_path_factory.mktemp("t7"), sites_run=True) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(ground):
    return {outcome.name: outcome for outcome in await run_attacks(ground)}


async def test_every_attack_on_a_running_federation_is_refused(outcomes):
    assert len(outcomes) == 9
    assert {name: outcome.reason for name, outcome in outcomes.items() if not outcome.refused} == {}


async def test_every_attack_is_refused_with_a_reason_of_its_own(outcomes):
    assert len({outcome.reason for outcome in outcomes.values()}) == 9


async def test_t7_caller_without_attestation_reaches_neither_server_nor_service(outcomes):
    reason = outcomes["certificate without attestation"].reason
    assert "admin is an administrator, this call is for attested nodes" in reason
    assert "ends in the TLS handshake" in reason


async def test_t9_every_honest_site_names_the_one_that_was_shown_another_model(outcomes):
    reason = outcomes["server that shows one site a different model"].reason
    assert reason.startswith("hospital-a, hospital-b, hospital-c: hospital-d was shown something else than this site")
    assert "model_hash" in reason


async def test_t11_site_says_which_fields_of_its_policy_a_job_exceeds(outcomes):
    reason = outcomes["job that the sites' policies do not allow"].reason
    assert "execute.max_rounds: job has 100000, allowed are 1000" in reason
    assert "returns.metrics: job wants worst-image, allowed are accuracy" in reason


async def test_honest_job_completes_once_the_attacks_are_over(ground, outcomes):
    admin = ground.laboratory.kit("admin") / "admin.toml"
    finished = await ground.programs.run("submit-honest", cloister("job", "submit", ground.job, "--config", admin))
    assert finished.exit_code == 0, finished.errors


async def test_server_in_the_liars_place_that_does_not_lie_is_not_counted_as_refused(ground, outcomes):
    """The judge is not blind: with nobody to lie to, the job completes."""
    outcome = await two_models(replace(ground, timeout_seconds=10.0), victim="hospital-e")
    assert (outcome.refused, outcome.reason) == (False, "the job completed")


async def test_caller_is_not_counted_as_refused_where_the_port_does_not_answer(ground, outcomes):
    await ground.programs.stop("server")
    try:
        outcome = await unattested(ground, victim="hospital-a")
    finally:
        await ground.start_server()
    assert not outcome.refused
    assert "ended for another reason (channel.unreachable)" in outcome.reason
