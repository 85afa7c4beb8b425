"""From an empty folder to a federation that runs, by the very commands that `docs/by-hand.md` types into terminals."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import attestation
import fl_runtime
import policies
import provisioning
from fl_runtime.demo.errors import DemoError
from fl_runtime.demo.ground import Command, cloister, python
from fl_runtime.demo.processes import Processes
from policies.errors import UsageError
from provisioning.laboratory import default_sites
from provisioning.layout import ATTESTATION, LAYOUT_FILE, SERVER, SERVICE_LOG, Laboratory

TRUST_DOMAIN = "demo.cloister.mock"
SITES: Mapping[str, str] = default_sites(4)  # as many as the digits are shared out among, and a sum needs
MOCK_TEE = "mock-tee"
STOP_ORDER = ((SERVER,), (SERVICE_LOG,), tuple(SITES))  # each log is closed while those who witness it still run
MARK = "demo.json"  # in a folder that a demonstration wrote, and may write again
COUNTS = "counts.json"  # written last: data is whole where it is
_VENDOR = "vendor.json"  # of the mock TEE's folder
_CODE = (attestation, policies, provisioning, fl_runtime)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Data and initial model, made once for each seed and kept."""

    folder: Path
    counts: Mapping[str, int]  # samples by site, and of `test`


def freeze_image(folder: Path) -> tuple[Path, ...]:
    """Copy the code that every machine is launched from, so that nobody's editor changes a machine half-way.

    Returns:
        Its folders, in `folder`, with the same measurement as the code that runs.
    """
    sources = [Path(next(iter(package.__path__))) for package in _CODE]
    for source in sources:
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tuple(folder / source.name for source in sources)


def clear_folder(output: Path) -> None:
    """Make room for a new run: what an earlier demonstration wrote goes, anything else stays.

    Raises:
        UsageError: `output` holds something else, or cannot be removed.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not ((output / MARK).is_file() and (output / LAYOUT_FILE).is_file()) or output.is_symlink():
        raise UsageError(
            f"{output} holds something that no demonstration wrote", hint="choose another folder with --output"
        )
    try:
        shutil.rmtree(output)
    except OSError as error:
        raise UsageError(f"the earlier run in {output} cannot be removed: {error}") from error


def mark_folder(output: Path, *, seed: int) -> None:
    """Say that a demonstration wrote this folder."""
    (output / MARK).write_text(json.dumps({"demo": TRUST_DOMAIN, "seed": seed, "pid": os.getpid()}) + "\n")


async def prepare_digits(processes: Processes, *, example: Path, cache: Path, seed: int) -> Prepared:
    """Make data and initial model, or find those that were made before by the same code from the same seed.

    Raises:
        ProgramError: The example's own code failed.
    """
    code = hashlib.sha256(b"".join((example / name).read_bytes() for name in ("prepare.py", "model.py"))).hexdigest()
    folder = cache / f"seed-{seed}-{code[:12]}"
    if not (folder / COUNTS).is_file():
        with _staging(cache) as staging:
            command = python("fl_runtime.demo.digits", "prepare", example, staging, str(seed))
            said = await processes.require("prepare", command)
            _complete(staging, folder, counts=said.output[-1])
    return Prepared(folder=folder, counts=json.loads((folder / COUNTS).read_text()))


@contextmanager
def _staging(cache: Path) -> Iterator[Path]:
    """Give an empty folder in `cache`; it is gone after the block, unless it was renamed."""
    cache.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=cache))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _complete(staging: Path, folder: Path, *, counts: str) -> None:
    (staging / COUNTS).write_text(counts)
    with suppress(OSError):  # another demonstration was quicker: its files are the same
        staging.rename(folder)


def hand_out(prepared: Prepared, laboratory: Laboratory) -> None:
    """Put each site's data where its settings say it is.

    Raises:
        DemoError: There is none for one of them.
    """
    for site in laboratory.layout.sites:
        source = prepared.folder / f"{site}.npz"
        if not source.is_file():
            raise DemoError(
                f"there is no data for {site} in {prepared.folder}", hint="remove that folder, and try again"
            )
        shutil.copyfile(source, laboratory.data(site))


async def found(
    laboratory: Laboratory, processes: Processes, *, image: Sequence[Path], vendor_cache: Path, tell: Tell
) -> None:
    """Start the mock TEE and the attestation service, sign the first documents, and grant every node its machine.

    Args:
        laboratory: Made; nothing of it runs.
        processes: Start the programs.
        image: Folders of code that every machine is launched from.
        vendor_cache: Folder that keeps the mock vendor's keys from one run to the next; they take seconds to make.
        tell: Told what is being waited for.

    Raises:
        ProgramError: One of the programs failed.
    """
    tell("the mock TEE starts")
    known = vendor_cache / _VENDOR
    if known.is_file():
        shutil.copy(known, laboratory.tee / _VENDOR)
    measured, _ = await asyncio.gather(
        processes.require("measure", cloister("mock-tee", "measure", *image)),
        processes.start(
            MOCK_TEE, cloister("mock-tee", "serve", "--config", laboratory.mock_tee_settings), ready="mock TEE ready"
        ),
    )
    _keep_vendor(laboratory.tee / _VENDOR, known)

    tell("the attestation service starts")
    await asyncio.gather(
        processes.require("roots", cloister("mock-tee", "roots", "--dir", laboratory.tee)),
        _launch_service(laboratory, processes, image),
    )
    tell("the attestation service proves itself, and is given the first signed documents")
    await processes.require(
        "genesis",
        cloister("provision", "genesis", laboratory.directory, "--image-measurement", measured.output[-1]),
    )
    tell("machines are launched, and granted to their organisations' nodes")
    await asyncio.gather(
        processes.said(SERVICE_LOG, "attestation service ready"),
        *(_launch(laboratory, processes, image, node) for node in laboratory.nodes),
    )
    await processes.require("grants", cloister("provision", "grants", laboratory.directory))


async def start_server(laboratory: Laboratory, processes: Processes) -> str:
    """Start the server, wait until it is admitted, and return what it said about that."""
    config = laboratory.kit(SERVER) / "server.toml"
    return await processes.start(SERVER, cloister("server", "start", "--config", config), ready="server ready")


async def start_sites(laboratory: Laboratory, processes: Processes, *, admitted: Callable[[str], None]) -> None:
    """Start every site and wait until each is admitted and has verified the server; `admitted` is called with each."""

    async def start(site: str) -> None:
        config = laboratory.kit(site) / "site.toml"
        await processes.start(site, cloister("site", "start", "--config", config), ready="admitted")
        await processes.said(site, "channel open")
        admitted(site)

    await asyncio.gather(*map(start, sorted(laboratory.layout.sites)))


async def _launch_service(laboratory: Laboratory, processes: Processes, image: Sequence[Path]) -> None:
    launching = _launching(laboratory, image, ATTESTATION, laboratory.service_init_data)
    await processes.require(f"launch-{ATTESTATION}", launching)
    command = cloister("attestation", "serve", "--config", laboratory.service_settings)
    await processes.start(SERVICE_LOG, command, ready="no root yet")


async def _launch(laboratory: Laboratory, processes: Processes, image: Sequence[Path], node: str) -> None:
    command = _launching(laboratory, image, node, laboratory.kit(node) / "init-data.json", gpus=(f"gpu-{node}",))
    await processes.require(f"launch-{node}", command)


def _launching(
    laboratory: Laboratory, image: Sequence[Path], machine: str, init_data: Path, *, gpus: Iterable[str] = ()
) -> Command:
    folders = [part for folder in image for part in ("--image", folder)]
    boards = [part for serial in gpus for part in ("--gpu", serial)]
    where = ("--dir", laboratory.tee, "--name", machine, "--init-data", init_data)
    return cloister("mock-tee", "launch", *where, *folders, *boards)


def _keep_vendor(made: Path, known: Path) -> None:
    """Keep the vendor's keys for the next run; a run that cannot will make new ones."""
    if known.is_file():
        return
    with suppress(OSError):
        known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = known.with_suffix(f".{os.getpid()}")
        shutil.copy(made, partial)  # with its mode: it holds keys
        partial.replace(known)
