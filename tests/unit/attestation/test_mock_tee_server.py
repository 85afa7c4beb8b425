"""The mock TEE as a server: sockets that come and go with machines, and only for their owner."""

import asyncio
import dataclasses
import itertools
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from attestation.attester import MAX_FRAME_BYTES, DeviceSocketReply, SocketAttester, exchange
from attestation.errors import AttesterUnavailableError, MockTeeError
from attestation.mock_tee.control import MAX_MACHINES, ControlReply, Hypervisor
from attestation.mock_tee.hardware import Hardware
from attestation.mock_tee.machines import GpuLaunch, Launch, chip_id_of, snp_launch
from attestation.mock_tee.server import MockTeeServer
from attestation.mock_tee.vendor import VENDOR_FILE, create_vendor, open_vendor
from policies.encoding import u32

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def vendor_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vendor") / "new" / "tee"
    open_vendor(folder, now=NOW)
    return folder


@pytest.fixture(scope="module")
def vendor(vendor_folder):
    return open_vendor(vendor_folder, now=NOW)


@pytest.fixture
def server(vendor, tmp_path):
    counter = itertools.count(1)
    hardware = Hardware(vendor, now=lambda: NOW, randomness=lambda size: next(counter).to_bytes(size, "big"))
    tmp_path.chmod(0o700)
    return MockTeeServer(tmp_path, hardware)


def launch_of(name, *gpus):
    return Launch(
        name=name,
        snp=snp_launch(chip_id=chip_id_of(name), measurement=bytes(48), host_data=bytes(32)),
        gpus=tuple(GpuLaunch(serial=serial, driver_version="580.95.05") for serial in gpus),
    )


async def in_thread(function, *arguments):
    return await asyncio.to_thread(function, *arguments)


async def test_launched_machine_answers_until_it_is_destroyed(server, tmp_path):
    hypervisor = Hypervisor(tmp_path)
    async with server:
        path = await in_thread(hypervisor.launch, launch_of("a", "G1", "G2"))
        attester = SocketAttester(path)
        description = await in_thread(attester.describe)
        cpu = await in_thread(attester.collect_cpu, b"d" * 64)
        device = await in_thread(attester.collect_device, 1, b"n" * 32)
        assert await in_thread(hypervisor.machines) == (launch_of("a", "G1", "G2"),)
        await in_thread(hypervisor.destroy, "a")
        assert await in_thread(hypervisor.machines) == ()
        with pytest.raises(AttesterUnavailableError, match="no TEE device"):
            await in_thread(attester.describe)
    assert (description.kind, description.devices) == ("snp", ("gpu", "gpu"))
    assert cpu.report[0x50:0x90] == b"d" * 64
    assert device.report[4:36] == b"n" * 32
    assert path == tmp_path / "a.sock"


async def test_each_machine_has_a_device_of_its_own(server, tmp_path):
    async with server:
        for name in ("a", "b"):
            await server.launch(launch_of(name))
        reports = [
            (await in_thread(SocketAttester(tmp_path / f"{name}.sock").collect_cpu, bytes(64))).report for name in "ab"
        ]
    assert [report[0x1A0:0x1E0] for report in reports] == [chip_id_of("a"), chip_id_of("b")]


async def test_device_that_is_not_there_is_refused_with_words(server, tmp_path):
    async with server:
        await server.launch(launch_of("a"))
        with pytest.raises(AttesterUnavailableError, match="refused: machine a has 0 devices, none with index 0"):
            await in_thread(SocketAttester(tmp_path / "a.sock").collect_device, 0, bytes(32))


@pytest.mark.parametrize("name", ["a", "control"])
async def test_name_that_is_taken_is_refused(server, tmp_path, name):
    async with server:
        await server.launch(launch_of("a"))
        with pytest.raises(MockTeeError, match=f"the name '{name}' is taken") as refused:
            await in_thread(Hypervisor(tmp_path).launch, launch_of(name))
    assert refused.value.hint == "destroy that machine, or choose another name"


async def test_destroying_an_unknown_machine_says_which_run(server, tmp_path):
    async with server:
        await server.launch(launch_of("a"))
        with pytest.raises(MockTeeError, match="there is no machine 'b', running are: a"):
            await in_thread(Hypervisor(tmp_path).destroy, "b")


async def test_more_machines_than_one_list_can_hold_are_refused(server, monkeypatch):
    monkeypatch.setattr("attestation.mock_tee.server.MAX_MACHINES", 2)
    async with server:
        await server.launch(launch_of("a"))
        await server.launch(launch_of("b"))
        with pytest.raises(MockTeeError, match="2 machines run"):
            await server.launch(launch_of("c"))


def test_list_of_all_machines_fits_into_one_frame():
    largest = launch_of("x" * 63, *(f"{index:02}" + "G" * 61 for index in range(16)))
    assert MAX_MACHINES * len(largest.encode()) < MAX_FRAME_BYTES


async def test_same_machine_launched_many_times_at_once_is_launched_once(server):
    async with server:
        done = await asyncio.gather(*(server.launch(launch_of("a")) for _ in range(8)), return_exceptions=True)
    assert sum(result is None for result in done) == 1


async def test_only_the_owner_can_connect(server, tmp_path):
    async with server:
        await server.launch(launch_of("a"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.sock")}
    assert modes == {"a.sock": 0o600, "control.sock": 0o600}


async def test_stopping_removes_every_socket(server, tmp_path):
    async with server:
        await server.launch(launch_of("a"))
    assert list(tmp_path.glob("*.sock")) == []
    with pytest.raises(MockTeeError, match="no mock TEE at"):
        Hypervisor(tmp_path).machines()


async def test_sockets_of_a_killed_process_are_removed(server, tmp_path):
    for name in ("control.sock", "old.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
            left_behind.bind(str(tmp_path / name))
    async with server:
        assert await in_thread(Hypervisor(tmp_path).machines) == ()
        assert [path.name for path in tmp_path.glob("*.sock")] == ["control.sock"]


async def test_folder_is_served_by_one_process_at_a_time(vendor, server, tmp_path):
    second = MockTeeServer(tmp_path, Hardware(vendor, now=lambda: NOW, randomness=os.urandom))
    async with server:
        with pytest.raises(MockTeeError, match="another mock TEE serves"):
            await second.__aenter__()
        assert await in_thread(Hypervisor(tmp_path).machines) == ()
    async with second:
        assert await in_thread(Hypervisor(tmp_path).machines) == ()


async def test_folder_that_others_may_write_to_is_refused(server, tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(MockTeeError, match="others may write"):
        await server.__aenter__()


async def test_folder_with_too_long_a_path_is_refused_and_unlocked(vendor, tmp_path):
    folder = tmp_path / ("x" * 110)
    folder.mkdir(mode=0o700)
    for _ in range(2):
        with pytest.raises(MockTeeError, match="cannot listen"):
            await MockTeeServer(folder, Hardware(vendor, now=lambda: NOW, randomness=os.urandom)).__aenter__()


@pytest.mark.parametrize("request_bytes", [b"", b"{}", b'{"request":{"ask":"reset"}}', b"\xff", b'{"request":null}'])
async def test_malformed_request_is_refused_on_both_sockets(server, tmp_path, request_bytes):
    async with server:
        await server.launch(launch_of("a"))
        for name, reply in (("a", DeviceSocketReply), ("control", ControlReply)):
            raw = await in_thread(lambda n: exchange(tmp_path / f"{n}.sock", request_bytes, timeout_seconds=5), name)
            assert reply.parse(raw).reply.answer == "refused"


async def test_frame_that_announces_too_much_is_refused_unread(server, tmp_path):
    async with server:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
        writer.write(u32(MAX_FRAME_BYTES + 1))
        size = int.from_bytes(await reader.readexactly(4), "big")
        assert ControlReply.parse(await reader.readexactly(size)).reply.answer == "refused"
        writer.close()
        await writer.wait_closed()


async def test_client_that_connects_and_says_nothing_is_dropped(server, tmp_path, monkeypatch):
    monkeypatch.setattr("attestation.mock_tee.frames.CONNECTION_TIMEOUT_SECONDS", 0.05)
    async with server:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_client_that_is_still_connected_does_not_keep_the_server_from_stopping(server, tmp_path):
    async with asyncio.timeout(2), server:
        _, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
        await in_thread(Hypervisor(tmp_path).machines)
    writer.close()
    await writer.wait_closed()


# --- the vendor's file -----------------------------------------------------------------------------------------------


def test_vendor_is_made_once_and_kept_for_its_owner_alone(vendor, vendor_folder):
    again = open_vendor(vendor_folder, now=NOW)
    assert vendor.anchors == again.anchors
    assert vendor.derive_key("x").private_numbers() == again.derive_key("x").private_numbers()
    assert stat.S_IMODE((vendor_folder / VENDOR_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(vendor_folder.stat().st_mode) == 0o700
    assert [path.name for path in vendor_folder.iterdir()] == [VENDOR_FILE]


def test_vendor_that_another_process_made_meanwhile_is_the_one_used(vendor, vendor_folder, tmp_path, monkeypatch):
    def overtaken(**_):
        shutil.copy(vendor_folder / VENDOR_FILE, tmp_path)
        return dataclasses.replace(vendor, seed=b"slower" + bytes(26))

    monkeypatch.setattr("attestation.mock_tee.vendor.create_vendor", overtaken)
    assert open_vendor(tmp_path, now=NOW).seed == vendor.seed
    assert [path.name for path in tmp_path.iterdir()] == [VENDOR_FILE]


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"seed":"00"}'])
def test_vendor_file_that_is_damaged_is_refused_and_kept(tmp_path, content):
    (tmp_path / VENDOR_FILE).write_bytes(content)
    with pytest.raises(MockTeeError, match="is not a mock vendor's file"):
        open_vendor(tmp_path, now=NOW)
    assert (tmp_path / VENDOR_FILE).read_bytes() == content


def test_vendor_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MockTeeError, match="is not usable"):
        open_vendor(tmp_path / "file", now=NOW)


def test_two_vendors_share_no_root_and_no_key(vendor):
    other = create_vendor(now=NOW)
    assert not {anchor.sha256 for anchor in vendor.anchors} & {anchor.sha256 for anchor in other.anchors}
    assert vendor.derive_key("x").private_numbers() != other.derive_key("x").private_numbers()


# --- as a process ----------------------------------------------------------------------------------------------------

RUN = "from attestation.mock_tee.cli import mock_tee; mock_tee()"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_says_once_that_it_is_ready_and_stops_cleanly(vendor_folder, tmp_path, number):
    folder = tmp_path / "tee"
    folder.mkdir(mode=0o700)
    shutil.copy(vendor_folder / VENDOR_FILE, folder)
    with subprocess.Popen(
        (sys.executable, "-c", RUN, "serve", "--dir", folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == f"mock TEE ready at {folder} (nothing here is attested by hardware)\n"
        path = Hypervisor(folder).launch(launch_of("a"))
        assert len(SocketAttester(path).collect_cpu(bytes(64)).report) == 1184
        process.send_signal(number)
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (0, "", "")
    assert list(folder.glob("*.sock")) == []
