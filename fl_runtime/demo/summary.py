"""What a demonstration has shown, and whether that is what it is there to show: `summary.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_runtime.demo.ground import AttackOutcome
from fl_runtime.demo.job import METRIC, RoundDone
from policies.audit import Verification
from policies.files import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Accuracies on one held-out set, from 0 to 1: same model, same seed, same number of epochs."""

    federated: float
    centralised: float
    alone: Mapping[str, float]  # by site

    @property
    def best_alone(self) -> float:
        """Of the sites that train for themselves, the best."""
        return max(self.alone.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What the offline verifier found."""

    verified: bool
    reason: str  # why not; empty where verified
    verification: Verification | None

    @property
    def records(self) -> int:
        """How many records are verified."""
        return len(self.verification.records) if self.verification else 0

    @property
    def witnesses(self) -> int:
        """How many logs' holders have witnessed others."""
        if self.verification is None:
            return 0
        return len({record.log for record in self.verification.records if record.action == "checkpoint.cosign"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that a demonstration has shown."""

    job_id: str
    seed: int
    sites: Mapping[str, str]  # site -> organisation
    samples: Mapping[str, int]  # by site, and `test`
    rounds: tuple[RoundDone, ...]
    rounds_asked: int
    scores: Scores
    attacks: tuple[AttackOutcome, ...]
    audit: Audited
    phases: Mapping[str, float]  # seconds from the start at which each had ended, in order

    @property
    def seconds(self) -> float:
        """From the start to the end."""
        return max(self.phases.values(), default=0.0)

    @property
    def failure(self) -> str | None:
        """The first thing that is not as it must be, or None."""
        if len(self.rounds) != self.rounds_asked:
            return f"{len(self.rounds)} rounds were committed, expected {self.rounds_asked}"
        for attack in self.attacks:
            if not attack.refused:
                return f"the attack {attack.name!r} was not refused: {attack.reason}"
        if not self.audit.verified:
            return f"the record does not verify: {self.audit.reason}"
        return None

    def to_json(self) -> Mapping[str, Any]:
        """The content of `summary.json`."""
        failure = self.failure
        return {
            "status": "completed" if failure is None else "failed",
            **({} if failure is None else {"failure": failure}),
            "job": self.job_id,
            "seed": self.seed,
            "mock": True,  # nothing here is attested by hardware
            "rounds": len(self.rounds),
            "sites": len(self.sites),
            "metric": {
                "name": METRIC,
                "federated": self.scores.federated,
                "centralised": self.scores.centralised,
                "alone": dict(self.scores.alone),
            },
            "attacks": [
                {"name": attack.name, "refused": attack.refused, "reason": attack.reason} for attack in self.attacks
            ],
            "audit": {"verified": self.audit.verified, "records": self.audit.records},
            "seconds": round(self.seconds, 2),
            "phases": {name: round(ended, 2) for name, ended in self.phases.items()},  # when each had ended
        }


def write_summary(outcome: Outcome, path: Path) -> None:
    """Write `summary.json`."""
    write_atomically(path, json.dumps(outcome.to_json(), indent=2).encode() + b"\n", mode=0o644)
