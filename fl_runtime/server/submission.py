"""A job as it comes in from an administrator: collected within bounds, checked against its own manifest, then believed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fl_runtime.errors import JobRefusedError
from fl_runtime.jobs.terms import terms_of
from fl_runtime.transport import federation_pb2 as pb
from policies.documents import Envelope
from policies.job_manifest import JobManifest, open_job


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedJob:
    """A whole job whose parts are those that its signed manifest names."""

    envelope: Envelope
    manifest: JobManifest
    code: bytes
    model: bytes  # sealed


class Submission:
    """Collects the parts of one submission."""

    def __init__(self, administrator: str, *, max_bytes: int) -> None:
        """Take at most `max_bytes` of code and model from `administrator`."""
        self._administrator = administrator
        self._left = max_bytes
        self._envelope: Envelope | None = None
        self._code = bytearray()
        self._model = bytearray()

    def take(self, part: pb.SubmitPart) -> None:
        """Take the next part; the manifest comes first, once.

        Raises:
            JobRefusedError: Out of order, or too large.
            PolicyError: The manifest is not an envelope.
        """
        match part.WhichOneof("what"):
            case "manifest" if self._envelope is None:
                self._envelope = Envelope.parse(part.manifest)
            case "code" if self._envelope is not None:
                self._grow(self._code, part.code)
            case "model" if self._envelope is not None:
                self._grow(self._model, part.model)
            case other:
                raise JobRefusedError(f"a submission has its {other} out of order, expected manifest, code, model")

    def finish(self) -> SubmittedJob:
        """Check the parts against the manifest.

        Raises:
            JobRefusedError: Not this administrator's, or the code or the model is not the one that it names.
            PolicyError: The manifest does not open, or its layout is malformed.
            ParametersRefusedError: Its sum hides too little or overflows.
        """
        if self._envelope is None:
            raise JobRefusedError("a submission came without its manifest")
        manifest = open_job(self._envelope)
        if manifest.submitter != self._administrator:
            raise JobRefusedError(f"{self._administrator} submitted a job of {manifest.submitter}")
        for what, found, expected in (
            ("code", hashlib.sha256(self._code).digest(), manifest.code.sha256),
            ("model", hashlib.sha256(self._model).digest(), manifest.model.sealed_sha256),
        ):
            if found != expected:
                raise JobRefusedError(f"the {what} has SHA-256 {found.hex()}, the manifest names {expected.hex()}")
        terms_of(manifest)
        return SubmittedJob(
            envelope=self._envelope, manifest=manifest, code=bytes(self._code), model=bytes(self._model)
        )

    def _grow(self, buffer: bytearray, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise JobRefusedError("the job is larger than this server takes", hint="ask its operator: max_job_bytes")
        buffer += data
