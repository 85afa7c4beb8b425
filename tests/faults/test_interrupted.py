"""Ctrl-C in the terminal of a program ends it and everything it started, without a traceback, and closes its log."""

import pytest

from attestation.mock_tee.vendor import VENDOR_FILE
from policies.audit.folder import Folder
from policies.audit.frames import read_frames
from policies.audit.record import Record
from tests.fakes.federation import laboratory, vendor_file
from tests.fakes.programs import Program, children_of, gone
from tests.fakes.running import NAMES

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOUR = NAMES[:4]


def last_action(folder):
    entries = [entry for _, entry in read_frames((folder / Folder.RECORDS).read_bytes())]
    return Record.parse(entries[-1]).action


async def interrupt(fed, name):
    program = fed.programs.pop(name)
    started = children_of(program.pid)
    program.interrupt()
    status = await program.ended()
    await program.__aexit__()
    assert status == 0, program.text
    assert "Traceback" not in program.text
    assert await gone(started)
    return started


async def test_interrupted_site_in_mid_round_leaves_no_launcher_and_no_trainer_and_closes_its_log(fed):
    with fed.gates(["hospital-b"], round_number=0):
        job = await fed.submit(sites=FOUR)
        await fed.trains("hospital-b", round_number=0)
        started = await interrupt(fed, "hospital-b")
        assert len(started) == 2  # the launcher and the trainer
        assert last_action(fed.laboratory.audit("hospital-b")) == "log.close"
        assert not list(fed.work("hospital-b").glob("**/*"))
        assert list((await job.round(1)).sites) == ["hospital-a", "hospital-c", "hospital-d"]


async def test_interrupted_server_in_mid_round_ends_its_jobs_and_closes_its_log(fed):
    with fed.gates(["hospital-b"], round_number=0):
        job = await fed.submit(sites=FOUR)
        await fed.trains("hospital-b", round_number=0)
        await interrupt(fed, "server")
        end = await job.ended()
    assert (end.state, end.text) == ("aborted", "the server is shutting down")
    assert last_action(fed.laboratory.audit("server")) == "log.close"
    for site in FOUR:
        await fed.emptied(site)


async def test_node_interrupted_while_it_waits_for_the_service_ends_at_once(fed, tmp_path):
    """Nobody listens at the address of the service: the node tries again and again, until it is told to stop."""
    for node, group in (("server", "server"), ("hospital-a", "site")):
        kit = fed.laboratory.kit(node)
        text = (kit / f"{group}.toml").read_text()
        changed = text.replace(fed.laboratory.layout.addresses.enrol, "127.0.0.1:1")
        changed = changed.replace(str(fed.laboratory.state(node)), str(tmp_path / f"{node}-state"))
        changed = changed.replace(str(fed.laboratory.audit(node)), str(tmp_path / "audit" / node))
        changed = changed.replace('kit = "."', f'kit = "{kit}"')
        changed = changed.replace(fed.laboratory.layout.addresses.server, "127.0.0.1:0")
        (tmp_path / "audit").mkdir(exist_ok=True)
        config = tmp_path / f"{group}.toml"
        config.write_text(changed)
        async with await Program.start(node, group, "start", "--config", config) as program:
            await program.said("attestation does not succeed yet, trying again")
            program.interrupt()
            assert await program.ended() == 0, program.text
            assert "Traceback" not in program.text
        assert last_action(tmp_path / "audit" / node) == "log.close"


@pytest.mark.slow
async def test_interrupted_attestation_service_and_mock_tee_end_cleanly(tmp_path):
    async with laboratory(tmp_path / "lab", sites={"hospital-a": "north"}) as running:
        made = running.laboratory
        await running.stop_service()
        async with await Program.start("service", "attestation", "serve", "--config", made.service_settings) as service:
            await service.said("attestation service ready")
            service.interrupt()
            assert await service.ended() == 0, service.text
            assert "Traceback" not in service.text
        assert last_action(made.audit("service")) == "log.close"
    (tmp_path / "tee").mkdir()
    (tmp_path / "tee" / VENDOR_FILE).write_bytes(vendor_file())
    async with await Program.start("mock-tee", "mock-tee", "serve", "--dir", tmp_path / "tee") as tee:
        await tee.said("mock TEE ready")
        tee.interrupt()
        assert await tee.ended() == 0, tee.text
        assert "Traceback" not in tee.text
