"""What a demonstration has shown, made up: four sites, two rounds, two attacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fl_runtime.demo.ground import AttackOutcome
from fl_runtime.demo.job import RoundDone
from fl_runtime.demo.summary import Audited, Outcome, Scores
from policies.audit import verify_folder
from tests.fakes.audit_folder import build_audit_folder

SITES = {"site-a": "north", "site-b": "east", "site-c": "south", "site-d": "west"}


def round_done(number: int = 1, *, mean: float = 0.5, remark: str = "") -> RoundDone:
    return RoundDone(
        number=number,
        rounds=2,
        sites=tuple(SITES),
        metric={site: mean + 0.01 * index for index, site in enumerate(SITES)},
        mean=mean,
        bytes_up=1_200_000,
        bytes_down=1_300_000,
        seconds=0.9,
        remark=remark,
    )


def outcome(**changes: object) -> Outcome:
    """An outcome in which everything is as it must be, but for `changes`."""
    made = Outcome(
        job_id="digits-1a2b3c4d",
        seed=1,
        sites=SITES,
        samples={"site-a": 98, "site-b": 245, "site-c": 445, "site-d": 650, "test": 359},
        rounds=(round_done(1, mean=0.1), round_done(2, mean=0.9)),
        rounds_asked=2,
        scores=Scores(federated=0.97, centralised=0.98, alone=dict.fromkeys(SITES, 0.88) | {"site-d": 0.91}),
        attacks=(
            AttackOutcome(name="replayed evidence", refused=True, reason="the challenge was used before"),
            AttackOutcome(name="debug guest", refused=True, reason="policy.debug is on"),
        ),
        audit=Audited(verified=True, reason="", verification=None),
        phases={"founded": 3.0, "trained": 8.5, "verified": 20.25},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def audited(folder: Path) -> Audited:
    """A small record that was written by the real writer and verified by the real verifier."""
    made = build_audit_folder(folder, sites=tuple(SITES))
    return Audited(verified=True, reason="", verification=verify_folder(made.path, made.trust))
