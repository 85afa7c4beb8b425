"""A folder is verified completely: whatever is changed, cut off, added or left out, verification fails and says where."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.audit import AuditTrust, LogTrust, cosign_event, fingerprint, verify_folder
from policies.audit.checkpoint import Checkpoint, encode_cosignature
from policies.audit.frames import frame, read_frames
from policies.audit.record import Record
from policies.errors import AuditError, MalformedDocumentError, MalformedRecordError, RecordTamperedError
from tests.fakes.audit_folder import LEGAL_STORY, AuditFolder, Event, Program, build_audit_folder, trust_of

FILES = [
    f"{log}/{name}" for log in ("service", "server", "site-a") for name in ("records", "checkpoints", "cosignatures")
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> AuditFolder:
    return build_audit_folder(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def audit(pristine: AuditFolder, tmp_path: Path) -> AuditFolder:
    """A copy to tamper with."""
    shutil.copytree(pristine.path, tmp_path / "audit")
    return AuditFolder(path=tmp_path / "audit", trust=pristine.trust, trust_path=pristine.trust_path)


def entries_of(path: Path) -> list[bytes]:
    return [entry for _, entry in read_frames(path.read_bytes())]


def write_entries(path: Path, entries: list[bytes]) -> None:
    path.write_bytes(b"".join(map(frame, entries)))


# --- everything holds ------------------------------------------------------------------------------------------------


def test_well_formed_folder_is_verified(pristine):
    verification = verify_folder(pristine.path, pristine.trust)
    found = {log.name: (len(log.records), log.checkpoints, log.cosignatures, log.closed) for log in verification.logs}
    assert found == {"service": (6, 3, 2, True), "server": (8, 3, 2, True), "site-a": (9, 2, 0, True)}
    assert len(verification.records) == 23


def test_folder_of_more_sites_is_verified(tmp_path):
    built = build_audit_folder(tmp_path, sites=("site-a", "site-b", "site-c"))
    verification = verify_folder(built.path, built.trust)
    assert [log.cosignatures for log in verification.logs] == [6, 6, 0, 0, 0]


def test_records_behind_the_last_checkpoint_of_an_open_log_are_counted_and_not_believed(tmp_path):
    folder, site = tmp_path / "audit", Program("site-a")
    with site.open(folder) as log:
        log.append_critical(Event(action="key.release", actor="x", object="k", decision="allow", jti="never attested"))
    (verified,) = verify_folder(folder, trust_of([site], closed=False)).logs
    assert (len(verified.records), verified.unsigned, verified.closed) == (1, 1, False)


def test_log_of_two_boots_is_verified_with_the_key_of_each(tmp_path):
    folder, first = tmp_path / "audit", Program("site-a")
    second = Program("site-a", boot_number=1, clock=first.clock)
    first.open(folder).release()
    with second.open(folder) as log:
        log.close()
    trusts = [trust_of([program]).logs[0] for program in (first, second)]
    both = trusts[0].model_copy(update={"boots": trusts[0].boots + trusts[1].boots})
    trust = trust_of([first]).model_copy(update={"logs": (both,)})
    assert verify_folder(folder, trust).logs[0].checkpoints == 3
    with pytest.raises(RecordTamperedError, match="a boot that the trust certifies"):
        verify_folder(folder, trust_of([first]))


# --- every byte ------------------------------------------------------------------------------------------------------


def places(size: int) -> Iterator[int]:
    """Every byte of the first and last 16, and every 67th between."""
    return iter(sorted({*range(min(16, size)), *range(0, size, 67), *range(max(size - 16, 0), size)}))


@pytest.mark.parametrize("file", FILES)
def test_every_flipped_byte_is_noticed(audit, file):
    path = audit.path / file
    raw = path.read_bytes()
    for place, flip in zip(places(len(raw)), itertools.cycle((0x01, 0x20, 0x80)), strict=False):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :])
        with pytest.raises(AuditError):
            verify_folder(audit.path, audit.trust)


@pytest.mark.parametrize("file", FILES)
def test_every_truncation_is_noticed(audit, file):
    path = audit.path / file
    raw = path.read_bytes()
    ends = [offset for offset, _ in read_frames(raw)]
    for size in {*ends, *places(len(raw))}:
        path.write_bytes(raw[:size])
        with pytest.raises(AuditError):
            verify_folder(audit.path, audit.trust)


@pytest.mark.parametrize("file", FILES)
def test_every_extension_is_noticed(audit, file):
    path = audit.path / file
    raw = path.read_bytes()
    repeated = [frame(entry) for entry in entries_of(path)]
    for tail in (b"\0", b"\n", bytes(4), b"\0\0\0\1x", frame(b"{}"), raw, *repeated):
        path.write_bytes(raw + (tail or b"\0"))
        with pytest.raises(AuditError):
            verify_folder(audit.path, audit.trust)


@pytest.mark.parametrize("file", FILES)
def test_every_deleted_entry_is_noticed(audit, file):
    path = audit.path / file
    entries = entries_of(path)
    for index in range(len(entries)):
        write_entries(path, entries[:index] + entries[index + 1 :])
        with pytest.raises(AuditError):
            verify_folder(audit.path, audit.trust)


@pytest.mark.parametrize("file", FILES)
def test_every_swapped_pair_of_entries_is_noticed(audit, file):
    path = audit.path / file
    entries = entries_of(path)
    for index in range(len(entries) - 1):
        write_entries(path, [*entries[:index], entries[index + 1], entries[index], *entries[index + 2 :]])
        with pytest.raises(AuditError):
            verify_folder(audit.path, audit.trust)


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "server/lock", "server/.records.new", "site-b/records"])
def test_unknown_file_is_refused(audit, name):
    (audit.path / name).parent.mkdir(exist_ok=True)
    (audit.path / name).write_bytes(b"")
    with pytest.raises(MalformedRecordError, match="of the trust accounts for"):
        verify_folder(audit.path, audit.trust)


@pytest.mark.parametrize("file", FILES)
def test_missing_file_is_refused(audit, file):
    (audit.path / file).unlink()
    with pytest.raises(RecordTamperedError, match="missing"):
        verify_folder(audit.path, audit.trust)


@pytest.mark.parametrize("log", ["service", "server", "site-a"])
def test_missing_log_is_refused(audit, log):
    shutil.rmtree(audit.path / log)
    with pytest.raises(RecordTamperedError, match="missing"):
        verify_folder(audit.path, audit.trust)


@pytest.mark.parametrize("name", ["server", "server/records"])
def test_link_is_refused_even_to_the_same_content(audit, tmp_path, name):
    (audit.path / name).rename(tmp_path / "elsewhere")
    (audit.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MalformedRecordError, match="link"):
        verify_folder(audit.path, audit.trust)


def test_folder_in_the_place_of_a_file_is_refused(audit):
    (audit.path / "site-a/cosignatures").unlink()
    (audit.path / "site-a/cosignatures").mkdir()
    with pytest.raises(MalformedRecordError, match="plain file"):
        verify_folder(audit.path, audit.trust)


def test_something_that_is_no_folder_is_refused(tmp_path, pristine):
    with pytest.raises(MalformedRecordError, match="not a folder"):
        verify_folder(tmp_path / "nowhere", pristine.trust)


# --- what the records say --------------------------------------------------------------------------------------------


def rewrite(program: Program, folder: Path, change: dict[int, dict[str, object]]) -> None:
    """Rewrite records of a log and sign it anew with its own key: only rules about content are left to notice."""
    records = [Record.parse(entry) for entry in entries_of(folder / "records")]
    entries = [record.model_copy(update=change.get(index, {})).encode() for index, record in enumerate(records)]
    write_entries(folder / "records", entries)
    sign_anew(program, folder, entries)


def sign_anew(program: Program, folder: Path, entries: list[bytes]) -> None:
    from policies.audit.merkle import MerkleTree, leaf_hash  # beside its only use

    root = MerkleTree(map(leaf_hash, entries)).root()
    signed = Checkpoint(origin=program.origin, size=len(entries), root=root).sign(program.key)
    write_entries(folder / "checkpoints", [signed.encode()])


@pytest.fixture
def site_log(tmp_path: Path) -> Path:
    """The open log of one site: log.open and three more records, all signed."""
    program = Program("site-a")
    with program.open(tmp_path / "audit") as log:
        for _ in range(3):
            log.append(Event(action="refuse", actor="site-a", object="x", decision="deny"))
        log.checkpoint()
    return tmp_path / "audit" / "site-a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: {"seq": 3}}, "record 2 at byte .*seq 3, expected 2"),
        ({0: {"seq": 1}}, "seq 1, expected 0"),
        ({2: {"log": "site-b"}}, "log site-b, expected site-a"),
        ({2: {"ts": "2025-01-01T00:00:00.000000Z"}}, "no earlier than"),
        ({2: {"mono": 0}}, "mono 0"),
        ({2: {"boot": bytes(16)}}, "is of boot"),
        ({0: {"action": "refuse"}}, "a log.open first"),
        ({0: {"digests": {}}}, "log key of 0 bytes"),
        ({0: {"digests": {"log-key": bytes(32)}}}, "has the log key"),
        ({2: {"action": "log.open", "digests": {"log-key": bytes(32)}}}, "has the log key"),
        ({0: {"boot": bytes(16)}}, "a boot that the trust certifies"),
    ],
)
def test_record_that_does_not_follow_is_named(site_log, change, message):
    program = Program("site-a")
    rewrite(program, site_log, change)
    with pytest.raises(RecordTamperedError, match=message):
        verify_folder(site_log.parent, trust_of([program], closed=False))


def test_rewritten_log_without_a_change_still_verifies(site_log):
    program = Program("site-a")
    rewrite(program, site_log, {})
    assert len(verify_folder(site_log.parent, trust_of([program], closed=False)).records) == 4


@pytest.mark.parametrize(("file", "message"), [("records", "no record"), ("checkpoints", "no checkpoint")])
def test_empty_file_is_refused(site_log, file, message):
    (site_log / file).write_bytes(b"")
    with pytest.raises(RecordTamperedError, match=message):
        verify_folder(site_log.parent, trust_of([Program("site-a")], closed=False))


def test_checkpoint_of_nothing_is_refused(site_log):
    program = Program("site-a")
    signed = Checkpoint(origin=program.origin, size=0, root=bytes(32)).sign(program.key)
    write_entries(site_log / "checkpoints", [signed.encode(), *entries_of(site_log / "checkpoints")])
    with pytest.raises(RecordTamperedError, match="none of them opens the log"):
        verify_folder(site_log.parent, trust_of([program], closed=False))


def test_cosignature_line_inside_the_file_of_checkpoints_is_refused(audit):
    path = audit.path / "server/checkpoints"
    entries = entries_of(path)
    line = b"".join(entries_of(audit.path / "server/cosignatures")[-1].partition(b"\n")[2:])
    write_entries(path, [*entries[:-1], entries[-1] + line])
    with pytest.raises(MalformedRecordError, match="2 signature lines"):
        verify_folder(audit.path, audit.trust)


def test_records_behind_the_last_checkpoint_of_a_closed_log_are_refused(tmp_path):
    folder, program = tmp_path / "audit", Program("site-a")
    with program.open(folder) as log:
        log.close()
    checkpoints = (folder / "site-a/checkpoints").read_bytes()
    program.open(folder).release()
    (folder / "site-a/checkpoints").write_bytes(checkpoints)
    for closed in (True, False):
        with pytest.raises(RecordTamperedError, match="1 records behind the last checkpoint of a closed log"):
            verify_folder(folder, trust_of([program], closed=closed))


def test_log_that_must_be_closed_and_is_not_is_refused(site_log):
    with pytest.raises(RecordTamperedError, match=r"does not cover a log\.close"):
        verify_folder(site_log.parent, trust_of([Program("site-a")]))


# --- cosignatures ----------------------------------------------------------------------------------------------------


def test_too_few_cosignatures_of_the_last_checkpoint_are_refused(tmp_path):
    built = build_audit_folder(tmp_path, sites=("site-a", "site-b", "site-c"))
    path = built.path / "server/cosignatures"
    write_entries(path, entries_of(path)[:-1])
    verify_folder(built.path, built.trust)  # two of three are enough
    write_entries(path, entries_of(path)[:-1])
    with pytest.raises(RecordTamperedError, match="cosigned by 1 of 3") as caught:
        verify_folder(built.path, built.trust)
    assert "site-b, demo.mock/site-c" in (caught.value.hint or "")


def test_cosignature_of_an_unknown_witness_is_refused(audit):
    path, stranger = audit.path / "server/cosignatures", Program("site-x")
    head = Checkpoint.parse(entries_of(audit.path / "server/checkpoints")[-1].partition(b"\n\n")[0] + b"\n")
    line = head.cosign(name=stranger.origin, key=stranger.key, seconds=1)
    write_entries(path, [*entries_of(path), encode_cosignature(head.size, line)])
    with pytest.raises(RecordTamperedError, match=r"by demo\.mock/site-x"):
        verify_folder(audit.path, audit.trust)


# --- across logs -----------------------------------------------------------------------------------------------------


def test_fork_that_a_site_witnessed_is_noticed(tmp_path):
    shown = Checkpoint(origin="demo.mock/server", size=2, root=bytes(32))
    built = build_audit_folder(tmp_path, story=[*LEGAL_STORY, ("site-a", cosign_event(shown, actor="site-a"))])
    with pytest.raises(
        RecordTamperedError, match=r"log site-a, record 6: it witnessed demo\.mock/server at size 2"
    ) as caught:
        verify_folder(built.path, built.trust)
    assert "forked" in (caught.value.hint or "")


def test_rollback_below_what_a_site_witnessed_is_noticed(tmp_path):
    shown = Checkpoint(origin="demo.mock/server", size=99, root=bytes(32))
    built = build_audit_folder(tmp_path, story=[*LEGAL_STORY, ("site-a", cosign_event(shown, actor="site-a"))])
    with pytest.raises(RecordTamperedError, match="witnessed 99 records") as caught:
        verify_folder(built.path, built.trust)
    assert "rolled back" in (caught.value.hint or "")


def test_witnessed_log_that_the_trust_does_not_name_is_noticed(tmp_path):
    shown = Checkpoint(origin="demo.mock/relay", size=1, root=bytes(32))
    built = build_audit_folder(tmp_path, story=[*LEGAL_STORY, ("site-a", cosign_event(shown, actor="site-a"))])
    with pytest.raises(RecordTamperedError, match="does not name"):
        verify_folder(built.path, built.trust)


# --- the trust -------------------------------------------------------------------------------------------------------


def test_trust_is_parsed_back_and_named_by_its_bytes(pristine):
    raw = pristine.trust_path.read_bytes()
    assert AuditTrust.parse(raw) == pristine.trust
    assert len(fingerprint(raw)) == 64
    assert fingerprint(raw) != fingerprint(raw + b"\n")


def server_trust(**changes: object) -> dict[str, object]:
    log = trust_of([Program("server"), Program("site-a"), Program("site-b"), Program("site-c")]).logs[0]
    return {**log.model_dump(), **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"min_cosignatures": 1},
        {"min_cosignatures": 4},
        {"witnesses": {}, "min_cosignatures": 0},
        {"witnesses": {"a": (bytes(32),), "b": (bytes(32),)}},
        {"witnesses": {"a": (), "b": (bytes(32),)}},
        {"witnesses": {"a b": (bytes(32),)}, "min_cosignatures": 1},
        {"boots": ()},
        {"boots": ({"boot": bytes(16), "key": bytes(32)}, {"boot": bytes(16), "key": bytes(32)})},
        {"kind": "relay"},
        {"name": "../server"},
    ],
)
def test_trust_that_would_prove_too_little_is_refused(changes):
    LogTrust(**server_trust())
    with pytest.raises(ValueError, match="LogTrust"):
        LogTrust(**server_trust(**changes))


def test_trust_that_lists_a_log_twice_is_refused(pristine):
    doubled = pristine.trust.model_copy(update={"logs": pristine.trust.logs * 2})
    with pytest.raises(MalformedDocumentError, match="listed twice"):
        AuditTrust.parse(doubled.encode())
