"""What can go wrong with a demonstration itself.

DemoError                 the demonstration did not show what it is there to show
└── ProgramError          one of its programs ended early, or said nothing in time
"""

from __future__ import annotations

from policies.errors import CloisterError


class DemoError(CloisterError):
    """The demonstration did not show what it is there to show."""

    code = "demo"


class ProgramError(DemoError):
    """One of its programs ended early, or said nothing in time."""

    code = "demo.program"
