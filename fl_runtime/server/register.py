"""The jobs that this server knows, and how far each has come. One SQLite file, one writer."""

from __future__ import annotations

from dataclasses import dataclass

from policies.state import Store

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,   -- in order of submission
        job_id TEXT NOT NULL UNIQUE,
        manifest BLOB NOT NULL,       -- envelope
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        rounds_done INTEGER NOT NULL,
        model BLOB                    -- name of the blob of the newest committed model; null before the first round
    ) STRICT;
    """,
)

ENDED = ("completed", "failed", "aborted")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job as it is stored."""

    job_id: str
    manifest: bytes
    state: str
    reason: str
    rounds_done: int
    model: bytes | None


class JobRegister:
    """The server's table of jobs."""

    def __init__(self, store: Store) -> None:
        """Keep everything in `store`, which was opened with `MIGRATIONS`."""
        self._store = store

    def close(self) -> None:
        """Give the store back."""
        self._store.close()

    def add(self, job_id: str, manifest: bytes) -> bool:
        """Add a submitted job; False where there is one of that id."""
        with self._store.transaction() as db:
            added = db.run(
                "INSERT OR IGNORE INTO jobs (job_id, manifest, state, reason, rounds_done) VALUES (?, ?, 'submitted', '', 0)",
                job_id,
                manifest,
            )
        return added == 1

    def set_state(self, job_id: str, state: str, reason: str = "") -> None:
        """Note where a job stands."""
        with self._store.transaction() as db:
            db.run("UPDATE jobs SET state = ?, reason = ? WHERE job_id = ?", state, reason, job_id)

    def commit_round(self, job_id: str, *, rounds_done: int, model: bytes) -> None:
        """Note that a round is done and which model came of it."""
        with self._store.transaction() as db:
            db.run("UPDATE jobs SET rounds_done = ?, model = ? WHERE job_id = ?", rounds_done, model, job_id)

    def jobs(self) -> tuple[JobRow, ...]:
        """All jobs, oldest first."""
        with self._store.transaction() as db:
            rows = db.rows("SELECT * FROM jobs ORDER BY number")
        return tuple(
            JobRow(
                job_id=row["job_id"],
                manifest=row["manifest"],
                state=row["state"],
                reason=row["reason"],
                rounds_done=row["rounds_done"],
                model=row["model"],
            )
            for row in rows
        )

    def job(self, job_id: str) -> JobRow | None:
        """One job, or None."""
        return next((job for job in self.jobs() if job.job_id == job_id), None)
