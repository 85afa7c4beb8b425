"""One thing that appraisal found: genuine evidence that says something the policy does not want.

A finding is a value, not an exception: appraisal lists all of them, so that an operator repairs a machine once and not
once for each line of a policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

FindingStatus = Literal["warning", "contraindicated"]

_SEVERITY: Mapping[FindingStatus, int] = {"contraindicated": 0, "warning": 1}  # AR4SI tiers; lower is worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a claim says against what the policy asks."""

    field: str  # the claim, dotted: "snp.policy.debug"
    found: str
    expected: str
    status: FindingStatus
    repair: str  # what the operator of the machine can do about it

    def __str__(self) -> str:
        """One sentence: the claim, what was found, what was expected."""
        return f"{self.field} is {self.found}, expected {self.expected}"


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings with `contraindicated` before `warning`, otherwise in the order given."""
    return tuple(sorted(findings, key=lambda finding: _SEVERITY[finding.status]))
