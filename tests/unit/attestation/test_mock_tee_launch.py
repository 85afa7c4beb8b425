"""What a person says about a launch, on the command line or in a file, and what is measured."""

import json

import pytest
import rich_click as click
from click.testing import CliRunner
from pydantic import ValidationError

from attestation.errors import MockTeeError
from attestation.mock_tee import cli
from attestation.mock_tee.machines import CURRENT_TCB, STALE_TCB, MilanTcb, chip_id_of, measure_image
from attestation.mock_tee.settings import MachineSettings, MockTeeSettings
from policies.encoding import lp, sha256
from policies.errors import UsageError
from policies.settings import load_settings


@pytest.fixture
def image(tmp_path):
    folder = tmp_path / "image"
    for name, text in (("a.py", "a"), ("sub/b.py", "b"), ("c.toml", "c"), ("d.proto", "d"), ("notes.md", "n")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


# --- measuring -------------------------------------------------------------------------------------------------------


def test_measurement_has_48_bytes_and_is_the_same_each_time_and_for_a_copy(image, tmp_path):
    first = measure_image(image)
    copy = tmp_path / "elsewhere" / "image"
    for path in sorted(image.rglob("*.*"), reverse=True):
        target = copy / path.relative_to(image)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert len(first) == 48
    assert measure_image(image) == first == measure_image(copy)


@pytest.mark.parametrize("name", ["a.py", "sub/b.py", "c.toml", "d.proto", "new.py"])
def test_measurement_changes_with_any_measured_file(image, name):
    before = measure_image(image)
    (image / name).write_text("changed")
    assert measure_image(image) != before


def test_measurement_changes_when_code_moves_from_one_file_to_the_next(image):
    before = measure_image(image)
    (image / "a.py").rename(image / "e.py")
    assert measure_image(image) != before


def test_measurement_ignores_notes_and_caches(image):
    before = measure_image(image)
    (image / "notes.md").write_text("changed")
    (image / "__pycache__").mkdir()
    (image / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert measure_image(image) == before


def test_measurement_of_several_folders_does_not_depend_on_their_order(image, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.py").write_text("x")
    assert measure_image(image, other) == measure_image(other, image) != measure_image(image)


def test_folder_with_nothing_to_measure_is_refused(tmp_path):
    with pytest.raises(MockTeeError, match="holds no file to measure"):
        measure_image(tmp_path)


def test_two_folders_of_one_name_are_refused(image):
    with pytest.raises(MockTeeError, match="two image folders are called 'image'"):
        measure_image(image, image)


def test_no_folder_is_refused():
    with pytest.raises(MockTeeError, match="no image folder"):
        measure_image()


# --- settings --------------------------------------------------------------------------------------------------------


def machine(**settings):
    return MachineSettings(**({"name": "a", "measurement": "00" * 48, "host_data": "11" * 32} | settings))


def test_ordinary_launch_is_current_private_and_at_vmpl_0():
    launch = machine().to_launch()
    snp = launch.snp
    assert (snp.policy, snp.vmpl, snp.report_version) == (0x30000, 0, 3)
    assert {snp.current_tcb, snp.committed_tcb, snp.reported_tcb, snp.launch_tcb} == {CURRENT_TCB}
    assert (snp.measurement, snp.host_data) == (bytes(48), b"\x11" * 32)
    assert snp.chip_id == chip_id_of("a")
    assert launch.gpus == ()


def test_deliberately_bad_launch_is_said_by_ordinary_settings():
    launch = machine(
        debug=True, tcb=CURRENT_TCB, launch_tcb=STALE_TCB, vmpl=2, report_version=2, chip="ab" * 64, gpus=("G1", "G2")
    ).to_launch()
    snp = launch.snp
    assert (snp.policy, snp.vmpl, snp.report_version) == (0xB0000, 2, 2)
    assert (snp.launch_tcb, snp.reported_tcb) == (STALE_TCB, CURRENT_TCB)
    assert snp.chip_id == b"\xab" * 64
    assert [gpu.serial for gpu in launch.gpus] == ["G1", "G2"]


def test_host_data_is_the_digest_of_the_init_data(tmp_path):
    (tmp_path / "init.json").write_bytes(b'{"node":"a"}')
    snp = machine(host_data=None, init_data=tmp_path / "init.json").to_launch().snp
    assert snp.host_data == sha256("init-data", lp(b'{"node":"a"}'))


def test_init_data_that_cannot_be_read_is_reported(tmp_path):
    with pytest.raises(MockTeeError, match="cannot be read"):
        machine(host_data=None, init_data=tmp_path / "absent").to_launch()


def test_image_is_measured_at_launch(image):
    assert machine(measurement=None, image=(image,)).to_launch().snp.measurement == measure_image(image)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"chip": "00" * 64, "chip_seed": "x"}, "chip and chip_seed"),
        ({"measurement": None}, "either image or measurement"),
        ({"image": ("x",)}, "image"),
        ({"host_data": None}, "either init_data or host_data"),
        ({"measurement": "zz"}, "measurement"),
        ({"host_data": "00" * 31}, "host_data"),
        ({"chip": "AB" * 64}, "chip"),
        ({"name": "../a"}, "name"),
        ({"gpus": ("a/b",)}, "gpus"),
        ({"gpus": ("G",) * 17}, "gpus"),
        ({"driver": "new"}, "driver"),
        ({"vmpl": 4}, "vmpl"),
        ({"report_version": 6}, "report_version"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_settings_that_are_wrong_are_refused(wrong, reason):
    with pytest.raises(ValidationError, match=reason):
        machine(**wrong)


def test_file_with_machines_is_read_and_its_paths_start_at_the_file(tmp_path, image):
    (tmp_path / "init.json").write_bytes(b"{}")
    (tmp_path / "lab.toml").write_text(
        """
        directory = "tee"

        [[machine]]
        name = "server"
        image = ["image"]
        init_data = "init.json"
        gpus = ["G1"]
        tcb = { bootloader = 3, tee = 0, snp = 0x08, microcode = 0x73 }

        [[machine]]
        name = "site"
        chip_seed = "rack-7"
        image = ["image"]
        init_data = "init.json"
        debug = true
        """
    )
    settings = load_settings(tmp_path / "lab.toml", MockTeeSettings)
    server, site = (each.to_launch() for each in settings.machine)
    assert settings.directory == tmp_path / "tee"
    assert server.snp.reported_tcb == STALE_TCB
    assert server.snp.measurement == site.snp.measurement == measure_image(image)
    assert (site.snp.chip_id, site.snp.policy) == (chip_id_of("rack-7"), 0xB0000)


# --- command line ----------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(cli.mock_tee, [str(argument) for argument in arguments])


def test_measure_prints_what_a_launch_reports(image):
    assert run("measure", image).output == measure_image(image).hex() + "\n"


def test_roots_prints_fingerprints_and_writes_anchors(tmp_path):
    result = run("roots", "--dir", tmp_path / "tee")
    anchors = json.loads((tmp_path / "tee" / "anchors.json").read_text())
    assert [(anchor["vendor"], anchor["product"]) for anchor in anchors] == [
        ("amd", "Milan"),
        ("nvidia", "Device Identity"),
    ]
    assert all(anchor["sha256"] in result.output for anchor in anchors)


@pytest.mark.parametrize("arguments", [(), ("--dir", "x", "--config", "y")])
def test_serve_wants_either_a_folder_or_a_file(arguments):
    assert isinstance(run("serve", *arguments).exception, UsageError)


def test_launch_without_a_mock_tee_says_how_to_start_one(tmp_path):
    hex_options = ("--measurement", "00" * 48, "--host-data", "00" * 32)
    error = run("launch", "--dir", tmp_path, "--name", "a", *hex_options).exception
    assert isinstance(error, MockTeeError)
    assert error.hint == f"start one: cloister mock-tee serve --dir {tmp_path}"


def test_launch_with_half_a_measurement_is_a_usage_error(tmp_path):
    error = run("launch", "--dir", tmp_path, "--name", "a", "--measurement", "00", "--host-data", "00" * 32).exception
    assert isinstance(error, UsageError)
    assert "measurement" in str(error)


@pytest.mark.parametrize(
    "numbers", ["bootloader=4,tee=0,snp=24,microcode=219", "microcode=0xdb,snp=0x18,tee=0,bootloader=4"]
)
def test_tcb_is_read_in_any_order_and_base(numbers):
    assert cli.parse_tcb(numbers) == CURRENT_TCB


@pytest.mark.parametrize(
    "numbers",
    [
        "",
        "bootloader=4",
        "bootloader=4,tee=0,snp=24,microcode=256",
        "bootloader=4,tee=0,snp=24,microcode=-1",
        "bootloader=4,tee=0,snp=24,microcode=x",
        "bootloader=4,tee=0,snp=24,microcode=1,fmc=1",
        "bootloader=4,bootloader=5,tee=0,snp=24,microcode=1",
    ],
)
def test_tcb_that_is_not_one_is_a_usage_error(numbers):
    with pytest.raises(UsageError, match="TCB"):
        cli.parse_tcb(numbers)


def test_every_command_shows_an_example():
    for name, command in cli.mock_tee.commands.items():
        assert isinstance(command, click.Command)
        assert f"cloister mock-tee {name} " in (command.epilog or "")


def test_stale_firmware_is_older_in_no_part_newer():
    def parts(tcb: MilanTcb):
        return (tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode)

    assert all(stale <= current for stale, current in zip(parts(STALE_TCB), parts(CURRENT_TCB), strict=True))
    assert STALE_TCB != CURRENT_TCB
