"""`cloister audit`: what it prints, and the errors it raises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from policies.audit import fingerprint
from policies.cli import audit
from policies.errors import EXIT_MALFORMED, EXIT_POLICY, EXIT_SIGNATURE, EXIT_USAGE, CloisterError
from tests.fakes.audit_folder import LEGAL_STORY, AuditFolder, build_audit_folder


@pytest.fixture
def built(tmp_path: Path) -> AuditFolder:
    return build_audit_folder(tmp_path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(audit, [str(argument) for argument in arguments])


def error_of(result: Result) -> CloisterError:
    assert isinstance(result.exception, CloisterError)
    return result.exception


def test_verify_prints_fingerprint_table_and_story(built):
    result = run("verify", built.path)
    assert result.exit_code == 0
    assert fingerprint(built.trust_path.read_bytes()) in result.output
    assert "server          8            3             2  closed" in result.output
    assert "service #3: service released the key job key (job digits)" in result.output
    assert "verified: 23 records in 3 logs" in result.output


def test_quiet_verify_leaves_the_story_out(built):
    result = run("verify", built.path, "--quiet")
    assert result.exit_code == 0
    assert "verified" in result.output
    assert "released" not in result.output


def test_verify_takes_the_trust_it_is_given(built, tmp_path):
    elsewhere = built.trust_path.rename(tmp_path / "other.json")
    assert error_of(run("verify", built.path)).exit_code == EXIT_USAGE
    assert run("verify", built.path, "--trust", elsewhere).exit_code == 0


def test_tampering_is_one_error_that_names_the_place(built):
    path = built.path / "server/records"
    path.write_bytes(path.read_bytes().replace(b'"SubmitJob"', b'"SubmitJab"'))
    result = run("verify", built.path)
    error = error_of(result)
    assert error.exit_code == EXIT_SIGNATURE
    assert error.message.startswith("log server, checkpoints: checkpoint 1 at byte ")
    assert "have the root" in error.message
    assert "expected" in error.message
    assert error.hint == "a record was changed; those before size 1 are as they were signed"
    assert "verified" not in result.output


@pytest.mark.parametrize(
    ("file", "content", "exit_code"),
    [
        ("server/records", b"\0", EXIT_MALFORMED),
        ("stray", b"", EXIT_MALFORMED),
        ("server/checkpoints", b"", EXIT_SIGNATURE),
    ],
)
def test_exit_code_says_what_kind_of_failure_it_is(built, file, content, exit_code):
    (built.path / file).write_bytes(content)
    assert error_of(run("verify", built.path)).exit_code == exit_code


def test_illegal_story_is_a_policy_failure(tmp_path):
    built = build_audit_folder(tmp_path, story=LEGAL_STORY[:-3])  # an unmask, and no commit behind it: legal
    assert run("verify", built.path).exit_code == 0
    built = build_audit_folder(tmp_path / "illegal", story=[LEGAL_STORY[-1]])
    assert error_of(run("verify", built.path)).exit_code == EXIT_POLICY


def test_trust_that_is_no_document_is_malformed(built):
    built.trust_path.write_text("{}")
    assert error_of(run("verify", built.path)).exit_code == EXIT_MALFORMED


@pytest.mark.parametrize("command", ["verify", "show"])
def test_folder_that_is_not_there_is_a_usage_error(tmp_path, command):
    assert error_of(run(command, tmp_path / "nowhere")).exit_code == EXIT_USAGE


def test_show_tells_the_records_in_words(built):
    lines = run("show", built.path).output.splitlines()
    assert len(lines) == 23
    assert lines == sorted(lines)


def test_show_of_one_job_in_one_log_as_json(built):
    result = run("show", built.path, "--log", "server", "--job", "digits", "--format", "json")
    actions = [json.loads(line)["action"] for line in result.output.splitlines()]
    assert actions == ["job.submit", "round.open", "unmask", "round.commit", "round.commit", "model.release"]


def test_show_of_a_log_that_is_not_there_names_those_that_are(built):
    error = error_of(run("show", built.path, "--log", "relay"))
    assert (error.exit_code, "server, service, site-a" in error.message) == (EXIT_USAGE, True)


def test_show_of_a_job_that_is_not_there_prints_nothing(built):
    assert run("show", built.path, "--job", "none").output == ""


@pytest.mark.parametrize("command", ["verify", "show"])
def test_help_has_examples(command):
    output = run(command, "--help").output
    assert "Examples" in output
    assert f"cloister audit {command} runs/demo/audit" in output
