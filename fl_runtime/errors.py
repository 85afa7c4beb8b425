"""Everything that can go wrong while a job runs.

FederationError
├── ArraysError               tensors by name are malformed, or are not those that were agreed
├── TrainerError              the user's own script raised; says where
├── TrainerLostError          a trainer ended, or said nothing for too long, without raising
├── JobError
│   ├── JobRefusedError       a policy, a budget or a limit does not allow the job
│   ├── JobFailedError        the job cannot go on
│   └── JobParkedError        the job waits for something that may return: sites, keys, room on disk
├── SiteLostError             a site left and its round's deadline passed
├── PeerTooLateError          an answer came after the step it belongs to was closed
└── TransferError             bytes of a model did not arrive as they were sent
"""

from __future__ import annotations

import builtins

from policies.errors import CloisterError


class FederationError(CloisterError):
    """Something in a job, or between a server and its sites, is not as it must be."""

    code = "federation"


class ArraysError(FederationError):
    """Tensors by name are malformed, or are not those that were agreed."""

    code = "federation.arrays"


class TrainerError(FederationError):
    """The user's own script raised. The message is one line that names the place:

    `train.py:41 ZeroDivisionError: division by zero (site hospital-a, round 3)`, rounds counted from 1

    What the exception says was written by the script and may quote data: it leaves the site only where the site's policy
    says so, and otherwise `withheld` does.

    Args:
        site: Name of the site.
        round_number: Round that was being worked on, counted from 0; None before the first task.
        file: Path of the script's file that holds the innermost frame.
        line: Its line, counted from 1.
        exception: Name of the exception's type.
        detail: The exception's own message.
        traceback: Last lines of the traceback.
    """  # noqa: D415 - the first line ends with the example it introduces

    code = "federation.trainer"

    def __init__(
        self,
        *,
        site: str,
        round_number: int | None,
        file: str,
        line: int,
        exception: str,
        detail: str,
        traceback: str = "",
    ) -> None:
        # Whoever follows a job reads of its rounds from 1 on.
        when = "before its first round" if round_number is None else f"round {round_number + 1}"
        place, where = f"{file.rpartition('/')[2]}:{line}", f"(site {site}, {when})"
        what = f"{exception}: {detail}" if detail else exception
        super().__init__(f"{place} {what} {where}", hint="correct the script, then submit the job again")
        self.site = site
        self.round_number = round_number
        self.file = file
        self.line = line
        self.exception = exception
        self.detail = detail
        self.traceback = traceback

    def withheld(self, *, script: str) -> TrainerError:
        """The same error without anything that the script wrote: where it was raised, and its type if Python's own.

        Args:
            script: The script's name in the job's manifest. Any other file may have been named by the script itself.
        """
        builtin = getattr(builtins, self.exception, None)
        known = isinstance(builtin, type) and issubclass(builtin, BaseException)
        error = TrainerError(
            site=self.site,
            round_number=self.round_number,
            file=script if self.file.endswith(f"/{script}") else "a file of the script",
            line=self.line,
            exception=self.exception if known else "an exception of its own",
            detail="",
        )
        error.hint = (
            f"what it says stays at {self.site}: its operator reads it there, or its policy lets script_errors out"
        )
        return error


class TrainerLostError(FederationError):
    """A trainer ended, or said nothing for too long, without raising."""

    code = "federation.trainer_lost"
    retryable = True


class JobError(FederationError):
    """A job as a whole."""

    code = "federation.job"


class JobRefusedError(JobError):
    """A policy, a budget or a limit does not allow the job."""

    code = "federation.job_refused"


class JobFailedError(JobError):
    """The job cannot go on."""

    code = "federation.job_failed"


class JobParkedError(JobError):
    """The job waits for something that may return: sites, keys, room on disk."""

    code = "federation.job_parked"
    retryable = True


class SiteLostError(FederationError):
    """A site left and its round's deadline passed."""

    code = "federation.site_lost"
    retryable = True


class PeerTooLateError(FederationError):
    """An answer came after the step it belongs to was closed."""

    code = "federation.peer_too_late"


class TransferError(FederationError):
    """Bytes of a model did not arrive as they were sent."""

    code = "federation.transfer"
    retryable = True
