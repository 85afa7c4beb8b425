"""The code archive of a job: named by its SHA-256, the same bytes for the same files, wherever it was packed.

It is an uncompressed tar (POSIX ustar) that any tool can list, of regular files alone. There is exactly one archive for a set
of files, and only that one is unpacked: each header must be the very 512 bytes that `pack` writes for its name and size. So
there is nothing to interpret: no links, devices, owners, extended headers, sparse files or compression exist here.

Source: POSIX.1-2017, pax, "ustar Interchange Format"
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from fl_runtime.jobs.errors import ArchiveError
from fl_runtime.transport.chunks import require_digest

MAX_ARCHIVE_BYTES = 16 << 20
MAX_FILES = 1000
MAX_NAME_BYTES = 100  # of ustar without its prefix field
BLOCK = 512
END = bytes(2 * BLOCK)

# What is code or a setting of it. Data and models are none: a sample or a checkpoint that lies about never leaves by accident.
SUFFIXES = frozenset({".py", ".pyi", ".json", ".toml", ".yaml", ".yml", ".cfg", ".ini", ".txt", ".md"})

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # no `..`, nothing hidden, nothing a terminal or a shell reads otherwise
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_REGULAR = b"0"
_KINDS: Mapping[bytes, str] = {
    b"\0": "a file of an old format",
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a FIFO",
    b"x": "an extended header",
    b"g": "an extended header",
    b"L": "a long name",
    b"S": "a sparse file",
}


# --- packing ----------------------------------------------------------------------------------------------------------


def pack(folder: Path, *, leave_out: Collection[Path] = ()) -> bytes:
    """Return the archive of the code in a folder: its files of `SUFFIXES`, without hidden ones and `__pycache__`.

    Args:
        folder: Its files keep their names relative to it.
        leave_out: Files that are none of the job's code, such as `job.toml` and the model.

    Raises:
        ArchiveError: A symbolic link or a name that cannot travel, too many files or bytes, or none at all.
        OSError: A file cannot be read.
    """
    unwanted = {path.resolve() for path in leave_out}
    sources = {_name_in(folder, path): path for path in _code_files(folder) if path.resolve() not in unwanted}
    if not sources:
        raise ArchiveError(f"{folder} has no code", hint=f"code is what ends in {', '.join(sorted(SUFFIXES))}")
    if len(sources) > MAX_FILES:
        raise ArchiveError(f"{folder} has {len(sources)} files of code, at most {MAX_FILES} travel")
    parts = [part for name in sorted(sources) for part in _member(name, sources[name].read_bytes())]
    raw = b"".join((*parts, END))
    if len(raw) > MAX_ARCHIVE_BYTES:
        largest = max(sources, key=lambda name: sources[name].stat().st_size)
        raise ArchiveError(
            f"the code in {folder} has {len(raw)} bytes, at most {MAX_ARCHIVE_BYTES} travel",
            hint=f"the largest file is {largest}; data stays at the sites, it is no part of a job",
        )
    return raw


def _code_files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_ignored(name)]
        code = [name for name in files if not _is_ignored(name) and Path(name).suffix in SUFFIXES]
        for name in (*folders, *code):
            if (path := Path(place, name)).is_symlink():
                raise ArchiveError(f"{path} is a symbolic link", hint="copy what it points to, or remove it")
        yield from (Path(place, name) for name in code)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _name_in(folder: Path, path: Path) -> str:
    name = path.relative_to(folder).as_posix()
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES:
        raise ArchiveError(
            f"the name {name!r:.200} cannot travel",
            hint=f"use letters, digits and _ . - in at most {MAX_NAME_BYTES} characters",
        )
    return name


def _member(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    return _header(name, len(content)), content, bytes(-len(content) % BLOCK)


def _header(name: str, size: int) -> bytes:
    """Return the ustar header of a regular file: mode 0644, no owner, time zero."""
    fields = (
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0",  # mode
        b"0000000\0",  # owner
        b"0000000\0",  # group
        b"%011o\0" % size,
        b"00000000000\0",  # time of change
        b" " * 8,  # checksum, counted as spaces
        _REGULAR,
        bytes(100),  # link target
        b"ustar\x0000",  # magic and version
        bytes(32 + 32),  # names of owner and group
        b"0000000\0" * 2,  # device numbers
        bytes(155 + 12),  # prefix of the name, padding
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


# --- unpacking --------------------------------------------------------------------------------------------------------


def unpack(raw: bytes, folder: Path, *, sha256: bytes) -> None:
    """Write the files of an archive into `folder`, which is there whole or not at all.

    Args:
        raw: The archive, from anybody.
        folder: Does not exist yet, or is empty; its parent exists.
        sha256: The digest (32 bytes) that the job's manifest names.

    Raises:
        DigestMismatchError: It is not the archive that was approved.
        ArchiveError: It is not one that `pack` writes, or `folder` is in use.
        OSError: The disk is full, or fails.
    """
    require_digest(hashlib.sha256(raw).digest(), sha256)
    files = read(raw)
    if folder.exists() and any(folder.iterdir()):
        raise ArchiveError(f"{folder} is not empty, expected a new folder for the job's code")
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)
        temporary.chmod(0o755)  # a trainer may run as another user
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read(raw: bytes) -> Mapping[str, memoryview]:
    """Return the files of an archive, views of its bytes by name, in order.

    Raises:
        ArchiveError: It is not one that `pack` writes; the message names the file.
    """
    if len(raw) > MAX_ARCHIVE_BYTES:
        raise ArchiveError(f"code archive has {len(raw)} bytes, at most {MAX_ARCHIVE_BYTES} are read")
    view, offset = memoryview(raw), 0
    files: dict[str, memoryview] = {}
    while len(raw) - offset > len(END):
        name, size = _parse_header(raw[offset : offset + BLOCK])
        start, end = offset + BLOCK, offset + BLOCK + size
        offset = end + -size % BLOCK
        if len(raw) - offset < len(END) or any(view[end:offset]):
            raise ArchiveError(
                f"{name}: {size} bytes and zeros up to the next block were expected, the archive has others"
            )
        if files and name <= next(reversed(files)):
            raise ArchiveError(f"{name} comes after {next(reversed(files))}, expected each name once and in order")
        files[name] = view[start:end]
        if len(files) > MAX_FILES:
            raise ArchiveError(f"code archive has more than {MAX_FILES} files")
    if not files or raw[offset:] != END:
        raise ArchiveError(f"code archive of {len(raw)} bytes and {len(files)} files does not end as expected")
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    if both := folders & files.keys():
        raise ArchiveError(f"{min(both)} is a file and a folder at once")
    return files


def _parse_header(block: bytes) -> tuple[str, int]:
    """Return name and size of a member, whose whole header is then known."""
    raw_name, kind = block[:100].rstrip(b"\0"), block[156:157]
    label = ascii(raw_name.decode("latin-1"))
    if kind != _REGULAR:
        raise ArchiveError(f"{label} is {_KINDS.get(kind, f'of type {kind!r}')}, expected a regular file")
    name = raw_name.decode("latin-1")
    if not _NAME.fullmatch(name):
        raise ArchiveError(f"the name {label} leaves the folder or has characters that are not allowed")
    size_text = block[124:135]
    if not re.fullmatch(rb"[0-7]{11}", size_text):
        raise ArchiveError(f"{label} has the size {size_text!r}, expected 11 octal digits")
    size = int(size_text, 8)
    if block != _header(name, size):
        raise ArchiveError(
            f"the header of {label} has a mode, owner, time or checksum of its own, expected those of `pack`"
        )
    return name, size
