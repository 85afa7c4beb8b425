"""Everything that can go wrong with a job before it runs; the rest of its life is in `fl_runtime.errors`.

JobError
└── ArchiveError              a code archive is not one that `archive.pack` writes
"""

from __future__ import annotations

from fl_runtime.errors import JobError


class ArchiveError(JobError):
    """A code archive is not one that `archive.pack` writes, or a folder cannot be packed."""

    code = "federation.job_archive"
