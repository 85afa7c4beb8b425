from __future__ import annotations

import os
from pathlib import Path

import pytest

from policies import files
from policies.files import atomic_file, write_atomically


def test_a_file_is_written_whole_and_only_its_owner_may_read_it(tmp_path):
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_takes_the_permissions_that_are_asked_for(tmp_path):
    write_atomically(tmp_path / "a", memoryview(b"new"), mode=0o644)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_file_takes_the_place_of_the_one_before(tmp_path):
    (tmp_path / "a").write_bytes(b"a longer old content")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def half(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise ValueError("stop")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ValueError, match="stop"):
        half(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_nothing_is_at_the_place_before_the_end(tmp_path):
    with atomic_file(tmp_path / "a") as file:
        file.write(b"half")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"half"


def test_the_content_is_synced_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path else "content")
        sync(descriptor)

    def noted_replace(source: str, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", noted_sync)
    monkeypatch.setattr(files.os, "replace", noted_replace)
    write_atomically(tmp_path / "a", b"new")
    assert events == ["content", "rename", "folder"]
