from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_runtime.jobs import archive
from fl_runtime.jobs.archive import BLOCK, END, pack, read, unpack
from fl_runtime.jobs.errors import ArchiveError
from fl_runtime.transport.errors import DigestMismatchError

FILES = {"model.py": b"import torch\n", "net/layers.py": b"x = 1\n" * 200, "train.py": b""}


def folder_with(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def members(*items: tuple[str, bytes]) -> bytes:
    """An archive put together by hand, of any names in any order."""
    return b"".join(part for name, content in items for part in archive._member(name, content)) + END


def foreign(name: str = "train.py", content: bytes = b"x", **attributes: object) -> bytes:
    """An archive of one member as the standard library writes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for key, value in attributes.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def unpacked(raw: bytes, folder: Path) -> dict[str, bytes]:
    unpack(raw, folder, sha256=hashlib.sha256(raw).digest())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- packing ----------------------------------------------------------------------------------------------------------


def test_what_was_packed_is_unpacked_as_it_was(tmp_path):
    raw = pack(folder_with(tmp_path / "job", FILES))
    assert unpacked(raw, tmp_path / "out") == FILES


def test_same_files_give_the_same_bytes_whenever_and_by_whoever_they_were_written(tmp_path):
    first = folder_with(tmp_path / "a", FILES)
    second = folder_with(tmp_path / "b", dict(reversed(FILES.items())))
    os.utime(first / "train.py", (1, 1))
    (second / "model.py").chmod(0o700)
    assert pack(first) == pack(second)


def test_archive_is_a_tar_that_other_tools_list(tmp_path):
    raw = pack(folder_with(tmp_path, FILES))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert {info.name: (info.size, info.mode, info.uid, info.mtime) for info in tar} == {
            name: (len(content), 0o644, 0, 0) for name, content in FILES.items()
        }


def test_data_models_hidden_files_and_what_is_left_out_do_not_travel(tmp_path):
    extra = dict.fromkeys(
        ("site.npz", "model.safetensors", "a.key", ".env.py", ".git/x.py", "__pycache__/t.py"), b"secret"
    )
    folder_with(tmp_path, {**FILES, **extra, "job.toml": b"name = 'x'"})
    assert list(read(pack(tmp_path, leave_out=[tmp_path / "job.toml"]))) == sorted(FILES)


def test_file_that_is_left_out_by_another_spelling_of_its_path_does_not_travel(tmp_path):
    folder_with(tmp_path / "job", {**FILES, "initial.txt": b"a model"})
    left_out = tmp_path / "job" / ".." / "job" / "initial.txt"
    assert "initial.txt" not in read(pack(tmp_path / "job", leave_out=[left_out]))


def test_symbolic_link_in_the_folder_is_refused(tmp_path):
    folder_with(tmp_path, FILES)
    (tmp_path / "data.py").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match=r"data\.py is a symbolic link"):
        pack(tmp_path)


def test_linked_folder_is_refused(tmp_path):
    folder_with(tmp_path, FILES)
    (tmp_path / "lib").symlink_to("/usr/lib")
    with pytest.raises(ArchiveError, match="lib is a symbolic link"):
        pack(tmp_path)


@pytest.mark.parametrize("name", ["a b.py", "é.py", "a\n.py", "-x.py", "x" * 98 + ".py"])
def test_name_that_cannot_travel_is_refused_before_it_does(tmp_path, name):
    folder_with(tmp_path, {name: b""})
    with pytest.raises(ArchiveError, match="cannot travel"):
        pack(tmp_path)


def test_folder_without_code_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="has no code"):
        pack(folder_with(tmp_path, {"data.npz": b"x"}))


def test_more_code_than_travels_is_refused_and_the_largest_file_named(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 4096)
    with pytest.raises(ArchiveError, match="at most 4096") as caught:
        pack(folder_with(tmp_path, {**FILES, "big.json": bytes(5000)}))
    assert "big.json" in caught.value.hint


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    with pytest.raises(ArchiveError, match="3 files of code, at most 2"):
        pack(folder_with(tmp_path, FILES))
    with pytest.raises(ArchiveError, match="more than 2 files"):
        read(members(*FILES.items()))


# --- unpacking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["/etc/cron.d/x", "../x.py", "a/../../x.py", "a//b.py", "./a.py", "a/", ".x", "a\x1b[2J", "a\nb", "a\\b"]
)
def test_name_that_leaves_the_folder_or_steers_a_terminal_is_refused(name):
    with pytest.raises(ArchiveError, match="leaves the folder or has characters") as caught:
        read(foreign(name))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a FIFO"),
        (tarfile.DIRTYPE, "a folder"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (tarfile.XHDTYPE, "an extended header"),
        (tarfile.AREGTYPE, "a file of an old format"),
        (b"Q", "of type b'Q'"),
    ],
)
def test_member_that_is_no_regular_file_is_refused(kind, words):
    with pytest.raises(ArchiveError, match=words):
        read(foreign(content=b"", type=kind, linkname="/etc/passwd"))


@pytest.mark.parametrize(
    "attribute", [{"mode": 0o4755}, {"uid": 1000}, {"gid": 5}, {"mtime": 1}, {"uname": "root"}, {"linkname": "x"}]
)
def test_member_with_attributes_of_its_own_is_refused(attribute):
    with pytest.raises(ArchiveError, match="of its own"):
        read(foreign(**attribute))


def test_extended_headers_and_compression_are_refused():
    for mode in ("w:gz", "w:xz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as tar:
            tar.addfile(tarfile.TarInfo("train.py"))
        with pytest.raises(ArchiveError):
            read(file.getvalue())
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("x" * 150))
    with pytest.raises(ArchiveError, match="an extended header"):
        read(file.getvalue())


@pytest.mark.parametrize("names", [("a.py", "a.py"), ("b.py", "a.py")])
def test_names_that_repeat_or_are_out_of_order_are_refused(names):
    with pytest.raises(ArchiveError, match="each name once and in order"):
        read(members(*((name, b"") for name in names)))


def test_name_that_is_a_file_and_a_folder_is_refused():
    with pytest.raises(ArchiveError, match="a is a file and a folder"):
        read(members(("a", b""), ("a/b.py", b"")))


@pytest.mark.parametrize("size", [b"77777777777", b"00000002000"])
def test_member_that_claims_more_bytes_than_there_are_is_refused(size):
    header = bytearray(archive._header("a.py", int(size, 8)))
    with pytest.raises(ArchiveError, match="were expected"):
        read(bytes(header) + bytes(BLOCK) + END)


@pytest.mark.parametrize("size", [b"\x80\0\0\0\0\0\0\0\0\0\1", b"-0000000001", b" 0000000001"])
def test_size_that_is_not_octal_is_refused(size):
    raw = bytearray(members(("a.py", b"x")))
    raw[124:135] = size
    with pytest.raises(ArchiveError, match="octal"):
        read(bytes(raw))


def test_hidden_bytes_between_members_and_behind_the_end_are_refused():
    raw = bytearray(members(("a.py", b"x")))
    raw[BLOCK + 5] = 1
    with pytest.raises(ArchiveError, match="zeros up to the next block"):
        read(bytes(raw))
    with pytest.raises(ArchiveError):
        read(members(("a.py", b"x")) + b"more")
    with pytest.raises(ArchiveError):
        read(members(("a.py", b"x")) + bytes(BLOCK))


def test_every_changed_byte_of_an_archive_is_noticed(tmp_path):
    raw = members(("a.py", b"x" * BLOCK))
    for position in [*range(BLOCK), *range(2 * BLOCK, len(raw))]:
        changed = bytearray(raw)
        changed[position] ^= 1
        with pytest.raises(ArchiveError):
            read(bytes(changed))


@pytest.mark.parametrize("raw", [b"", END, bytes(100)])
def test_archive_without_files_is_refused(raw):
    with pytest.raises(ArchiveError, match="0 files"):
        read(raw)


def test_archive_that_is_too_large_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(ArchiveError, match="at most 100 are read"):
        read(b"not even an archive" * 10)


@given(st.binary(max_size=3 * BLOCK))
def test_any_bytes_give_an_archive_error_or_nothing(raw):
    with pytest.raises(ArchiveError):
        read(raw)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True), st.binary(max_size=1200), min_size=1
    )
)
def test_what_reads_is_what_is_written_again(files):
    raw = members(*sorted(files.items()))
    assert {name: bytes(content) for name, content in read(raw).items()} == files


def test_archive_of_another_digest_writes_nothing(tmp_path):
    with pytest.raises(DigestMismatchError):
        unpack(members(("a.py", b"x")), tmp_path / "out", sha256=bytes(32))
    assert not list(tmp_path.iterdir())


def test_hostile_archive_writes_nothing(tmp_path):
    raw = members(("a.py", b"x"), ("../b.py", b"y"))
    with pytest.raises(ArchiveError):
        unpacked(raw, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_folder_in_use_is_not_unpacked_over(tmp_path):
    raw = members(("a.py", b"x"))
    folder_with(tmp_path / "out", {"mine.py": b""})
    with pytest.raises(ArchiveError, match="is not empty"):
        unpacked(raw, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_unpacking_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        unpacked(members(("a.py", b"x")), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_unpacked_code_can_be_read_by_another_user_and_is_not_executable(tmp_path):
    (tmp_path / "out").mkdir()
    unpacked(members(("a.py", b"x")), tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out" / "a.py").stat().st_mode) == 0o644
