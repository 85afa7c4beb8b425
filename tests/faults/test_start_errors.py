"""A program that cannot start says why in one message with a hint, ends with a status that is not 0, and shows no stack."""

import contextlib
import shutil
import socket

import pytest

from tests.fakes.programs import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXIT_USAGE = 64


@contextlib.contextmanager
def copied(fed, node, tmp_path, **changes):
    """A copy of a node's kit with its own state and record, and its settings changed."""
    kit = tmp_path / node
    shutil.copytree(fed.laboratory.kit(node), kit)
    name = "server.toml" if node == "server" else "site.toml"
    own = {"state": tmp_path / "state", "audit": tmp_path / "audit" / node}
    own |= {"listen": "127.0.0.1:0"} if node == "server" else {}
    own |= changes
    lines = [line for line in (kit / name).read_text().splitlines() if line.partition(" = ")[0] not in own]
    lines += [f'{key} = "{value}"' for key, value in own.items()]
    (kit / name).write_text("\n".join(lines) + "\n")
    (tmp_path / "audit").mkdir()
    yield kit, kit / name


def require_one_message(status, lines, *, says, hint, expected_status=EXIT_USAGE):
    said = "\n".join(lines)
    assert status == expected_status, said
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, said
    for text in says:
        assert text in errors[0]
    assert any(line.startswith("hint: ") and hint in line for line in lines), said
    assert "Traceback" not in said
    assert "  File " not in said


async def test_site_whose_data_is_missing_says_so(five, tmp_path):
    with copied(five, "hospital-a", tmp_path, data=tmp_path / "nowhere.npz") as (_, config):
        status, lines = await Program.run("site", "start", "--config", config)
    require_one_message(status, lines, says=["nowhere.npz does not exist"], hint="settings file")


async def test_server_whose_port_is_in_use_says_so(five, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with copied(five, "server", tmp_path, listen=address) as (_, config):
            status, lines = await Program.run("server", "start", "--config", config)
    require_one_message(status, lines, says=[f"cannot listen at {address}", "in use"], hint="another program")


async def test_attestation_service_whose_port_is_in_use_says_so(five, tmp_path):
    settings = tmp_path / "attestation.toml"
    text = five.laboratory.service_settings.read_text()
    audit, state = five.laboratory.audit("service"), five.laboratory.state("attestation")
    (tmp_path / "audit").mkdir()
    settings.write_text(
        text.replace(str(audit), str(tmp_path / "audit/service")).replace(str(state), str(tmp_path / "s"))
    )
    status, lines = await Program.run("attestation", "serve", "--config", settings)
    address = five.laboratory.layout.addresses.enrol
    require_one_message(status, lines, says=[f"cannot listen at {address}"], hint="another program")


@pytest.mark.parametrize(("node", "near"), [("server", "listen"), ("hospital-a", "server")])
async def test_wrong_key_of_a_settings_file_is_named_with_its_line(five, tmp_path, node, near):
    wrong = near[:-1]
    with copied(five, node, tmp_path, **{wrong: "127.0.0.1:1"}) as (_, config):
        line = config.read_text().splitlines().index(f'{wrong} = "127.0.0.1:1"') + 1
        program = "server" if node == "server" else "site"
        status, lines = await Program.run(program, "start", "--config", config)
    require_one_message(status, lines, says=[f"{config.name}:{line}", wrong, f"did you mean '{near}'?"], hint="lines")


@pytest.mark.slow
async def test_settings_file_that_is_missing_is_named(tmp_path):
    status, lines = await Program.run("server", "start", "--config", tmp_path / "none.toml")
    require_one_message(status, lines, says=["none.toml"], hint="")


@pytest.mark.parametrize(("node", "name"), [("server", "grant.json"), ("hospital-a", "policy.json")])
async def test_kit_with_a_missing_file_says_which(five, tmp_path, node, name):
    with copied(five, node, tmp_path) as (kit, config):
        (kit / name).unlink()
        program = "server" if node == "server" else "site"
        status, lines = await Program.run(program, "start", "--config", config)
    require_one_message(status, lines, says=[name, "No such file"], hint="start-up kit")


@pytest.mark.parametrize("node", ["server", "hospital-a"])
async def test_node_without_its_tee_device_says_so(five, tmp_path, node):
    with copied(five, node, tmp_path, tee_socket=tmp_path / "none.sock") as (_, config):
        program = "server" if node == "server" else "site"
        status, lines = await Program.run(program, "start", "--config", config)
    require_one_message(status, lines, says=["none.sock"], hint="launched", expected_status=1)


async def test_kit_of_a_site_cannot_start_a_server(five, tmp_path):
    with copied(five, "server", tmp_path, kit=five.laboratory.kit("hospital-a")) as (_, config):
        status, lines = await Program.run("server", "start", "--config", config)
    require_one_message(status, lines, says=["hospital-a is the kit of a site"], hint="")


@pytest.mark.slow
async def test_second_server_on_the_same_state_is_refused(fed):
    config = fed.laboratory.kit("server") / "server.toml"
    status, lines = await Program.run("server", "start", "--config", config)
    assert status != 0
    assert [line for line in lines if line.startswith("error: cannot listen at ")]
    assert "Traceback" not in "\n".join(lines)
