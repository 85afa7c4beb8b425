"""What every message of one attempt at one round is about. Two sites that were told different things differ here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from fl_runtime.secure_aggregation.cohort import Cohort
from fl_runtime.secure_aggregation.errors import OutOfOrderError
from fl_runtime.secure_aggregation.parameters import Parameters
from policies.encoding import lp, sha256, u32, u64

DIGEST_SIZE = 32
MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """One attempt at one round, as one party sees it."""

    job: str
    round: int  # from 0, below 2^32
    attempt: int  # 1, 2 or 3
    model_hash: bytes  # 32 bytes, of the model that the updates are differences from
    cohort_digest: bytes  # 32 bytes
    params_digest: bytes  # 32 bytes
    vector_length: int  # ring words

    @classmethod
    def of(
        cls, *, job: str, round_number: int, attempt: int, model_hash: bytes, cohort: Cohort, parameters: Parameters
    ) -> Self:
        """Return the context of an attempt.

        Raises:
            OutOfOrderError: No such round or attempt.
        """
        if not (0 <= round_number < 1 << 32 and 1 <= attempt <= MAX_ATTEMPTS and len(model_hash) == DIGEST_SIZE):
            raise OutOfOrderError(
                f"round {round_number}, attempt {attempt}, model hash of {len(model_hash)} bytes;"
                f" expected a round below 2^32, an attempt from 1 to {MAX_ATTEMPTS} and 32 bytes"
            )
        return cls(
            job=job,
            round=round_number,
            attempt=attempt,
            model_hash=model_hash,
            cohort_digest=cohort.digest(),
            params_digest=parameters.digest(),
            vector_length=parameters.words,
        )

    def encode(self) -> bytes:
        """Return lp(job) || u32(round) || u32(attempt) || model hash || cohort digest || params digest || u64(length)."""
        digests = self.model_hash + self.cohort_digest + self.params_digest
        return lp(self.job) + u32(self.round) + u32(self.attempt) + digests + u64(self.vector_length)

    def pair_context(self) -> bytes:
        """SHA-256 that every key of this attempt is derived under, 32 bytes.

        A server that shows one site another model gets masks that do not cancel.

        Source: Pasquini, Francati, Ateniese 2022, https://arxiv.org/abs/2111.07380
        """
        return sha256("pair-context", self.encode())

    def differences(self, other: RoundContext) -> tuple[str, ...]:
        """Name the fields in which `other` differs."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name))
