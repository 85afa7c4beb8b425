"""The first step: what lies in a new laboratory, and where none is made."""

import socket
import stat
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from cryptography import x509

from attestation.core import ServiceInitData
from attestation.mock_tee.settings import MockTeeSettings
from attestation.service.settings import AttestationSettings, Limits
from policies.documents import raw_public_key
from policies.errors import UsageError
from policies.settings import load_settings
from provisioning import laboratory as laboratory_module
from provisioning.cli import parse_measurement, parse_sites, provision
from provisioning.errors import LaboratoryError
from provisioning.keys import load_signing_key
from provisioning.laboratory import create_laboratory, default_sites
from provisioning.layout import Laboratory

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def create(directory, **changes):
    given = {"sites": default_sites(4), "trust_domain": "test.cloister.mock", "base_port": 0, "now": NOW} | changes
    return create_laboratory(directory, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return create(tmp_path_factory.mktemp("made") / "lab")


# --- what is there ---------------------------------------------------------------------------------------------------


def test_laboratory_is_read_back_as_it_was_made(made):
    assert Laboratory.load(made.directory) == made


def test_each_default_site_is_of_an_organisation_of_its_own(made):
    assert dict(made.layout.sites) == {
        "hospital-a": "north",
        "hospital-b": "east",
        "hospital-c": "south",
        "hospital-d": "west",
    }
    assert len(set(default_sites(26).values())) == 26


def test_nodes_are_the_server_of_the_operator_and_the_sites(made):
    roles = {name: (member.organisation, member.role, member.tier) for name, member in made.nodes.items()}
    assert roles["server"] == ("consortium", "server", "attested")
    assert roles["hospital-c"] == ("south", "site", "attested")
    assert len(roles) == 5


def test_every_file_is_for_its_owner_alone(made):
    paths = [made.directory, *made.directory.rglob("*")]
    assert len(paths) > 20
    assert [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_organisations_have_keys_of_32_bytes_that_differ(made):
    keys = {made.organisation_key(name).read_bytes() for name in made.organisations}
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 5


def test_service_is_launched_for_every_organisation_and_one_signature(made):
    launched = ServiceInitData.parse(made.service_init_data.read_bytes())
    expected = {raw_public_key(load_signing_key(made.organisation_key(name))) for name in made.organisations}
    assert set(launched.organisation_keys) == expected
    assert (launched.threshold, launched.trust_domain) == (1, "test.cloister.mock")


def test_service_settings_load_and_point_into_the_laboratory(made):
    settings = load_settings(made.service_settings, AttestationSettings)
    assert settings.init_data == made.service_init_data
    assert settings.tee_socket == made.directory / "tee" / "attestation.sock"
    assert settings.audit == made.directory / "audit" / "service"
    assert settings.state == made.directory / "state" / "attestation"
    assert (settings.enrol_address, settings.attested_address) == (
        made.layout.addresses.enrol,
        made.layout.addresses.attested,
    )


def test_service_limits_are_raised_above_the_defaults(made):
    limits, defaults = load_settings(made.service_settings, AttestationSettings).limits, Limits()
    assert all(getattr(limits, name) > getattr(defaults, name) for name in Limits.model_fields)


def test_mock_tee_settings_load(made):
    assert load_settings(made.mock_tee_settings, MockTeeSettings).directory == made.tee


def test_administrator_holds_a_certificate_of_the_projects_authority(made):
    kit = made.kit("admin")
    authority = x509.load_pem_x509_certificate((made.administration / "authority.pem").read_bytes())
    certificate = x509.load_pem_x509_certificate((kit / "admin.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://test.cloister.mock/admin/admin"]
    assert certificate.not_valid_after_utc == NOW + timedelta(days=365)
    assert len((kit / "submitter.key").read_bytes()) == 32


# --- ports -----------------------------------------------------------------------------------------------------------


def test_ports_that_are_chosen_are_free_and_differ(made):
    ports = {int(address.rpartition(":")[2]) for address in made.layout.addresses.model_dump().values()}
    assert len(ports) == 3
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_base_port_gives_three_ports_in_a_row(tmp_path):
    for base in range(21_000, 60_000, 997):  # wherever this machine has three free ones
        try:
            addresses = create(tmp_path / "lab", base_port=base).layout.addresses
        except UsageError:
            continue
        assert addresses.model_dump() == {
            "enrol": f"127.0.0.1:{base}",
            "attested": f"127.0.0.1:{base + 1}",
            "server": f"127.0.0.1:{base + 2}",
        }
        return
    pytest.fail("this machine has no three free ports in a row")


def test_port_that_is_in_use_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match=f"port {taken.getsockname()[1]} of 127.0.0.1 cannot be used"):
            create(tmp_path / "lab", base_port=taken.getsockname()[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", [-1, 65_534, 70_000])
def test_port_that_does_not_exist_is_refused(tmp_path, port):
    with pytest.raises(UsageError, match="cannot be used"):
        create(tmp_path / "lab", base_port=port)


# --- where none is made ----------------------------------------------------------------------------------------------


def test_laboratory_is_never_made_over_another_one(tmp_path):
    create(tmp_path / "lab")
    before = {path: path.read_bytes() for path in (tmp_path / "lab").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="there is a laboratory in") as caught:
        create(tmp_path / "lab")
    assert caught.value.hint is not None
    assert {path: path.read_bytes() for path in (tmp_path / "lab").rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["lab"]


def test_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not free"):
        create(tmp_path / "lab")
    assert [path.name for path in (tmp_path / "lab").iterdir()] == ["notes.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["lab"]


def test_empty_folder_and_missing_parents_will_do(tmp_path):
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty")
    create(tmp_path / "a" / "b" / "lab")
    assert (tmp_path / "empty" / "laboratory.toml").is_file()
    assert (tmp_path / "a" / "b" / "lab" / "laboratory.toml").is_file()


def test_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made in"):
        create(tmp_path / "file" / "lab")


def test_laboratory_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(laboratory_module, "_write_service", fail)
    with pytest.raises(OSError, match="disk is full"):
        create(tmp_path / "lab")
    assert list(tmp_path.iterdir()) == []


def test_path_that_is_too_long_for_a_unix_socket_is_refused(tmp_path):
    with pytest.raises(UsageError, match="a unix socket's has at most 107"):
        create(tmp_path / ("x" * 100))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trust_domain": "cloister.example"}, "ends in .mock"),
        ({"trust_domain": "Upper.mock"}, "trust_domain"),
        ({"sites": {}}, "sites"),
        ({"sites": {"server": "north"}}, "cannot be called server"),
        ({"sites": {"control": "north"}}, "cannot be called control"),
        ({"sites": {"../up": "north"}}, "sites"),
        ({"sites": {"a": "not a name"}}, "sites"),
        ({"sites": {f"s{number}": f"o{number}" for number in range(256)}}, "257 organisations"),
    ],
)
def test_name_that_cannot_be_used_is_refused_and_nothing_is_made(tmp_path, changes, reason):
    with pytest.raises(UsageError, match=reason):
        create(tmp_path / "lab", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, -1, 27])
def test_number_of_sites_that_has_no_names_is_refused(count):
    with pytest.raises(UsageError, match="expected 1 to 26"):
        default_sites(count)


# --- reading it ------------------------------------------------------------------------------------------------------


def test_folder_without_a_laboratory_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="holds no laboratory") as caught:
        Laboratory.load(tmp_path)
    assert caught.value.hint == f"make one: cloister provision laboratory {tmp_path}"


def test_layout_that_was_edited_into_nonsense_is_refused(tmp_path):
    made = create(tmp_path / "lab")
    path = made.directory / "laboratory.toml"
    path.write_text(path.read_text().replace("version = 1", "version = 2"))
    with pytest.raises(UsageError, match=r"laboratory\.toml:\d+: version"):
        Laboratory.load(made.directory)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(bytes(31)), "has 31 bytes, expected 32"),
        (lambda path: path.chmod(0o640), "can be read by others"),
    ],
)
def test_key_that_is_missing_damaged_or_exposed_is_refused(tmp_path, damage, reason):
    made = create(tmp_path / "lab")
    damage(made.organisation_key("north"))
    with pytest.raises(LaboratoryError, match=reason):
        load_signing_key(made.organisation_key("north"))


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_prints_who_takes_part_and_what_to_do_next(tmp_path):
    result = CliRunner().invoke(
        provision, ["laboratory", str(tmp_path / "lab"), "--site", "clinic-1=north", "--site", "clinic-2=north"]
    )
    assert result.exit_code == 0
    assert "clinic-2" in result.output
    assert "ask for 4 sites in a job" in result.output
    for command in ("mock-tee serve", "mock-tee roots", "mock-tee launch", "attestation serve", "provision genesis"):
        assert f"cloister {command}" in result.output
    assert Laboratory.load(tmp_path / "lab").layout.sites == {"clinic-1": "north", "clinic-2": "north"}


def test_command_takes_sites_in_one_way_only(tmp_path):
    result = CliRunner().invoke(provision, ["laboratory", str(tmp_path / "lab"), "--sites", "2", "--site", "a=b"])
    assert isinstance(result.exception, UsageError)


@pytest.mark.parametrize("named", [("a",), ("=b",), ("a=",), ("a=b", "a=c")])
def test_site_that_is_not_a_name_and_an_organisation_is_refused(named):
    with pytest.raises(UsageError):
        parse_sites(named)


def test_measurement_of_48_bytes_is_parsed_and_any_other_refused():
    assert parse_measurement("ab" * 48) == b"\xab" * 48
    for text in ("ab" * 47, "ab" * 49, "xy" * 48, ""):
        with pytest.raises(UsageError, match="measurement"):
            parse_measurement(text)


@pytest.mark.parametrize("command", [[], ["laboratory"], ["genesis"], ["grants"]])
def test_help_of_each_command_has_examples(command):
    result = CliRunner().invoke(provision, [*command, "--help"])
    assert result.exit_code == 0
    assert "Examples" in result.output
