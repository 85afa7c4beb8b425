"""Genuine records that tell of something that must not happen are refused, each for its own reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from policies.audit import Event, check_story, verify_folder
from policies.audit.record import Record
from policies.errors import IllegalStoryError
from tests.fakes.audit_folder import JOB, LEGAL_STORY, Story, build_audit_folder

KINDS = {"service": "service", "server": "server", "server-b": "server", "site-a": "site", "site-b": "site"}


def told(story: Story, *, late: int = 0) -> list[Record]:
    """Make the records of a story, a second apart; those of `site-a` bear a time that is `late` seconds too late."""
    seen: dict[str, int] = {}
    records = []
    for index, (log, event) in enumerate(story):
        seconds = index + (late if log == "site-a" else 0)
        ts = f"2026-01-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.000000Z"
        seq = seen.get(log, 0)
        seen[log] = seq + 1
        records.append(Record.make(event, log=log, seq=seq, ts=ts, mono=0, boot=bytes(16), salt=bytes(16)))
    return records


def place_of(action: str) -> int:
    return next(index for index, (_, event) in enumerate(LEGAL_STORY) if event.action == action)


def without(action: str) -> Story:
    return [(log, event) for log, event in LEGAL_STORY if event.action != action]


def changed(action: str, **changes: object) -> Story:
    return [(log, replace(event, **changes) if event.action == action else event) for log, event in LEGAL_STORY]


def told_by(action: str, log: str) -> Story:
    return [(log if event.action == action else there, event) for there, event in LEGAL_STORY]


def moved_last(action: str) -> Story:
    return [*without(action), *(step for step in LEGAL_STORY if step[1].action == action)]


def added(*steps: tuple[str, Event]) -> Story:
    return [*LEGAL_STORY, *steps]


def release(**changes: object) -> Event:
    return replace(LEGAL_STORY[place_of("key.release")][1], request="req-9", **changes)


def commit(**changes: object) -> Event:
    return replace(Event(action="round.commit", actor="server", object="sum", job=JOB, round=1), **changes)


INTENT = commit(request="i", next="intended", round=2)
VOID = commit(request="i", previous="intended", next="void", round=2)
OPEN_2 = Event(action="round.open", actor="server", object="a round", job=JOB, round=2)


def test_legal_story_is_accepted():
    check_story(told(LEGAL_STORY), KINDS)


ILLEGAL: dict[str, tuple[Story, str]] = {
    "key released without an attestation": (without("attestation.decision"), "an attestation jti-1"),
    "key released before its attestation": (moved_last("attestation.decision"), "an attestation jti-1"),
    "key released after a refused attestation": (changed("attestation.decision", decision="deny"), "an attestation"),
    "key released after an undecided attestation": (changed("attestation.decision", decision="note"), "an attestation"),
    "key released to another attestation": (changed("key.release", jti="jti-2"), "an attestation jti-2"),
    "key released to no attestation": (changed("key.release", jti=None), "an attestation None"),
    "key released to no attestation by nobody's": (
        changed("attestation.decision", jti=None)[:5] + changed("key.release", jti=None)[5:],
        "an attestation None",
    ),
    "attestation told by a site": (told_by("attestation.decision", "site-a"), "an attestation jti-1"),
    "key of a job released without approval": (without("job.approve"), "a site that approved"),
    "key of a job released after a refusal": (
        changed("job.approve", decision="deny", request=None),
        "a site that approved",
    ),
    "key of another job released": (changed("key.release", job="other"), "a site that approved the job other"),
    "approval told by the server": (told_by("job.approve", "server"), "a site that approved"),
    "round committed without being opened": (without("round.open"), "being opened"),
    "round committed before being opened": (moved_last("round.open"), "being opened"),
    "another round committed": (added(("server", commit(round=2))), "round 2 of job digits being opened"),
    "no round committed": (added(("server", commit(round=None))), "a round of job digits being opened"),
    "round opened by a site": (told_by("round.open", "site-a"), "being opened"),
    "round committed twice": (added(("server", commit())), "committed twice"),
    "round committed by two servers": (added(("server-b", commit())), "committed twice"),
    "sum unmasked without its round": (changed("unmask", round=7), "round 7 of job digits being opened"),
    "model released without a commit": (without("round.commit"), "being committed"),
    "model released before the commit": (
        [
            *(s for s in LEGAL_STORY if s[1].action != "round.commit"),
            *(s for s in LEGAL_STORY if s[1].action == "round.commit"),
        ],
        "being committed",
    ),
    "model of another round released": (changed("model.release", round=2), "round 2 of job digits being committed"),
    "model of another job released": (changed("model.release", job="other", round=None), "job other being committed"),
    "model of no job released": (changed("model.release", job=None, round=None), "job None being committed"),
    "model released after a commit that is void": (
        [
            *without("model.release")[:-1],
            ("server", commit(request="req-4", previous="intended", next="void")),
            LEGAL_STORY[-1],
        ],
        "being committed",
    ),
    "denied request allowed after all": (
        added(("service", release(decision="deny")), ("service", release())),
        "denied",
    ),
    "denied effect noted after all": (
        added(("server", replace(OPEN_2, decision="deny", request="r")), ("server", replace(OPEN_2, request="r"))),
        "denied",
    ),
    "outcome of nothing": (added(("server", OPEN_2), ("server", VOID)), "no intent before it"),
    "second outcome": (added(("server", OPEN_2), ("server", INTENT), ("server", VOID), ("server", VOID)), "no intent"),
    "outcome told by another log": (added(("server", OPEN_2), ("server", INTENT), ("server-b", VOID)), "no intent"),
}


@pytest.mark.parametrize(("story", "message"), ILLEGAL.values(), ids=list(ILLEGAL))
def test_illegal_story_is_refused(story, message):
    with pytest.raises(IllegalStoryError, match=message):
        check_story(told(story), KINDS)


LEGAL: dict[str, Story] = {
    "nothing": [],
    "a key without a job needs no approval": changed("key.release", job=None),
    "a denied release needs nothing": [("service", release(decision="deny", jti=None))],
    "a model without a round follows any commit of its job": changed("model.release", round=None),
    "an intent without an outcome": added(("server", OPEN_2), ("server", INTENT)),
    "a void commit may be tried again": added(
        ("server", OPEN_2), ("server", INTENT), ("server", VOID), ("server", commit(round=2, request="j"))
    ),
    "a denied request may be tried again as another": added(
        ("service", release(decision="deny")), ("service", replace(release(), request="n"))
    ),
    "one request denied by one site and allowed by another": added(
        ("site-b", Event(action="job.approve", actor="b", object=JOB, job=JOB, decision="deny", request="req-1"))
    ),
}


@pytest.mark.parametrize("story", LEGAL.values(), ids=list(LEGAL))
def test_other_legal_story_is_accepted(story):
    check_story(told(story), KINDS)


@pytest.mark.parametrize(("late", "check"), [(59, None), (90, IllegalStoryError)])
def test_clocks_of_two_logs_may_differ_by_a_minute_and_no_more(late, check):
    expectation: Callable[[], None] = lambda: check_story(told(LEGAL_STORY, late=late), KINDS)  # noqa: E731 - called twice
    if check is None:
        expectation()
    else:
        with pytest.raises(check, match="approved"):
            expectation()


def test_illegal_story_in_a_sound_folder_is_refused(tmp_path):
    built = build_audit_folder(tmp_path, story=without("job.approve"))
    with pytest.raises(IllegalStoryError, match=r"log service, record 3: key.release of job key"):
        verify_folder(built.path, built.trust)
