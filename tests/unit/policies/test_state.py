from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from policies.errors import FencedError, NewerSchemaError, StateError
from policies.state import CorruptStoreError, Store, StoreInUseError, StoreUnavailableError
from policies.state.store import _check, _statements

FIRST = """
-- jobs; and their rounds
CREATE TABLE job (name TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT;
CREATE TABLE round (
    job TEXT NOT NULL REFERENCES job (name),
    number INTEGER NOT NULL
) STRICT;
"""
SECOND = "ALTER TABLE job ADD COLUMN note TEXT NOT NULL DEFAULT ';'; -- the last"


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def opened(path, clock):
    """Open stores that are closed after the test."""
    stores: list[Store] = []

    def open_store(**changes) -> Store:
        given = {"owner": "server", "clock": clock, "migrations": (FIRST,)} | changes
        stores.append(Store.open(path, **given))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def add_job(store: Store, name: str) -> None:
    with store.transaction() as transaction:
        transaction.run("INSERT INTO job VALUES (?, ?)", name, "open")


def jobs(store: Store) -> list[str]:
    with store.transaction() as transaction:
        return [row["name"] for row in transaction.rows("SELECT name FROM job ORDER BY name")]


def raw(path: Path, statement: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


# --- transactions ----------------------------------------------------------------------------------------------------


def test_what_a_transaction_wrote_is_there_when_the_store_is_opened_again(opened):
    store = opened()
    add_job(store, "a")
    store.close()
    assert jobs(opened()) == ["a"]


def test_what_a_transaction_wrote_survives_a_process_that_never_closed(opened):
    add_job(opened(), "a")
    assert jobs(opened()) == ["a"]


def test_a_transaction_that_raises_changes_nothing(opened):
    store = opened()

    def fail() -> None:
        with store.transaction() as transaction:
            transaction.run("INSERT INTO job VALUES ('a', 'open')")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert jobs(store) == []


def test_a_conditional_update_says_how_many_rows_it_changed(opened):
    store = opened()
    add_job(store, "a")
    consume = "UPDATE job SET state = 'done' WHERE name = ? AND state = 'open'"
    with store.transaction() as transaction:
        assert transaction.run(consume, "a") == 1
        assert transaction.run(consume, "a") == 0


def test_rows_are_written_many_at_once_and_read_one_by_name(opened):
    with opened().transaction() as transaction:
        assert transaction.run_many("INSERT INTO job VALUES (?, ?)", [("a", "open"), ("b", "done")]) == 2
        row = transaction.row("SELECT state FROM job WHERE name = ?", "b")
        assert row is not None
        assert row["state"] == "done"
        assert transaction.row("SELECT state FROM job WHERE name = ?", "c") is None


def test_a_transaction_within_another_is_refused(opened):
    store = opened()
    with store.transaction(), pytest.raises(StateError, match="within another"), store.transaction():
        pass


def test_threads_take_their_turns(opened):
    store = opened()
    add_job(store, "a")

    def count() -> None:
        for _ in range(20):
            with store.transaction() as transaction:
                row = transaction.row("SELECT state FROM job")
                assert row is not None
                number = 0 if row["state"] == "open" else int(row["state"])
                transaction.run("UPDATE job SET state = ?", str(number + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.transaction() as transaction:
        assert transaction.rows("SELECT state FROM job")[0]["state"] == "80"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO round VALUES ('absent', 1)",  # a foreign key
        "INSERT INTO job VALUES (1, NULL)",
        "INSERT INTO round VALUES ('a', 'text')",  # a STRICT column
    ],
)
def test_a_row_that_breaks_a_constraint_is_refused_and_is_the_callers_to_handle(opened, statement):
    store = opened()
    add_job(store, "a")
    with pytest.raises(sqlite3.IntegrityError), store.transaction() as transaction:
        transaction.run(statement)


def test_a_wrong_statement_is_not_taken_for_a_disk_that_fails(opened):
    with pytest.raises(sqlite3.OperationalError, match="no such table"), opened().transaction() as transaction:
        transaction.run("DELETE FROM absent")


def test_a_commit_waits_for_the_disk(opened):
    with opened().transaction() as transaction:
        assert transaction.rows("PRAGMA synchronous")[0][0] == 2  # FULL
        assert transaction.rows("PRAGMA journal_mode")[0][0] == "wal"


def test_a_place_that_cannot_keep_a_write_ahead_log_is_refused():
    with (
        closing(sqlite3.connect(":memory:", isolation_level=None)) as connection,
        pytest.raises(StoreUnavailableError, match="journal mode 'memory', expected 'wal'"),
    ):
        _check(connection, Path("state.db"), known=0)


def test_functions_that_a_file_brings_are_not_trusted(opened):
    with opened().transaction() as transaction:
        assert transaction.rows("PRAGMA trusted_schema")[0][0] == 0


def test_a_full_disk_changes_nothing_and_may_pass(opened):
    store = opened()
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailableError, match="full") as caught:
        add_job(store, "x" * 100_000)
    assert caught.value.retryable
    store._connection.execute("PRAGMA max_page_count = 1000")
    add_job(store, "a")
    assert jobs(store) == ["a"]


def test_a_closed_store_says_so_and_closing_it_again_does_no_harm(opened):
    store = opened()
    store.close()
    store.close()
    with pytest.raises(StateError, match="closed"):
        jobs(store)


def test_only_its_owner_may_read_the_file(opened, path):
    add_job(opened(), "a")
    files = list(path.parent.iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


# --- lease -----------------------------------------------------------------------------------------------------------


def test_another_owner_is_kept_out_while_the_lease_runs(opened, clock):
    opened(owner="one")
    clock.advance(29)
    with pytest.raises(StoreInUseError, match="in use by 'one' until 2026-01-01T00:00:30"):
        opened(owner="two")


def test_another_owner_gets_the_store_when_the_lease_has_expired_and_the_first_is_fenced(opened, clock):
    first = opened(owner="one")
    clock.advance(30)
    second = opened(owner="two")
    assert second.epoch == first.epoch + 1
    with pytest.raises(FencedError, match="found epoch 2 of 'two', expected epoch 1 of 'one'"):
        add_job(first, "a")
    assert jobs(second) == []


def test_a_fenced_process_stays_fenced_and_cannot_give_back_the_others_lease(opened, clock):
    first = opened(owner="one")
    opened(owner="two", take_over=True)
    for _ in range(2):
        with pytest.raises(FencedError):
            first.renew()
    first.close()
    with pytest.raises(StoreInUseError, match="'two'"):
        opened(owner="three")


def test_a_process_that_starts_anew_need_not_wait_for_itself(opened):
    first = opened()
    second = opened()
    with pytest.raises(FencedError):
        jobs(first)
    assert jobs(second) == []


def test_an_expired_lease_that_nobody_took_is_still_held(opened, clock):
    store = opened()
    clock.advance(3600)
    add_job(store, "a")
    with pytest.raises(StoreInUseError):
        opened(owner="two")


def test_each_transaction_after_half_the_lease_prolongs_it(opened, clock):
    store = opened()
    for _ in range(3):
        clock.advance(16)
        store.renew()
    clock.advance(29)
    with pytest.raises(StoreInUseError):
        opened(owner="two")
    clock.advance(1)
    opened(owner="two")


def test_a_clock_that_was_ahead_does_not_hold_the_store_for_as_long(opened, clock):
    clock.advance(86_400)
    store = opened()
    clock.advance(-86_400)
    store.renew()
    clock.advance(30)
    opened(owner="two")


def test_a_store_that_was_closed_is_free_at_once(opened):
    opened(owner="one").close()
    assert opened(owner="two").epoch == 2


def test_a_store_whose_lease_row_is_gone_is_held_by_nobody(opened, path):
    store = opened()
    raw(path, "DELETE FROM lease")
    with pytest.raises(FencedError, match="found no lease"):
        store.renew()


def test_a_file_that_another_process_keeps_locked_is_unavailable(opened, path, monkeypatch):
    monkeypatch.setattr("policies.state.store.LOCK_SECONDS", 0.0)
    store = opened()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.renew()
        other.execute("ROLLBACK")
    store.renew()


# --- schema ----------------------------------------------------------------------------------------------------------


def test_an_older_store_is_brought_forward_with_what_it_holds(opened):
    store = opened()
    add_job(store, "a")
    store.close()
    with opened(migrations=(FIRST, SECOND)).transaction() as transaction:
        assert [tuple(row) for row in transaction.rows("SELECT * FROM job")] == [("a", "open", ";")]


def test_a_store_of_a_newer_release_is_refused_and_not_changed(opened, path):
    opened(migrations=(FIRST, SECOND)).close()
    before = path.read_bytes()
    with pytest.raises(NewerSchemaError, match="has schema 2, this release knows schema 1"):
        opened()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("CREATE TABLE a (x INTEGER) STRICT; INSERT INTO absent VALUES (1);", "migration 2 of 2 fails: no such table"),
        ("CREATE TABLE loose (x INTEGER);", "the table 'loose', expected it to be STRICT"),
        ("CREATE TABLE a (x TEXT DEFAULT 'unclosed) STRICT;", "ends within a statement"),
    ],
)
def test_a_migration_that_fails_leaves_the_schema_before_it(opened, path, broken, words):
    opened().close()
    with pytest.raises(StateError, match=words):
        opened(migrations=(FIRST, broken))
    assert raw(path, "PRAGMA user_version") == [(1,)]
    assert raw(path, "SELECT name FROM sqlite_schema WHERE name IN ('a', 'loose')") == []
    assert jobs(opened()) == []


def test_a_script_is_taken_apart_at_its_statements_and_nowhere_else():
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM a; DELETE FROM b; END;"
    found = [
        part.strip() for part in _statements(f"{trigger} /* ; */ SELECT ';';\n-- ;\nSELECT 2") if part.strip(" \n;")
    ]
    assert found == [trigger, "/* ; */ SELECT ';';", "-- ;\nSELECT 2\n;"]


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused(opened, path):
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(CorruptStoreError, match="not a database"):
        opened()


def test_a_database_of_another_program_is_refused_and_not_changed(opened, path):
    raw(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(CorruptStoreError, match="expected 0x434c5354"):
        opened()
    assert path.read_bytes() == before


def test_a_damaged_page_is_found_when_the_store_is_opened(opened, path):
    store = opened()
    for number in range(200):
        add_job(store, f"job-{number}" * 20)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 5 : 4096 * 6] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(CorruptStoreError, match=r"state\.db"):
        opened()


def test_a_row_that_refers_to_none_is_found_when_the_store_is_opened(opened, path):
    opened().close()
    raw(path, "INSERT INTO round VALUES ('absent', 1)")
    with pytest.raises(CorruptStoreError, match="refers to none"):
        opened()


def test_a_folder_that_is_not_there_is_named(tmp_path, clock):
    with pytest.raises(StoreUnavailableError, match="cannot be opened: No such file"):
        Store.open(tmp_path / "absent" / "state.db", owner="a", clock=clock, migrations=())
