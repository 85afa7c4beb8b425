"""A small, legal folder of logs and the trust that verifies it, written by the real writer with a clock that ticks."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.audit import AuditLog, AuditTrust, BootKey, Event, LogTrust, WitnessState, cosign_event
from policies.audit.files import DiskFile, OpenFile
from policies.audit.note import SignatureLine
from policies.documents import raw_public_key

TRUST_DOMAIN = "demo.mock"
EAR = bytes(range(32))
JOB = "digits"


@dataclass
class TickingClock:
    """Moves on by a millisecond whenever it is asked; `skip` moves it further, back too."""

    time: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    mono: int = 1_000_000_000

    def now(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time

    def monotonic_ns(self) -> int:
        self.mono += 1_000_000
        return self.mono

    def skip(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.mono += max(int(seconds * 1e9), 0)


@dataclass
class Program:
    """One program that keeps a log: its name, keys and boot. The same name has the same keys in every test."""

    name: str
    boot_number: int = 0
    clock: TickingClock = field(default_factory=TickingClock)

    @property
    def key(self) -> Ed25519PrivateKey:
        seed = random.Random(f"{self.name} {self.boot_number}")  # noqa: S311 - a fake, and meant to repeat
        return Ed25519PrivateKey.from_private_bytes(seed.randbytes(32))

    @property
    def boot(self) -> bytes:
        return random.Random(f"boot {self.name} {self.boot_number}").randbytes(16)  # noqa: S311 - as above

    @property
    def origin(self) -> str:
        return f"{TRUST_DOMAIN}/{self.name}"

    @property
    def public_key(self) -> bytes:
        return raw_public_key(self.key)

    def open(self, folder: Path, *, open_file: OpenFile = DiskFile, aside: Path | None = None) -> AuditLog:
        """Open this program's log in `folder`; its lock and reserve lie in a folder `aside` beside that."""
        return AuditLog.open(
            folder / self.name,
            origin=self.origin,
            log=self.name,
            signing_key=self.key,
            boot_id=self.boot,
            clock=self.clock,
            randomness=random.Random(f"salt {self.name} {self.boot_number}").randbytes,  # noqa: S311 - as above
            aside=aside or folder.parent / "aside",
            actor=self.name,
            ear=EAR,
            open_file=open_file,
        )


Story = Sequence[tuple[str, Event]]  # who records what, in order

LEGAL_STORY: Story = (
    ("service", Event(action="service.genesis", actor="service", object="demo.mock")),
    ("service", Event(action="attestation.decision", actor="service", object="server", decision="allow", jti="jti-1")),
    ("site-a", Event(action="server.appraise", actor="site-a", object="server", decision="allow", jti="jti-1")),
    ("server", Event(action="job.submit", actor="admin-1", object=JOB, job=JOB, decision="allow", via="SubmitJob")),
    ("site-a", Event(action="job.approve", actor="site-a", object=JOB, job=JOB, decision="allow", request="req-1")),
    (
        "service",
        Event(
            action="key.release",
            actor="service",
            object="job key",
            job=JOB,
            decision="allow",
            jti="jti-1",
            request="req-2",
        ),
    ),
    (
        "service",
        Event(
            action="refuse",
            actor="service",
            object="Attest",
            decision="deny",
            reasons=("debug is on",),
            request="req-3",
        ),
    ),
    ("server", Event(action="round.open", actor="server", object="a round of 1 site", job=JOB, round=1)),
    ("site-a", Event(action="update.sent", actor="site-a", object="its update", job=JOB, round=1)),
    ("server", Event(action="unmask", actor="server", object="the sum", job=JOB, round=1, decision="allow")),
    (
        "server",
        Event(
            action="round.commit", actor="server", object="the sum", job=JOB, round=1, request="req-4", next="intended"
        ),
    ),
    (
        "server",
        Event(
            action="round.commit",
            actor="server",
            object="the sum",
            job=JOB,
            round=1,
            request="req-4",
            previous="intended",
            next="done",
        ),
    ),
    ("server", Event(action="model.release", actor="server", object="the model", job=JOB, round=1, decision="allow")),
)


@dataclass(frozen=True)
class AuditFolder:
    """Where the logs are, and whom to believe."""

    path: Path
    trust: AuditTrust
    trust_path: Path  # beside the folder, where the command looks for it


class Witness:
    """A site as witness of one log."""

    def __init__(self, program: Program, log: AuditLog, witnessed: Program) -> None:
        self.program = program
        self.log = log
        self.witnessed = witnessed
        self.state = WitnessState.empty(witnessed.origin)

    def cosign(self, other: AuditLog) -> SignatureLine:
        """Take the other log's new head: remember it, record it, cosign it."""
        signed = other.checkpoint()
        self.state, line = self.state.advance(
            signed,
            other.consistency(self.state.size),
            log_key=self.witnessed.public_key,
            name=self.program.origin,
            key=self.program.key,
            seconds=int(self.program.clock.now().timestamp()),
        )
        self.log.append_critical(cosign_event(signed.checkpoint, actor=self.program.name))
        other.add_cosignature(
            line.encode(), size=signed.checkpoint.size, witnesses={self.program.origin: [self.program.public_key]}
        )
        return line


def build_audit_folder(root: Path, *, sites: Iterable[str] = ("site-a",), story: Story = LEGAL_STORY) -> AuditFolder:
    """Write `root/audit` (closed logs of a service, a server and the sites) and `root/trust.json`.

    The service's and the server's heads are cosigned by every site twice: in the middle and at the end. All programs share
    one clock, so that their records are in the order of `story`.
    """
    clock, names = TickingClock(), tuple(sites)
    programs = {name: Program(name, clock=clock) for name in ("service", "server", *names)}
    folder = root / "audit"
    with contextlib.ExitStack() as stack:
        logs = {name: stack.enter_context(program.open(folder)) for name, program in programs.items()}
        witnesses = [
            (Witness(programs[site], logs[site], programs[name]), logs[name])
            for name in ("service", "server")
            for site in names
        ]
        for index, (name, event) in enumerate(story):
            logs[name].append_critical(event)
            if index == len(story) // 2:
                _cosign_all(witnesses)
        for name in ("service", "server"):
            logs[name].close()
        _cosign_all(witnesses)
        for site in names:
            logs[site].close()
    trust = trust_of(programs.values())
    (root / "trust.json").write_bytes(trust.encode())
    return AuditFolder(path=folder, trust=trust, trust_path=root / "trust.json")


def trust_of(programs: Iterable[Program], *, closed: bool = True) -> AuditTrust:
    """The trust that certifies these programs' keys: sites witness the others, more than half of them are needed."""
    listed = tuple(programs)
    sites = {program.origin: (program.public_key,) for program in listed if program.name.startswith("site-")}
    return AuditTrust(
        v=1,
        trust_domain=TRUST_DOMAIN,
        logs=tuple(_trust_of(program, sites=sites, closed=closed) for program in listed),
    )


def _trust_of(program: Program, *, sites: dict[str, tuple[bytes, ...]], closed: bool) -> LogTrust:
    kind = "site" if program.name.startswith("site-") else "service" if program.name == "service" else "server"
    witnesses = {} if kind == "site" else sites
    return LogTrust(
        name=program.name,
        kind=kind,
        boots=(BootKey(boot=program.boot, key=program.public_key),),
        witnesses=witnesses,
        min_cosignatures=len(witnesses) // 2 + 1 if witnesses else 0,
        closed=closed,
    )


def _cosign_all(witnesses: Iterable[tuple[Witness, AuditLog]]) -> None:
    for witness, log in witnesses:
        witness.cosign(log)


class BreakableDisk:
    """Opens real files on a disk that can fill up or fail; `room` counts the bytes that still fit."""

    def __init__(self, *, room: int = 1 << 30) -> None:
        self.room = room
        self.write_errno: int | None = None  # raised by the next appends
        self.sync_errno: int | None = None  # raised by the next syncs
        self.synced: list[str] = []  # names of files, in order

    def __call__(self, path: Path, *, create: bool) -> DiskFile:
        return _BreakableFile(path, create=create, disk=self)

    def take(self, wanted: int) -> int:
        """How many of `wanted` bytes fit."""
        fitting = min(wanted, self.room)
        self.room -= fitting
        return fitting

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """No room inside the block."""
        room, self.room = self.room, 0
        try:
            yield
        finally:
            self.room = room


class _BreakableFile(DiskFile):
    def __init__(self, path: Path, *, create: bool, disk: BreakableDisk) -> None:
        super().__init__(path, create=create)
        self.disk = disk
        self.name = path.name

    def append(self, content: bytes) -> None:
        if self.disk.write_errno is not None:
            raise OSError(self.disk.write_errno, os.strerror(self.disk.write_errno))
        fitting = self.disk.take(len(content))
        if fitting < len(content):
            os.write(self._fd, content[:fitting])  # a full disk takes what fits, then refuses
            os.ftruncate(self._fd, self.size)
            self.disk.room += fitting
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().append(content)

    def sync(self) -> None:
        self.disk.synced.append(self.name)
        if self.disk.sync_errno is not None:
            raise OSError(self.disk.sync_errno, os.strerror(self.disk.sync_errno))
        super().sync()
