"""T1 to T6 and T19: somebody who has a site's kit, or evidence that was genuine once, but not the machine that was granted."""

import asyncio
import socket
import ssl
from dataclasses import replace

import pytest
import pytest_asyncio

from fl_runtime.demo.attacks import machines
from fl_runtime.demo.attacks.machines import Impostor, enrol, impersonate
from fl_runtime.demo.attacks.strangers import replay
from tests.fakes.ground import ground_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

VICTIM, OTHER = "hospital-a", "hospital-d"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory):
    async with ground_of(tmp_path_factory.mktemp("t1"), sites_run=False) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(ground):
    return {outcome.name: outcome for outcome in await impersonate(ground, victim=VICTIM, other=OTHER)}


async def test_t2_evidence_that_is_replayed_or_altered_is_refused(ground):
    await enrol(ground, VICTIM, machine=VICTIM)  # the genuine evidence
    outcome = await replay(ground, victim=VICTIM)
    assert outcome.refused, outcome.reason
    assert "challenge id of the core" in outcome.reason
    assert "was used before" in outcome.reason


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("wrong measurement", "an image that north has not granted: measurement is"),  # T1
        ("evidence relayed by another machine", "hardware that north has not granted: snp-chip-id is"),  # T3
        ("debug guest", "snp.policy.debug is on, expected off"),  # T4
        ("stale TCB", "snp.reported_tcb is bootloader 3"),  # T5
        ("GPU evidence from another machine", "hardware that north has not granted: gpu-ueid is"),  # T6
    ],
)
async def test_t1_and_t3_to_t6_machine_that_is_not_the_granted_one_is_refused(outcomes, attack, reason):
    assert outcomes[attack].refused, outcomes[attack].reason
    assert reason in outcomes[attack].reason


async def test_attack_that_is_none_is_accepted_and_not_counted_as_refused(ground, monkeypatch):
    """The judge is not blind: a machine that differs in its name alone gets its identity."""

    def honest(own, *, lent_gpu):
        return (Impostor(attack="none", machine=replace(own, name="twin"), finding="anything"),)

    monkeypatch.setattr(machines, "_impostors", honest)
    (outcome,) = await impersonate(ground, victim=VICTIM, other=OTHER)
    assert (outcome.refused, outcome.reason) == (False, "was accepted")


def handshake(address, version):
    """Shake hands in one version of TLS, trusting anybody; returns the version that was agreed on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain, context.wrap_socket(plain) as secure:
        return secure.version()


async def test_t19_older_tls_than_1_3_is_not_spoken(ground):
    for address in (ground.laboratory.layout.addresses.enrol, ground.laboratory.layout.addresses.attested):
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(handshake, address, ssl.TLSVersion.TLSv1_2)
        assert await asyncio.to_thread(handshake, address, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
