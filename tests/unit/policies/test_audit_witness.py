"""A witness cosigns only what continues the history it knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.audit import Event, WitnessFile, WitnessState, cosign_event, quorum
from policies.audit.checkpoint import Checkpoint
from policies.audit.merkle import EMPTY_ROOT, MerkleTree, leaf_hash
from policies.audit.record import Record
from policies.audit.witness import cosigned_checkpoint
from policies.documents import raw_public_key
from policies.errors import MalformedDocumentError, MalformedRecordError, RecordTamperedError, RollbackError
from tests.fakes.audit_folder import Program

SERVER, SITE = Program("server"), Program("site-a")
HISTORY = MerkleTree(leaf_hash(bytes([number])) for number in range(12))
OTHER_HISTORY = MerkleTree(leaf_hash(bytes([number, number])) for number in range(12))


def head(size: int, tree: MerkleTree = HISTORY) -> Checkpoint:
    return Checkpoint(origin=SERVER.origin, size=size, root=tree.root(size))


def advance(state: WitnessState, size: int, *, tree: MerkleTree = HISTORY, key=SERVER.key, proof=None):
    return state.advance(
        head(size, tree).sign(key),
        tree.consistency_proof(min(state.size, size), size) if proof is None else proof,
        log_key=SERVER.public_key,
        name=SITE.origin,
        key=SITE.key,
        seconds=1_700_000_000,
    )


def known(size: int) -> WitnessState:
    return WitnessState(origin=SERVER.origin, size=size, root=HISTORY.root(size))


@pytest.mark.parametrize("old", [0, 1, 5, 8, 12])
def test_witness_cosigns_what_continues(old):
    state, line = advance(known(old), 12)
    assert state == known(12)
    assert head(12).verify_cosignature(line, [SITE.public_key]).witness == SITE.origin


def test_witness_that_knows_nothing_starts_from_the_empty_tree():
    assert WitnessState.empty(SERVER.origin) == WitnessState(origin=SERVER.origin, size=0, root=EMPTY_ROOT)


def test_rolled_back_log_is_not_cosigned():
    with pytest.raises(RollbackError, match="4 records, 7 were already seen"):
        advance(known(7), 4)


def test_forked_log_is_not_cosigned():
    with pytest.raises(RecordTamperedError):
        advance(known(7), 12, tree=OTHER_HISTORY)


def test_second_root_of_one_size_is_not_cosigned():
    with pytest.raises(RecordTamperedError, match="two roots"):
        advance(known(7), 7, tree=OTHER_HISTORY, proof=())


def test_head_without_proof_is_not_cosigned():
    with pytest.raises(RecordTamperedError):
        advance(known(7), 12, proof=())


def test_head_that_another_key_signed_is_not_cosigned():
    with pytest.raises(RecordTamperedError, match="names the key"):
        advance(known(7), 12, key=SITE.key)


# --- its file --------------------------------------------------------------------------------------------------------


def test_state_is_loaded_as_it_was_saved(tmp_path: Path):
    file = WitnessFile(tmp_path / "server.witness")
    assert file.load(SERVER.origin) == WitnessState.empty(SERVER.origin)
    file.save(known(3))
    file.save(known(7))
    assert file.load(SERVER.origin) == known(7)
    assert [path.name for path in tmp_path.iterdir()] == ["server.witness"]


def test_state_of_another_log_is_refused(tmp_path: Path):
    file = WitnessFile(tmp_path / "witness")
    file.save(known(3))
    with pytest.raises(RecordTamperedError, match="remembers"):
        file.load("demo.mock/service")


def test_damaged_state_is_refused_rather_than_forgotten(tmp_path: Path):
    (tmp_path / "witness").write_bytes(b"")
    with pytest.raises(MalformedDocumentError):
        WitnessFile(tmp_path / "witness").load(SERVER.origin)


# --- quorum ----------------------------------------------------------------------------------------------------------

SITES = [Program(f"site-{name}") for name in "abc"]
WITNESSES = {site.origin: (raw_public_key(site.key),) for site in SITES}
LINES = [head(5).cosign(name=site.origin, key=site.key, seconds=1) for site in SITES]


def test_enough_witnesses_are_a_quorum():
    found = quorum(LINES[:2], WITNESSES, 2, checkpoint=head(5))
    assert [cosignature.witness for cosignature in found] == ["demo.mock/site-a", "demo.mock/site-b"]


def test_too_few_witnesses_are_named():
    with pytest.raises(RecordTamperedError, match="1 of 3") as caught:
        quorum(LINES[:1], WITNESSES, 2, checkpoint=head(5))
    assert caught.value.hint == "missing: demo.mock/site-b, demo.mock/site-c"


def test_one_witness_twice_counts_once():
    with pytest.raises(RecordTamperedError, match="1 of 3"):
        quorum([LINES[0], LINES[0]], WITNESSES, 2, checkpoint=head(5))


def test_unknown_witness_does_not_count():
    stranger = Program("site-x")
    line = head(5).cosign(name=stranger.origin, key=stranger.key, seconds=1)
    with pytest.raises(RecordTamperedError, match="1 of 3"):
        quorum([LINES[0], line], WITNESSES, 2, checkpoint=head(5))


def test_cosignature_over_another_head_is_an_error():
    with pytest.raises(RecordTamperedError, match="does not hold"):
        quorum(LINES, WITNESSES, 2, checkpoint=head(6))


def test_quorum_of_none_is_never_met():
    with pytest.raises(RecordTamperedError):
        quorum([], {}, 0, checkpoint=head(5))


# --- what a site records ---------------------------------------------------------------------------------------------


def record_of(event: Event) -> Record:
    return Record.make(
        event, log="site-a", seq=0, ts="2026-01-01T00:00:00.000000Z", mono=0, boot=bytes(16), salt=bytes(16)
    )


def test_recorded_head_is_read_back():
    assert cosigned_checkpoint(record_of(cosign_event(head(5), actor="site-a"))) == head(5)


@pytest.mark.parametrize(
    "event",
    [
        Event(action="checkpoint.cosign", actor="a", object="demo.mock/server", digests={"root": bytes(32)}),
        Event(action="checkpoint.cosign", actor="a", object="demo.mock/server@05", digests={"root": bytes(32)}),
        Event(action="checkpoint.cosign", actor="a", object="demo.mock/server@5"),
        Event(action="checkpoint.cosign", actor="a", object="demo.mock/server@5", digests={"root": bytes(48)}),
    ],
)
def test_recorded_head_of_another_form_is_refused(event):
    with pytest.raises(MalformedRecordError):
        cosigned_checkpoint(record_of(event))
