"""T15: somebody who holds the disk changes the record of what happened."""

import shutil

import pytest

from fl_runtime.demo.attacks import record, tamper_with_audit
from tests.fakes.audit_folder import build_audit_folder


@pytest.fixture
def audit(tmp_path):
    return build_audit_folder(tmp_path)


def test_t15_record_with_one_digit_changed_does_not_verify(audit):
    outcome = tamper_with_audit(audit.path, audit.trust)
    assert outcome.refused, outcome.reason
    assert "log server" in outcome.reason


def test_folder_itself_stays_as_it_was(audit):
    before = {path: path.read_bytes() for path in audit.path.rglob("*") if path.is_file()}
    tamper_with_audit(audit.path, audit.trust)
    assert {path: path.read_bytes() for path in audit.path.rglob("*") if path.is_file()} == before


def test_record_that_did_not_verify_before_is_not_counted_as_refused(audit):
    shutil.rmtree(audit.path / "server")
    outcome = tamper_with_audit(audit.path, audit.trust)
    assert not outcome.refused
    assert outcome.reason.startswith("did not verify before anything was changed")


def test_change_that_nobody_notices_is_not_counted_as_refused(audit, monkeypatch):
    monkeypatch.setattr(record, "_change_digit", lambda records: None)
    outcome = tamper_with_audit(audit.path, audit.trust)
    assert (outcome.refused, outcome.reason) == (False, "the changed record verified")


def test_change_that_breaks_the_format_is_told_apart_from_a_broken_tree(audit, monkeypatch):
    monkeypatch.setattr(record, "_change_digit", lambda records: records.write_bytes(records.read_bytes()[:-1]))
    outcome = tamper_with_audit(audit.path, audit.trust)
    assert not outcome.refused
    assert outcome.reason.startswith("refused for another reason (audit.malformed)")
