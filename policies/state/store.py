"""The state of a program in one SQLite file: what a transaction has returned from is on disk, and there is one writer.

Every transaction proves first that this process still holds the store: a lease row carries an epoch, and whoever takes
over raises it. A process that was paused, cut off or forgotten finds another epoch in the row and stops (`FencedError`)
before it can write. Time only decides when a lease may be taken; it is never what keeps two writers apart.

Packages bring their own tables as a tuple of migrations, and speak to them through `Transaction`, which has what a
database server behind the same functions would have too.

Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/stricttables.html
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeAlias

from policies.errors import FencedError, NewerSchemaError, StateError
from policies.files import OWNER_ONLY, sync_folder
from policies.state.errors import CorruptStoreError, StoreInUseError, StoreUnavailableError

APPLICATION_ID = 0x434C5354  # "CLST", in the header of the file: a store, and not somebody's other database
LEASE_SECONDS = 30
LOCK_SECONDS = 5.0  # how long another process may hold the write lock, as it does while it takes over

DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
    }
)

LEASE = """
CREATE TABLE IF NOT EXISTS lease (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL,       -- rises by one with every process that takes the store
    owner TEXT NOT NULL,
    expires_ms INTEGER NOT NULL   -- since 1970, UTC
) STRICT
"""

Clock: TypeAlias = Callable[[], datetime]
Row: TypeAlias = sqlite3.Row
Value: TypeAlias = str | bytes | int | float | None


class Transaction:
    """Statements that take effect together, or not at all. Parameters stand for the `?` of a statement, in order.

    Every method raises `sqlite3.IntegrityError` where a constraint of a table does not hold.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, statement: str, *parameters: Value) -> int:
        """Run a statement and return how many rows it changed."""
        return self._connection.execute(statement, parameters).rowcount

    def run_many(self, statement: str, rows: Iterable[Sequence[Value]]) -> int:
        """Run a statement once for each row of parameters and return how many rows it changed in all."""
        return self._connection.executemany(statement, rows).rowcount

    def rows(self, query: str, *parameters: Value) -> list[Row]:
        """Return all rows of a query."""
        return self._connection.execute(query, parameters).fetchall()

    def row(self, query: str, *parameters: Value) -> Row | None:
        """Return the first row of a query, None if there is none."""
        found: Row | None = self._connection.execute(query, parameters).fetchone()
        return found


class Store:
    """An open store. Threads may share it; transactions run one after the other."""

    def __init__(
        self, connection: sqlite3.Connection, *, path: Path, owner: str, clock: Clock, lease_seconds: int, epoch: int
    ) -> None:
        self._connection, self._path, self._owner, self._clock = connection, path, owner, clock
        self._lease_seconds = lease_seconds
        self._lock = threading.RLock()
        self.epoch = epoch  # of this process's lease

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        owner: str,
        clock: Clock,
        migrations: Sequence[str],
        lease_seconds: int = LEASE_SECONDS,
        take_over: bool = False,
    ) -> Self:
        """Open a store or make it, check it, take its lease, and bring its tables to the newest schema.

        Args:
            path: The file; its folder exists. Two files beside it belong to it (`-wal`, `-shm`).
            owner: The installation that this process runs for, such as "server". A process that starts anew under the
                same name takes over at once, and fences one that still runs; another waits for the lease to expire.
            clock: The time, with its offset.
            migrations: SQL scripts; script i leads from schema i to i + 1. They are only ever added to. Tables are STRICT.
            lease_seconds: How long after its last transaction a process is left alone.
            take_over: Take the lease from another owner before it expires.

        Raises:
            StoreInUseError: Another owner holds the lease.
            NewerSchemaError: It was written by a newer release; nothing was changed.
            CorruptStoreError: It is damaged, or is no store; nothing was changed.
            StoreUnavailableError: The file cannot be opened or written.
            StateError: A migration fails; all of them before it were kept.
        """
        with _typed_errors(path):
            connection = _connect(path)
            try:
                _check(connection, path, known=len(migrations))
                epoch = _take_lease(
                    connection, path, owner=owner, now=clock(), lease_seconds=lease_seconds, take_over=take_over
                )
                store = cls(connection, path=path, owner=owner, clock=clock, lease_seconds=lease_seconds, epoch=epoch)
                store._migrate(migrations)
            except BaseException:
                connection.close()
                raise
        return store

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Run statements together: durable when the block ends, undone when it raises.

        Raises:
            FencedError: Another process has taken over; this one must stop.
            StoreUnavailableError: The disk is full or fails; nothing was changed.
            StateError: This thread is within a transaction already, or the store is closed.
        """
        with self._lock, _typed_errors(self._path):
            if self._connection.in_transaction:
                raise StateError("a transaction was begun within another")
            with _immediate(self._connection):
                self._prove_lease()
                yield Transaction(self._connection)

    def renew(self) -> None:
        """Prolong the lease of a process that has nothing to write; to be called more often than it expires.

        Raises:
            FencedError: Another process has taken over; this one must stop.
        """
        with self.transaction():
            pass

    def close(self) -> None:
        """Give the lease back, so that another owner may open the store at once, and close the file. Twice is once."""
        with self._lock:
            with suppress(StateError), self.transaction() as transaction:
                transaction.run("UPDATE lease SET expires_ms = ?", _ms(self._clock()))
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prove_lease(self) -> None:
        """Raise `FencedError` unless the lease is ours; prolong it when half of it has passed."""
        lease = self._connection.execute("SELECT epoch, owner, expires_ms FROM lease").fetchone()
        if lease is None or lease["epoch"] != self.epoch:
            found = "no lease" if lease is None else f"epoch {lease['epoch']} of {lease['owner']!r}"
            raise FencedError(
                f"{self._path} was taken over: found {found}, expected epoch {self.epoch} of {self._owner!r}",
                hint="stop this process; the other one goes on",
            )
        now, span = _ms(self._clock()), self._lease_seconds * 1000
        if not span // 2 <= lease["expires_ms"] - now <= span:  # more than the span: the clock was set back
            self._connection.execute("UPDATE lease SET expires_ms = ?", (now + span,))

    def _migrate(self, migrations: Sequence[str]) -> None:
        """Run the scripts that this store has not seen, each in a transaction of its own."""
        for version in range(_schema(self._connection), len(migrations)):
            try:
                with self.transaction() as transaction:
                    for statement in _statements(migrations[version]):
                        transaction.run(statement)
                    _require_strict_tables(transaction)
                    transaction.run(f"PRAGMA user_version = {version + 1}")
            except sqlite3.Error as error:
                raise StateError(
                    f"{self._path}: migration {version + 1} of {len(migrations)} fails: {error}"
                ) from error


# --- opening ---------------------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # SQLite would make the file readable for everybody; the two beside it take over its permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY))
        sync_folder(path.parent)
    except OSError as error:
        raise StoreUnavailableError(
            f"{path} cannot be opened: {error.strerror}", hint="name a folder that exists"
        ) from error
    connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _check(connection: sqlite3.Connection, path: Path, *, known: int) -> None:
    """Refuse what is not a whole store of a release that is known, before anything is written to it."""
    damage = [row[0] for row in connection.execute("PRAGMA integrity_check(1)")]
    if damage != ["ok"]:
        raise CorruptStoreError(f"{path} is damaged: {damage[0]}", hint="stop, and restore the last copy of it")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if application != APPLICATION_ID and not empty:
        raise CorruptStoreError(f"{path} is a database of application {application:#x}, expected {APPLICATION_ID:#x}")
    if (found := _schema(connection)) > known:
        raise NewerSchemaError(
            f"{path} has schema {found}, this release knows schema {known}", hint="start the release that wrote it"
        )
    if (mode := connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
        raise StoreUnavailableError(f"{path} has journal mode {mode!r}, expected 'wal'", hint="use a local file system")
    connection.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on disk, not merely in order
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")  # the file cannot bring functions of its own
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise CorruptStoreError(f"{path} holds a row that refers to none", hint="stop, and restore the last copy of it")


def _take_lease(
    connection: sqlite3.Connection, path: Path, *, owner: str, now: datetime, lease_seconds: int, take_over: bool
) -> int:
    """Take the lease, unless another owner holds it, and return its new epoch."""
    with _immediate(connection):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(LEASE)
        held = connection.execute("SELECT epoch, owner, expires_ms FROM lease").fetchone()
        if held is not None and held["owner"] != owner and held["expires_ms"] > _ms(now) and not take_over:
            until = datetime.fromtimestamp(held["expires_ms"] / 1000, UTC).isoformat(timespec="seconds")
            raise StoreInUseError(
                f"{path} is in use by {held['owner']!r} until {until}", hint="stop that process, or wait until then"
            )
        epoch = 1 if held is None else int(held["epoch"]) + 1
        expires = _ms(now) + lease_seconds * 1000
        connection.execute("INSERT OR REPLACE INTO lease VALUES (1, ?, ?, ?)", (epoch, owner, expires))
    return epoch


def _schema(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _require_strict_tables(transaction: Transaction) -> None:
    """Raise `StateError` where a table would take text for a number."""
    loose = transaction.row(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND strict = 0"
        " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    if loose is not None:
        raise StateError(f"a migration makes the table {loose['name']!r}, expected it to be STRICT")


def _statements(script: str) -> Iterator[str]:
    """Take a script apart; `executescript` would commit before it."""
    pending = ""
    for piece in f"{script}\n".split(";"):
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip(" \n\t;"):
        raise StateError(f"a migration ends within a statement: {pending.strip()!r:.80}")


@contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock for the block: commit at its end, roll back when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has ended it by itself when the disk was full
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the file into our errors; a constraint or a wrong statement is the caller's and stays."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # The low byte is the kind, https://www.sqlite.org/rescode.html; without one it is Python that complains.
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in DAMAGE:
            raise CorruptStoreError(f"{path}: {error}", hint="stop, and restore the last copy of it") from error
        if code is not None and code & 0xFF in UNAVAILABLE:
            raise StoreUnavailableError(f"{path}: {error}", hint="see that its disk is there and has room") from error
        if isinstance(error, sqlite3.ProgrammingError):
            raise StateError(f"{path}: {error}") from error
        raise


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
