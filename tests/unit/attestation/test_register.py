"""What the service keeps: challenges are used up once, results are found again, documents never grow older."""

import sqlite3

import pytest

from attestation.errors import NotAttestedYetError, ReplayError
from attestation.service.register import MIGRATIONS, Archived, IssuedChallenge, Register, Released, StoredKey
from policies.errors import RollbackError, StateError
from policies.state import Store
from tests.fakes.attestation_service import Clock
from tests.fakes.drafts import draft_result
from tests.fakes.trust_domain import draft_roster

CHALLENGE = IssuedChallenge(
    challenge_id=b"\x01" * 16, nonce=b"\x02" * 32, node="hospital-a", role="site", client_random=b"\x03" * 32
)
ONE, TWO = b"\x04" * 32, b"\x05" * 32
ARCHIVED = Archived(attestation=b"attestation", result=b"result", certificate=b"certificate")
KEY = StoredKey(version=1, wrapped=b"wrapped", policy=b"policy", job=b"job")


@pytest.fixture
def register(tmp_path):
    opened = open_register(tmp_path)
    yield opened
    opened.close()


def open_register(folder):
    path = folder / "register.sqlite"
    return Register(Store.open(path, owner="attestation", clock=Clock(), migrations=MIGRATIONS))


def test_register_that_was_closed_keeps_nothing_more(tmp_path):
    opened = open_register(tmp_path)
    opened.close()
    with pytest.raises((StateError, sqlite3.ProgrammingError)):
        opened.give_out(CHALLENGE, expires_at=60, now=0)


# --- challenges ------------------------------------------------------------------------------------------------------


def test_challenge_is_used_up_once(register):
    register.give_out(CHALLENGE, expires_at=60, now=0)
    assert register.consume(CHALLENGE.challenge_id, ONE, now=59) == CHALLENGE
    for request in (ONE, TWO):
        with pytest.raises(ReplayError, match="was used before"):
            register.consume(CHALLENGE.challenge_id, request, now=59)


def test_challenge_that_was_answered_repeats_its_answer_for_the_same_bytes_alone(register):
    register.give_out(CHALLENGE, expires_at=60, now=0)
    register.consume(CHALLENGE.challenge_id, ONE, now=1)
    register.archive(CHALLENGE.challenge_id, draft_result(), ARCHIVED)
    assert register.consume(CHALLENGE.challenge_id, ONE, now=1) == ARCHIVED
    assert register.consume(CHALLENGE.challenge_id, ONE, now=3000) == ARCHIVED
    with pytest.raises(ReplayError, match="was used before"):
        register.consume(CHALLENGE.challenge_id, TWO, now=1)


def test_challenge_that_was_never_given_out_is_refused(register):
    with pytest.raises(ReplayError, match="was never given out"):
        register.consume(bytes(16), ONE, now=0)


@pytest.mark.parametrize("now", [60, 100])
def test_challenge_that_has_ended_is_refused_and_not_used_up(register, now):
    register.give_out(CHALLENGE, expires_at=60, now=0)
    with pytest.raises(ReplayError, match=f"ended {now - 60} s ago"):
        register.consume(CHALLENGE.challenge_id, ONE, now=now)
    assert register.consume(CHALLENGE.challenge_id, ONE, now=59) == CHALLENGE


def test_challenges_that_ended_an_hour_ago_are_forgotten(register):
    register.give_out(CHALLENGE, expires_at=60, now=0)
    other = IssuedChallenge(
        **{name: getattr(CHALLENGE, name) for name in ("nonce", "node", "role", "client_random")},
        challenge_id=b"\x09" * 16,
    )
    register.give_out(other, expires_at=9999, now=60 + 3600)
    with pytest.raises(ReplayError, match="ended"):
        register.consume(CHALLENGE.challenge_id, ONE, now=3660)
    third = IssuedChallenge(
        **{name: getattr(CHALLENGE, name) for name in ("nonce", "node", "role", "client_random")},
        challenge_id=b"\x0a" * 16,
    )
    register.give_out(third, expires_at=9999, now=61 + 3600)
    with pytest.raises(ReplayError, match="was never given out"):
        register.consume(CHALLENGE.challenge_id, ONE, now=3661)


def test_challenge_is_used_up_over_a_restart(tmp_path):
    before = open_register(tmp_path)
    before.give_out(CHALLENGE, expires_at=60, now=0)
    before.consume(CHALLENGE.challenge_id, ONE, now=1)
    before.close()
    after = open_register(tmp_path)
    with pytest.raises(ReplayError, match="was used before"):
        after.consume(CHALLENGE.challenge_id, ONE, now=1)
    after.close()


# --- attestations ----------------------------------------------------------------------------------------------------


def keep(register, *, jti, node="hospital-a", boot=bytes(16), content=b"result"):
    archived = Archived(attestation=b"attestation", result=content, certificate=b"certificate")
    register.archive(b"", draft_result(jti=jti, node=node, boot=boot), archived)
    return archived


def test_attestations_are_found_by_result_and_by_node(register):
    first, second = keep(register, jti="1" * 32, content=b"1"), keep(register, jti="2" * 32, content=b"2")
    other = keep(register, jti="3" * 32, node="hospital-b", content=b"3")
    assert [register.by_jti(digit * 32) for digit in "123"] == [first, second, other]
    assert register.latest_of("hospital-a") == second
    assert register.latest_of("hospital-b") == other


def test_node_that_has_not_attested_may_do_so_later(register):
    for find in (lambda: register.by_jti("0" * 32), lambda: register.latest_of("hospital-a")):
        with pytest.raises(NotAttestedYetError) as caught:
            find()
        assert caught.value.retryable


def test_chain_is_of_one_boot_of_one_node_newest_first(register):
    for digit in "123":
        keep(register, jti=digit * 32)
    keep(register, jti="4" * 32, boot=b"\x01" * 16)
    keep(register, jti="5" * 32, node="hospital-b")
    assert register.chain_of("hospital-a", bytes(16)) == ("3" * 32, "2" * 32, "1" * 32)
    assert register.chain_of("hospital-a", b"\x02" * 16) == ()


def test_result_is_archived_once(register):
    keep(register, jti="1" * 32)
    with pytest.raises(sqlite3.IntegrityError):
        keep(register, jti="1" * 32)


# --- documents -------------------------------------------------------------------------------------------------------


def test_documents_that_were_installed_are_kept_over_a_restart(tmp_path):
    before = open_register(tmp_path)
    assert before.documents() == {}
    before.install({"root": b"one", "roster": b"two"})
    before.install({"root": b"three"})
    before.close()
    after = open_register(tmp_path)
    assert after.documents() == {"root": b"three", "roster": b"two"}
    after.close()


def test_version_of_a_document_never_sinks(register):
    register.advance_version("grant of a", draft_roster(version=1), ONE)
    register.advance_version("grant of a", draft_roster(version=2, previous=ONE), TWO)
    register.advance_version("grant of b", draft_roster(version=1), ONE)
    for version, digest in ((1, ONE), (2, ONE)):
        with pytest.raises(RollbackError):
            register.advance_version("grant of a", draft_roster(version=version), digest)
    with pytest.raises(RollbackError, match="does not name version 2"):
        register.advance_version("grant of a", draft_roster(version=3, previous=ONE), b"\x06" * 32)
    register.advance_version("grant of a", draft_roster(version=2, previous=ONE), TWO)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_key_is_stored_once_under_its_name(register):
    assert register.key("digits-1") is None
    register.deposit("digits-1", KEY)
    assert register.key("digits-1") == KEY
    with pytest.raises(sqlite3.IntegrityError):
        register.deposit("digits-1", KEY)


def test_releases_are_remembered_and_counted_by_key(register):
    register.deposit("digits-1", KEY)
    register.deposit("digits-2", KEY)
    assert register.released(b"\x01" * 16) is None
    for number, key_id in enumerate(("digits-1", "digits-1", "digits-2")):
        register.record_release(bytes([number]) * 16, key_id=key_id, node="hospital-a", jti="1" * 32, reply=b"sealed")
    assert [register.releases_of(key_id) for key_id in ("digits-1", "digits-2", "digits-3")] == [2, 1, 0]
    expected = Released(key_id="digits-1", node="hospital-a", jti="1" * 32, reply=b"sealed")
    assert register.released(b"\x01" * 16) == expected


def test_release_of_a_key_that_is_not_there_is_refused(register):
    with pytest.raises(sqlite3.IntegrityError):
        register.record_release(bytes(16), key_id="digits-9", node="hospital-a", jti="1" * 32, reply=b"sealed")
