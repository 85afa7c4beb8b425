"""A demonstration counts as completed only if every round, every attack and the record are as they must be."""

from __future__ import annotations

import json
from pathlib import Path

from fl_runtime.demo.ground import AttackOutcome
from fl_runtime.demo.summary import Audited, write_summary
from tests.fakes.demo import audited, outcome, round_done


def test_summary_holds_what_a_reader_counts_on(tmp_path: Path) -> None:
    write_summary(outcome(audit=audited(tmp_path / "lab")), tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["sites"], summary["seconds"]) == ("completed", 2, 4, 20.25)
    assert summary["metric"] == {
        "name": "accuracy",
        "federated": 0.97,
        "centralised": 0.98,
        "alone": {"site-a": 0.88, "site-b": 0.88, "site-c": 0.88, "site-d": 0.91},
    }
    assert summary["attacks"][1] == {"name": "debug guest", "refused": True, "reason": "policy.debug is on"}
    assert summary["audit"]["verified"] is True
    assert summary["audit"]["records"] > 0
    assert summary["mock"] is True


def test_attack_that_was_not_refused_fails_the_demonstration() -> None:
    accepted = AttackOutcome(name="debug guest", refused=False, reason="was accepted")
    told = outcome(attacks=(accepted,))
    assert told.failure == "the attack 'debug guest' was not refused: was accepted"
    assert told.to_json()["status"] == "failed"


def test_record_that_does_not_verify_fails_the_demonstration() -> None:
    broken = Audited(verified=False, reason="log server is torn", verification=None)
    assert outcome(audit=broken).failure == "the record does not verify: log server is torn"
    assert broken.records == 0


def test_round_that_is_missing_fails_the_demonstration() -> None:
    assert outcome(rounds=(round_done(1),)).failure == "1 rounds were committed, expected 2"


def test_everything_as_it_must_be_is_no_failure() -> None:
    assert outcome().failure is None
    assert "failure" not in outcome().to_json()


def test_sites_that_cosigned_are_the_witnesses(tmp_path: Path) -> None:
    assert audited(tmp_path / "lab").witnesses == 4


def test_best_site_alone_is_the_best() -> None:
    assert outcome().scores.best_alone == 0.91
