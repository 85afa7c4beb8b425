"""The submitter's own copies of job keys, and of the manifests they belong to: nobody else can open a job's model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fl_runtime.transport.sealed import SealingKey
from policies.documents import Envelope
from policies.errors import UsageError
from policies.files import write_atomically
from policies.job_manifest import JobManifest, open_job

KEY_BYTES = 32
_JOB_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")  # policies.documents.Name; becomes the name of a file


@dataclass(frozen=True, slots=True)
class Keystore:
    """A folder with `JOB.key` (32 bytes) and `JOB.json` (the manifest's envelope) for each job; its owner's alone."""

    folder: Path

    def keep(self, job_id: str, *, key: bytes, manifest: bytes) -> None:
        """Store the key of a job and its manifest, durably.

        Raises:
            UsageError: There is a key of this job already, or the folder cannot be written.
        """
        key_path, manifest_path = self._paths(job_id)
        if key_path.exists():
            raise UsageError(f"{key_path} exists already: a job's key is used once")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(manifest_path, manifest)
            write_atomically(key_path, key)
        except OSError as error:
            raise UsageError(f"the keys of jobs cannot be kept in {self.folder}: {error.strerror}") from error

    def key(self, job_id: str) -> SealingKey:
        """Return the key of a job.

        Raises:
            UsageError: It is not here.
        """
        path, _ = self._paths(job_id)
        secret = _read(path, job_id)
        if len(secret) != KEY_BYTES:
            raise UsageError(f"{path} has {len(secret)} bytes, expected {KEY_BYTES}")
        return SealingKey(id=self.manifest(job_id).model.key_id, secret=secret)

    def manifest(self, job_id: str) -> JobManifest:
        """Return the manifest of a job that was submitted from here.

        Raises:
            UsageError: It is not here, or is another job's.
            PolicyError: It was changed.
        """
        _, path = self._paths(job_id)
        manifest = open_job(Envelope.parse(_read(path, job_id)))
        if manifest.job != job_id:
            raise UsageError(f"{path} is the manifest of {manifest.job}, expected {job_id}")
        return manifest

    def knows(self, job_id: str) -> bool:
        """Whether the job was submitted from here."""
        return all(path.exists() for path in self._paths(job_id))

    def _paths(self, job_id: str) -> tuple[Path, Path]:
        if not _JOB_ID.fullmatch(job_id):
            raise UsageError(f"{job_id!r:.100} is not the id of a job", hint="`cloister job list` shows them")
        return self.folder / f"{job_id}.key", self.folder / f"{job_id}.json"


def _read(path: Path, job_id: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(
            f"the key of {job_id} is not in {path.parent}",
            hint="only who submitted a job has its key: run this where it was submitted, or name that folder as `keys`",
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
