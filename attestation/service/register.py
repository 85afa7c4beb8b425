"""What the service keeps: challenges, attestations, keys and releases. One SQLite file, one writer."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.errors import NotAttestedYetError, ReplayError
from policies.attestation_result import AttestationResult
from policies.documents import Versioned
from policies.state import Row, Store
from policies.version_floor import VersionFloor

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE documents (          -- what k organisations signed, and this service follows
        name TEXT PRIMARY KEY,        -- root, roster, reference-values
        envelope BLOB NOT NULL
    ) STRICT;
    CREATE TABLE challenges (
        id BLOB PRIMARY KEY,
        nonce BLOB NOT NULL,
        node TEXT NOT NULL,
        role TEXT NOT NULL,
        client_random BLOB NOT NULL,
        expires_at INTEGER NOT NULL,
        request_sha256 BLOB,          -- of the attestation that consumed it; null: not consumed
        result TEXT,                  -- jti, once issued
        CHECK (request_sha256 IS NOT NULL OR result IS NULL)
    ) STRICT;
    CREATE TABLE attestations (
        number INTEGER PRIMARY KEY,   -- in order of issue
        jti TEXT NOT NULL UNIQUE,
        node TEXT NOT NULL,
        boot BLOB NOT NULL,
        attestation BLOB NOT NULL,
        result BLOB NOT NULL,
        certificate BLOB NOT NULL
    ) STRICT;
    CREATE INDEX attestations_by_node ON attestations (node, number);
    CREATE INDEX attestations_by_boot ON attestations (boot, number);
    CREATE TABLE versions (           -- the newest document of each name that was accepted
        name TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        sha256 BLOB NOT NULL
    ) STRICT;
    CREATE TABLE keys (
        key_id TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        wrapped BLOB NOT NULL,
        policy BLOB NOT NULL,
        job BLOB NOT NULL
    ) STRICT;
    CREATE TABLE releases (
        release_id BLOB PRIMARY KEY,
        key_id TEXT NOT NULL REFERENCES keys (key_id),
        node TEXT NOT NULL,
        jti TEXT NOT NULL,
        reply BLOB NOT NULL
    ) STRICT;
    """,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedChallenge:
    """A challenge as it was given out."""

    challenge_id: bytes  # 16 bytes
    nonce: bytes  # 32 bytes
    node: str
    role: str
    client_random: bytes  # 32 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """One attestation that was accepted, with what was issued for it."""

    attestation: bytes
    result: bytes  # JWT
    certificate: bytes  # PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A broker key as it is stored."""

    version: int
    wrapped: bytes
    policy: bytes  # envelope
    job: bytes  # envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A release that was granted."""

    key_id: str
    node: str
    jti: str
    reply: bytes  # the sealed key


class Register:
    """The service's tables, in the words of the protocol."""

    def __init__(self, store: Store) -> None:
        """Keep everything in `store`, which was opened with `MIGRATIONS`."""
        self._store = store

    def close(self) -> None:
        """Give the store back."""
        self._store.close()

    # --- documents ---

    def install(self, documents: dict[str, bytes]) -> None:
        """Follow these envelopes from now on."""
        with self._store.transaction() as db:
            db.run_many("INSERT OR REPLACE INTO documents VALUES (?, ?)", documents.items())

    def documents(self) -> dict[str, bytes]:
        """The envelopes that were installed."""
        with self._store.transaction() as db:
            return {row["name"]: row["envelope"] for row in db.rows("SELECT name, envelope FROM documents")}

    def advance_version(self, name: str, document: Versioned, digest: bytes) -> None:
        """Note that `document` was accepted.

        Raises:
            RollbackError: A newer one was accepted before, or it is not that one's successor.
        """
        with self._store.transaction() as db:
            row = db.row("SELECT version, sha256 FROM versions WHERE name = ?", name)
            floor = VersionFloor({} if row is None else {name: (row["version"], row["sha256"])})
            version, sha256 = floor.advance(name, document, digest).seen[name]
            db.run("INSERT OR REPLACE INTO versions VALUES (?, ?, ?)", name, version, sha256)

    # --- challenges ---

    def give_out(self, challenge: IssuedChallenge, *, expires_at: int, now: int) -> None:
        """Remember a challenge; forget those that ended an hour ago."""
        with self._store.transaction() as db:
            db.run("DELETE FROM challenges WHERE expires_at < ?", now - 3600)
            db.run(
                "INSERT INTO challenges VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
                challenge.challenge_id,
                challenge.nonce,
                challenge.node,
                challenge.role,
                challenge.client_random,
                expires_at,
            )

    def consume(self, challenge_id: bytes, request_sha256: bytes, *, now: int) -> IssuedChallenge | Archived:
        """Use up a challenge in one conditional UPDATE, before any cryptography.

        Returns:
            The challenge, or what was issued when these identical bytes came before.

        Raises:
            ReplayError: Unknown, expired, or used up by other bytes.
        """
        with self._store.transaction() as db:
            used = db.run(
                "UPDATE challenges SET request_sha256 = ? WHERE id = ? AND request_sha256 IS NULL AND expires_at > ?",
                request_sha256,
                challenge_id,
                now,
            )
            row = db.row("SELECT * FROM challenges WHERE id = ?", challenge_id)
            if row is None:
                raise ReplayError(f"challenge {challenge_id.hex()[:32]} was never given out, or ended long ago")
            if used == 1:
                return IssuedChallenge(
                    challenge_id=challenge_id,
                    nonce=row["nonce"],
                    node=row["node"],
                    role=row["role"],
                    client_random=row["client_random"],
                )
            if row["request_sha256"] == request_sha256 and row["result"] is not None:
                return _archived(db.row(_BY_JTI, row["result"]), row["result"])
        if row["request_sha256"] is None:
            raise ReplayError(
                f"challenge {challenge_id.hex()} ended {now - row['expires_at']} s ago", hint="ask for a new challenge"
            )
        raise ReplayError(
            f"challenge {challenge_id.hex()} was used before: evidence made for it is worth nothing a second time"
        )

    def archive(self, challenge_id: bytes, result: AttestationResult, archived: Archived) -> None:
        """Keep an accepted attestation, and tie it to the challenge it answered."""
        with self._store.transaction() as db:
            db.run(
                "INSERT INTO attestations (jti, node, boot, attestation, result, certificate) VALUES (?, ?, ?, ?, ?, ?)",
                result.jti,
                result.node,
                result.boot,
                archived.attestation,
                archived.result,
                archived.certificate,
            )
            db.run("UPDATE challenges SET result = ? WHERE id = ?", result.jti, challenge_id)

    # --- attestations ---

    def by_jti(self, jti: str) -> Archived:
        """The attestation behind a result.

        Raises:
            NotAttestedYetError: There is none.
        """
        with self._store.transaction() as db:
            return _archived(db.row(_BY_JTI, jti), jti)

    def latest_of(self, node: str) -> Archived:
        """The newest attestation of a node.

        Raises:
            NotAttestedYetError: There is none.
        """
        with self._store.transaction() as db:
            return _archived(db.row(f"{_SELECT} WHERE node = ? ORDER BY number DESC LIMIT 1", node), node)

    def chain_of(self, node: str, boot: bytes) -> tuple[str, ...]:
        """The ids of the results of one boot of a node, newest first; another node that claims the boot adds nothing."""
        with self._store.transaction() as db:
            rows = db.rows("SELECT jti FROM attestations WHERE boot = ? AND node = ? ORDER BY number DESC", boot, node)
        return tuple(row["jti"] for row in rows)

    # --- keys ---

    def deposit(self, key_id: str, key: StoredKey) -> None:
        """Store a key; there is none of that name yet."""
        with self._store.transaction() as db:
            db.run(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?)",
                key_id,
                key.version,
                key.wrapped,
                key.policy,
                key.job,
            )

    def key(self, key_id: str) -> StoredKey | None:
        """The key of that name, or None."""
        with self._store.transaction() as db:
            row = db.row("SELECT * FROM keys WHERE key_id = ?", key_id)
        if row is None:
            return None
        return StoredKey(version=row["version"], wrapped=row["wrapped"], policy=row["policy"], job=row["job"])

    def released(self, release_id: bytes) -> Released | None:
        """A release that was granted before, or None."""
        with self._store.transaction() as db:
            row = db.row("SELECT key_id, node, jti, reply FROM releases WHERE release_id = ?", release_id)
        if row is None:
            return None
        return Released(key_id=row["key_id"], node=row["node"], jti=row["jti"], reply=row["reply"])

    def releases_of(self, key_id: str) -> int:
        """How often a key was released."""
        with self._store.transaction() as db:
            return len(db.rows("SELECT release_id FROM releases WHERE key_id = ?", key_id))

    def record_release(self, release_id: bytes, *, key_id: str, node: str, jti: str, reply: bytes) -> None:
        """Remember a release, so that repeating it repeats the reply and counts once."""
        with self._store.transaction() as db:
            db.run("INSERT INTO releases VALUES (?, ?, ?, ?, ?)", release_id, key_id, node, jti, reply)


_SELECT = "SELECT attestation, result, certificate FROM attestations"
_BY_JTI = f"{_SELECT} WHERE jti = ?"


def _archived(row: Row | None, name: str) -> Archived:
    if row is None:
        raise NotAttestedYetError(f"no attestation of {name} is archived here", hint="start the node, then try again")
    return Archived(attestation=row["attestation"], result=row["result"], certificate=row["certificate"])
