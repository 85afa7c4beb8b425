"""What a site must remember across attempts, so that no two sums over different survivors hold the same update.

Rounds of a job only rise; attempts at a round only rise, at most three; and once a site has answered an unmask, it joins no
further attempt at that round. A site saves `encode()` before an answer leaves it, so that a restart forgets nothing.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field

from fl_runtime.secure_aggregation.context import MAX_ATTEMPTS, RoundContext
from fl_runtime.secure_aggregation.errors import RoundAbandonedError
from policies.documents import Document


class Joined(Document):
    """The last attempt at a job's last round that this site joined."""

    job: str = Field(max_length=256)
    round: int = Field(ge=0)
    attempt: int = Field(ge=1, le=MAX_ATTEMPTS)
    answered: bool  # an unmask: this round is over for this site


class _Saved(Document):
    jobs: tuple[Joined, ...]


class RoundMemory:
    """For each job, where this site stands. Shared by all its attempts; one entry a job, however many rounds."""

    def __init__(self) -> None:
        self._jobs: dict[str, Joined] = {}

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the memory that `encode` saved.

        Raises:
            MalformedDocumentError: It is not one.
        """
        memory = cls()
        memory._jobs = {entry.job: entry for entry in _Saved.parse(raw).jobs}
        return memory

    def encode(self) -> bytes:
        """Return the memory as strict JSON, for the site to keep."""
        return _Saved(jobs=tuple(self._jobs[job] for job in sorted(self._jobs))).encode()

    def forget(self, job: str) -> None:
        """Drop the entry of a job that is over for good, whose name will not be used again."""
        self._jobs.pop(job, None)

    def join(self, context: RoundContext) -> None:
        """Note that this site takes part in an attempt; each can be joined once.

        Raises:
            RoundAbandonedError: The round is past, the attempt was joined before, or this site has answered in the round.
        """
        last = self._jobs.get(context.job)
        if last is not None and last.answered and last.round == context.round:
            raise RoundAbandonedError(
                f"this site has answered an unmask in round {context.round} of {context.job}, so it joins no further attempt",
                hint="the model stays as it is; the next round trains again",
            )
        if last is not None and (context.round, context.attempt) <= (last.round, last.attempt):
            raise RoundAbandonedError(
                f"round {context.round} attempt {context.attempt} of {context.job} was asked for after round {last.round}"
                f" attempt {last.attempt}; expected a later one"
            )
        self._note(context, answered=False)

    def answer(self, context: RoundContext) -> None:
        """Note that this site answers an unmask in this attempt, before it does.

        Raises:
            RoundAbandonedError: This site has since joined another attempt, or has answered.
        """
        last = self._jobs.get(context.job)
        if last is None or last.answered or (last.round, last.attempt) != (context.round, context.attempt):
            raise RoundAbandonedError(
                f"round {context.round} attempt {context.attempt} of {context.job} is not this site's open attempt"
            )
        self._note(context, answered=True)

    def _note(self, context: RoundContext, *, answered: bool) -> None:
        self._jobs[context.job] = Joined(
            job=context.job, round=context.round, attempt=context.attempt, answered=answered
        )
