"""The writer: durable before it returns, whole after a crash, halted by a full disk, ended by a failing one."""

from __future__ import annotations

import errno
import resource
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from policies.audit import AuditLockedError, AuditLog, AuditWriteError, Event, Record
from policies.audit.files import DiskFile
from policies.audit.folder import Reserve
from policies.audit.frames import frame, read_frames
from policies.audit.merkle import leaf_hash, verify_consistency, verify_inclusion
from policies.audit.recovery import recover
from policies.errors import AuditError, AuditHaltedError, MalformedRecordError, RecordTamperedError, UsageError
from tests.fakes.audit_folder import EAR, BreakableDisk, Program, Witness

EVENT = Event(action="job.state", actor="server", object="digits", job="digits", previous="queued", next="running")


def records_in(folder: Path) -> list[Record]:
    return [Record.parse(entry) for _, entry in read_frames((folder / "server" / "records").read_bytes())]


def actions_in(folder: Path) -> list[str]:
    return [record.action for record in records_in(folder)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def server() -> Program:
    return Program("server")


def reboot(program: Program) -> Program:
    return Program(program.name, boot_number=program.boot_number + 1, clock=program.clock)


# --- ordinary life ---------------------------------------------------------------------------------------------------


def test_first_record_of_a_boot_certifies_its_log_key(folder, server):
    server.open(folder).release()
    opened = records_in(folder)[0]
    assert (opened.action, opened.digests) == ("log.open", {"log-key": server.public_key, "ear": EAR})


def test_receipt_names_the_place_and_the_hash_of_the_stored_bytes(folder, server):
    with server.open(folder) as log:
        receipt = log.append_critical(EVENT)
    entries = [entry for _, entry in read_frames((folder / "server" / "records").read_bytes())]
    assert (receipt.seq, receipt.leaf) == (1, leaf_hash(entries[1]))


def test_critical_event_is_synced_before_it_returns_and_an_ordinary_one_is_not(folder, server):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log:
        before = len(disk.synced)
        log.append(EVENT)
        assert len(disk.synced) == before
        log.append_critical(EVENT)
        assert len(disk.synced) > before


def test_ordinary_event_is_synced_within_100_ms_by_ticks(folder, server):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log:
        log.append(EVENT)
        before = len(disk.synced)
        log.tick()
        assert len(disk.synced) == before
        server.clock.skip(0.1)
        log.tick()
        assert len(disk.synced) > before


def test_checkpoint_comes_every_second_and_only_over_new_records(folder, server):
    with server.open(folder) as log:
        log.append(EVENT)
        server.clock.skip(1)
        log.tick()
        assert log.latest is not None
        assert log.latest.checkpoint.size == 2
        latest = log.latest
        server.clock.skip(1)
        log.tick()
        assert log.latest is latest


def test_checkpoint_comes_every_256_records(folder, server):
    with server.open(folder) as log:
        for _ in range(258):
            log.append(EVENT)
        assert log.latest is not None
        assert log.latest.checkpoint.size == 257


def test_checkpoint_signs_only_what_is_on_disk(folder, server):
    disk = BreakableDisk()
    log = server.open(folder, open_file=disk)
    log.append(EVENT)
    disk.sync_errno = errno.EIO
    size = (folder / "server" / "checkpoints").stat().st_size
    with pytest.raises(AuditWriteError):
        log.checkpoint()
    assert (folder / "server" / "checkpoints").stat().st_size == size


def test_checkpoint_is_on_disk_before_anyone_sees_it(folder, server):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log:
        log.append(EVENT)
        disk.synced.clear()
        log.checkpoint()
        assert disk.synced[0] == "records"
        assert disk.synced[-1] == "checkpoints"


def test_proofs_lead_to_the_latest_checkpoint(folder, server):
    with server.open(folder) as log:
        old = log.checkpoint().checkpoint
        receipt = log.append_critical(EVENT)
        new = log.checkpoint().checkpoint
        verify_consistency(
            old=old.size, new=new.size, old_root=old.root, new_root=new.root, proof=log.consistency(old.size)
        )
        verify_inclusion(
            leaf=receipt.leaf, index=receipt.seq, size=new.size, proof=log.inclusion(receipt.seq), root=new.root
        )


def test_clock_that_runs_back_stands_still_in_the_record(folder, server):
    with server.open(folder) as log:
        server.clock.time -= timedelta(hours=1)
        log.append_critical(EVENT)
    first, second = records_in(folder)
    assert second.ts == first.ts


def test_clock_that_runs_back_within_one_write_stands_still_too(folder, server):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log:
        with disk.full(), pytest.raises(AuditHaltedError):
            log.append(EVENT)
        server.clock.skip(60)
        server.clock.now = lambda: server.clock.time - timedelta(seconds=next(steps))
        steps = iter(range(9))
        log.append_critical(EVENT)
    times = [record.ts for record in records_in(folder)]
    assert times == sorted(times)


def test_files_belong_to_their_owner_alone_and_nothing_else_is_in_the_folder(folder, server):
    server.open(folder).release()
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "server").iterdir()}
    assert files == {"records": 0o600, "checkpoints": 0o600, "cosignatures": 0o600}
    assert (folder.parent / "aside" / "server.reserve").stat().st_size == 64 * 1024


def test_event_that_cannot_be_a_record_changes_nothing(folder, server):
    with server.open(folder) as log:
        with pytest.raises(MalformedRecordError):
            log.append(Event(action="refuse", actor="a\nb", object="x"))
        assert log.size == 1


def test_threads_never_tear_the_record(folder, server):
    with server.open(folder) as log:
        threads = [threading.Thread(target=lambda: [log.append_critical(EVENT) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [record.seq for record in records_in(folder)] == list(range(81))


def test_second_writer_is_refused(folder, server):
    with server.open(folder), pytest.raises(AuditLockedError, match="another process"):
        server.open(folder)


def test_lock_and_reserve_inside_the_folder_are_refused(folder, server):
    with pytest.raises(UsageError, match="outside"):
        server.open(folder, aside=folder / "aside")


def test_names_that_do_not_agree_are_refused(tmp_path, server):
    with pytest.raises(UsageError, match="origin"):
        AuditLog.open(
            tmp_path / "audit" / "site-a",
            origin=server.origin,
            log="server",
            signing_key=server.key,
            boot_id=server.boot,
            clock=server.clock,
            randomness=bytes,
            aside=tmp_path / "aside",
            actor="server",
            ear=None,
        )


def test_closed_log_takes_no_event_but_still_takes_cosignatures(folder, server):
    site = Program("site-a", clock=server.clock)
    with server.open(folder) as log, site.open(folder) as site_log:
        log.close()
        with pytest.raises(AuditError, match="closed"):
            log.append(EVENT)
        Witness(site, site_log, server).cosign(log)
    assert (folder / "server" / "cosignatures").stat().st_size > 0


def test_released_log_takes_nothing(folder, server):
    log = server.open(folder)
    log.release()
    log.release()  # a second time is nothing
    with pytest.raises(AuditWriteError, match="released"):
        log.append(EVENT)


# --- cosignatures ----------------------------------------------------------------------------------------------------


def test_cosignature_is_kept_once_for_each_witness_and_size(folder, server):
    site = Program("site-a", clock=server.clock)
    with server.open(folder) as log, site.open(folder) as site_log:
        line = Witness(site, site_log, server).cosign(log)
        size = (folder / "server" / "cosignatures").stat().st_size
        log.add_cosignature(line.encode(), size=1, witnesses={site.origin: [site.public_key]})
        assert (folder / "server" / "cosignatures").stat().st_size == size > 0


@pytest.mark.parametrize("fault", ["unknown", "other key", "no checkpoint", "other size"])
def test_cosignature_that_does_not_hold_is_not_kept(folder, server, fault):
    site = Program("site-a", clock=server.clock)
    with server.open(folder) as log:
        head = log.checkpoint().checkpoint
        line = head.cosign(name=site.origin, key=site.key, seconds=1)
        log.append(EVENT)
        log.checkpoint()
        witnesses = {site.origin: [site.public_key]}
        if fault == "unknown":
            witnesses = {}
        elif fault == "other key":
            witnesses = {site.origin: [server.public_key]}
        size = {"no checkpoint": 77, "other size": 2}.get(fault, 1)
        with pytest.raises(RecordTamperedError):
            log.add_cosignature(line.encode(), size=size, witnesses=witnesses)
    assert (folder / "server" / "cosignatures").stat().st_size == 0


# --- after a crash ---------------------------------------------------------------------------------------------------


def test_log_goes_on_after_a_restart_with_another_key(folder, server):
    server.open(folder).release()
    with reboot(server).open(folder) as log:
        assert log.size == 2
    assert actions_in(folder) == ["log.open", "log.open"]


@pytest.mark.parametrize(
    ("file", "tail"),
    [
        ("records", b"\0\0"),
        ("records", b"\0\0\1\0{torn"),
        ("records", frame(b"{}")),
        ("records", bytes(4096)),
        ("checkpoints", b"\0\0\0\x90demo"),
        ("cosignatures", b"\0\0"),
    ],
)
def test_torn_tail_is_cut_and_the_cut_recorded(folder, server, file, tail):
    with server.open(folder) as log:
        log.append_critical(EVENT)
    with (folder / "server" / file).open("ab") as stream:
        stream.write(tail)
    reboot(server).open(folder).release()
    assert actions_in(folder) == ["log.open", "job.state", "log.open", "log.cut"]
    assert file in records_in(folder)[-1].reasons[0]
    assert f"{len(tail)} bytes" in records_in(folder)[-1].reasons[0]


def test_record_torn_in_the_middle_is_cut_and_those_before_it_stay(folder, server):
    with server.open(folder) as log:
        log.append_critical(EVENT)
        log.append_critical(EVENT)
    path = folder / "server" / "records"
    path.write_bytes(path.read_bytes()[:-5])
    reboot(server).open(folder).release()
    assert actions_in(folder) == ["log.open", "job.state", "log.open", "log.cut"]


def test_damage_before_the_last_checkpoint_refuses_to_start(folder, server):
    with server.open(folder) as log:
        log.append_critical(EVENT)
        log.checkpoint()
    path = folder / "server" / "records"
    raw = path.read_bytes()
    for damaged in (raw[:-1], raw[:100], b"", raw.replace(b"running", b"stopped"), raw.replace(b'"seq":1', b'"seq":7')):
        path.write_bytes(damaged)
        with pytest.raises(RecordTamperedError):
            reboot(server).open(folder)
        assert path.read_bytes() == damaged


def test_log_shorter_than_its_last_checkpoint_says_what_was_found_in_its_place(folder, server):
    with server.open(folder) as log:
        log.append_critical(EVENT)
        log.checkpoint()
    path = folder / "server" / "records"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordTamperedError, match=r"1 sound records, its last checkpoint covers 2: frame at byte \d+"):
        reboot(server).open(folder)


@pytest.mark.parametrize("file", ["records", "checkpoints", "cosignatures"])
def test_deleted_file_refuses_to_start(folder, server, file):
    server.open(folder).release()
    (folder / "server" / file).unlink()
    with pytest.raises(RecordTamperedError, match="missing"):
        reboot(server).open(folder)


def test_file_deleted_together_with_the_reserve_is_noticed_by_what_is_left(folder, server):
    server.open(folder).release()
    (folder.parent / "aside" / "server.reserve").unlink()
    (folder / "server" / "checkpoints").unlink()
    with pytest.raises(RecordTamperedError, match="missing"):
        reboot(server).open(folder)


def test_checkpoint_that_another_key_signed_refuses_to_start(folder, server):
    with server.open(folder) as log:
        head = log.checkpoint().checkpoint
    (folder / "server" / "checkpoints").write_bytes(frame(head.sign(Program("site-a").key).encode()))
    with pytest.raises(RecordTamperedError, match="names the key"):
        reboot(server).open(folder)


def test_checkpoints_out_of_order_are_damage(folder, server):
    with server.open(folder) as log:
        log.append(EVENT)
        log.close()
    raw = {name: (folder / "server" / name).read_bytes() for name in ("records", "checkpoints", "cosignatures")}
    entries = [entry for _, entry in read_frames(raw["checkpoints"])]
    raw["checkpoints"] = b"".join(map(frame, [entries[1], entries[0], entries[1]]))
    with pytest.raises(RecordTamperedError, match="stands behind"):
        recover(**raw, origin=server.origin, log="server")


def test_cosignature_over_a_size_without_checkpoint_is_damage(folder, server):
    site = Program("site-a", clock=server.clock)
    with server.open(folder) as log, site.open(folder) as site_log:
        Witness(site, site_log, server).cosign(log)
    path = folder / "server" / "cosignatures"
    path.write_bytes(path.read_bytes().replace(b"1\n", b"9\n", 1))
    with pytest.raises(RecordTamperedError, match="size 9"):
        reboot(server).open(folder)


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 100])
def test_full_disk_halts_and_both_halt_and_resumption_are_recorded(folder, server, room):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log:
        log.append_critical(EVENT)
        before = (folder / "server" / "records").read_bytes()
        disk.room = room
        for _ in range(2):
            with pytest.raises(AuditHaltedError, match="disk is full"):
                log.append_critical(EVENT)
        assert (folder / "server" / "records").read_bytes() == before
        with pytest.raises(AuditHaltedError):
            log.checkpoint()
        disk.room = 1 << 20
        log.append_critical(EVENT)
    assert actions_in(folder) == ["log.open", "job.state", "audit.halt", "audit.resume", "job.state"]
    assert "since 2026-" in records_in(folder)[2].reasons[1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_of_having_no_room_halts_and_ends_nothing(folder, server, number):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log:
        disk.write_errno = number
        with pytest.raises(AuditHaltedError):
            log.append(EVENT)
        disk.write_errno = None
        log.append(EVENT)
    assert actions_in(folder)[1:] == ["audit.halt", "audit.resume", "job.state"]


def test_file_that_could_take_only_a_part_is_as_it_was(tmp_path):
    file = DiskFile(tmp_path / "records", create=True)
    file.append(b"whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            file.append(bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (file.read(), file.size) == (b"whole", 5)
    file.close()


def test_checkpoint_resumes_a_halted_log(folder, server):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log:
        with disk.full(), pytest.raises(AuditHaltedError):
            log.append(EVENT)
        assert log.checkpoint().checkpoint.size == 3
    assert actions_in(folder) == ["log.open", "audit.halt", "audit.resume"]


def test_checkpoint_that_does_not_fit_halts(folder, server):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log:
        log.append(EVENT)
        with disk.full(), pytest.raises(AuditHaltedError):
            log.checkpoint()
        assert log.checkpoint().checkpoint.size == 4


def test_halt_survives_a_crash_in_the_reserve(folder, server):
    disk = BreakableDisk()
    with server.open(folder, open_file=disk) as log, disk.full(), pytest.raises(AuditHaltedError):
        log.append(EVENT)
    reboot(server).open(folder).release()
    assert actions_in(folder) == ["log.open", "log.open", "audit.halt", "audit.resume"]
    second = reboot(reboot(server))
    second.open(folder).release()
    assert actions_in(folder)[4:] == ["log.open"]


def test_reserve_holds_one_entry_and_needs_no_room(tmp_path):
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.held() is None
    reserve.hold(b"halt")
    reserve.close()
    again = Reserve(tmp_path / "reserve")
    assert again.held() == b"halt"
    again.clear()
    assert again.held() is None
    again.close()
    assert (tmp_path / "reserve").stat().st_size == 64 * 1024


# --- a failing disk --------------------------------------------------------------------------------------------------


def test_failed_sync_ends_the_log_for_good(folder, server):
    disk = BreakableDisk()
    log = server.open(folder, open_file=disk)
    disk.sync_errno = errno.EIO
    with pytest.raises(AuditWriteError, match="cannot be written"):
        log.append_critical(EVENT)
    disk.sync_errno = None
    for attempt in (lambda: log.append(EVENT), log.checkpoint, log.tick, log.close):
        with pytest.raises(AuditWriteError):
            attempt()
    log.release()


def test_full_disk_at_sync_ends_the_log_too(folder, server):
    disk = BreakableDisk()
    log = server.open(folder, open_file=disk)
    disk.sync_errno = errno.ENOSPC
    with pytest.raises(AuditWriteError):
        log.append_critical(EVENT)
    log.release()


def test_failed_write_ends_the_log_for_good(folder, server):
    disk = BreakableDisk()
    log = server.open(folder, open_file=disk)
    disk.write_errno = errno.EIO
    with pytest.raises(AuditWriteError):
        log.append(EVENT)
    disk.write_errno = None
    with pytest.raises(AuditWriteError):
        log.append(EVENT)
    log.release()


def test_folder_that_cannot_be_made_is_a_write_error(tmp_path, server):
    (tmp_path / "audit").write_text("a file where the folder should be")
    with pytest.raises(AuditWriteError, match="cannot be opened"):
        server.open(tmp_path / "audit")
