from __future__ import annotations

import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from policies.errors import UsageError
from policies.settings import Settings, _lines_of_keys, load_settings


class Listen(Settings):
    address: str
    port: int = Field(gt=0)
    certificate: Path | None = None


class Site(Settings):
    name: str
    folders: tuple[Path, ...] = ()


class Vault(Settings):
    kind: Literal["vault"]
    url: str


class Disk(Settings):
    kind: Literal["disk"]
    folder: Path


class Server(Settings):
    state: Path
    started_at: datetime | None = None
    ratio: float = 1.0
    listen: Listen
    sites: tuple[Site, ...] = ()
    keys: Annotated[Vault | Disk, Field(discriminator="kind")] | None = None


GOOD = """\
state = "state.db"
[listen]
address = "::1"
port = 8443
"""


def load(tmp_path: Path, text: str) -> Server:
    file = tmp_path / "server.toml"
    file.write_text(text)
    return load_settings(file, Server)


def problem(tmp_path: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert caught.value.exit_code == 64
    assert caught.value.hint
    return caught.value.message.replace(str(tmp_path) + "/", "")


def test_a_file_that_says_all_that_is_required_is_loaded(tmp_path):
    settings = load(tmp_path, GOOD)
    assert settings.listen == Listen(address="::1", port=8443)


def test_a_relative_path_starts_at_the_folder_of_the_file_that_names_it(tmp_path):
    text = GOOD + 'certificate = "/etc/tls.pem"\n[[sites]]\nname = "a"\nfolders = ["data", "../more"]\n'
    settings = load(tmp_path, text)
    assert settings.state == tmp_path / "state.db"
    assert settings.listen.certificate == Path("/etc/tls.pem")
    assert settings.sites[0].folders == (tmp_path / "data", tmp_path / "../more")


def test_the_folder_is_absolute_even_when_the_file_is_named_relatively(tmp_path, monkeypatch):
    (tmp_path / "server.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("server.toml"), Server).state == tmp_path / "state.db"


def test_dates_and_whole_numbers_are_taken_as_toml_writes_them(tmp_path):
    settings = load(tmp_path, "started_at = 2026-01-02T03:04:05Z\nratio = 2\n" + GOOD)
    assert settings.ratio == 2.0
    assert settings.started_at is not None
    assert settings.started_at.year == 2026


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml: cannot be read: no such file"):
        load_settings(tmp_path / "absent.toml", Server)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is a directory"):
        load_settings(tmp_path, Server)


def test_a_file_that_is_too_large_is_refused(tmp_path):
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(UsageError, match="at most 1048576"):
        load_settings(tmp_path / "big.toml", Server)


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path):
    (tmp_path / "bad.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(UsageError, match=r"bad\.toml:2: found the byte 0xff"):
        load_settings(tmp_path / "bad.toml", Server)


def test_a_syntax_error_is_named_with_its_line(tmp_path):
    assert problem(tmp_path, 'state = "x"\nport 3\n').startswith("server.toml:2: not TOML")


def test_a_file_that_ends_too_early_is_named_with_its_last_line(tmp_path):
    assert problem(tmp_path, 'state = "x"\nports = [\n1,').startswith("server.toml:3: not TOML")


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known_one(tmp_path):
    assert problem(tmp_path, GOOD + "prot = 1\n") == "server.toml:5: unknown key 'listen.prot', did you mean 'port'?"


def test_an_unknown_key_like_no_other_gets_no_suggestion(tmp_path):
    assert problem(tmp_path, "zzz = 1\n" + GOOD) == "server.toml:1: unknown key 'zzz'"


def test_an_unknown_key_within_a_union_is_compared_with_the_keys_of_that_table(tmp_path):
    text = GOOD + '[keys]\nkind = "disk"\nfolder = "x"\nfolde = "y"\n'
    assert problem(tmp_path, text) == "server.toml:8: unknown key 'keys.disk.folde', did you mean 'folder'?"


def test_a_missing_key_is_named_with_the_line_of_its_table(tmp_path):
    assert problem(tmp_path, 'state = "x"\n\n[listen]\nport = 1\n') == "server.toml:3: missing key 'listen.address'"


def test_a_wrong_type_in_an_array_of_tables_is_named_with_its_own_line(tmp_path):
    text = GOOD + '[[sites]]\nname = "a"\n[[sites]]\nname = 7\n'
    assert problem(tmp_path, text) == "server.toml:8: sites.1.name: input should be a valid string, found 7"


def test_a_number_written_as_text_is_refused(tmp_path):
    assert "listen.port: input should be a valid integer, found '8443'" in problem(
        tmp_path, GOOD.replace("8443", "'8443'")
    )


def test_all_problems_are_listed_at_once_in_the_order_of_the_file(tmp_path):
    text = 'state = 1\nstat = "x"\n[listen]\nport = 0\n'
    lines = problem(tmp_path, text).splitlines()
    assert lines[0] == "server.toml has 4 problems:"
    assert [line.split(":")[1] for line in lines[1:]] == ["1", "2", "3", "4"]


def test_values_over_several_lines_do_not_confuse_the_line_numbers(tmp_path):
    text = 'state = """\n[listen]\nport = 5\n"""\nsites = [\n  { name = "a" }, # one\n  { name = "b" },\n]\n'
    text += '[listen]\naddress = "x"\nport = "y"\n'
    assert problem(tmp_path, text).startswith("server.toml:11: listen.port")


def test_a_table_within_the_last_of_an_array_of_tables_is_found():
    text = "[[a]]\n[a.b]\nx = 1\n[[a]]\n[a.b]\nx = 2\n[[a.c]]\ny.z = 3\n"
    lines = _lines_of_keys(text)
    assert lines["a", 0, "b", "x"] == 3
    assert lines["a", 1, "b", "x"] == 6
    assert lines["a", 1, "c", 0, "y", "z"] == 8


def test_settings_cannot_be_changed_once_read(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path, GOOD).state = Path("other")  # type: ignore[misc]


@given(st.text(alphabet="[]ab.= \n\"'{}1,#", max_size=40))
def test_every_text_that_is_toml_can_be_taken_apart_into_lines(text):
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert all(1 <= line <= text.count("\n") + 1 for line in _lines_of_keys(text).values())
