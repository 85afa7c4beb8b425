"""Records are strict, and frames give back exactly what was put in."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.audit.actions import WORDING, Action
from policies.audit.frames import MAX_ENTRY_SIZE, frame, read_frames
from policies.audit.narrate import narrate
from policies.audit.record import Event, Record, printable, timestamp
from policies.errors import MalformedRecordError

EVENT = Event(action="key.release", actor="service", object="key", decision="allow", digests={"model": bytes(32)})


def make(event: Event = EVENT, **changes: object) -> Record:
    place = {
        "log": "service",
        "seq": 3,
        "ts": "2026-01-02T03:04:05.000006Z",
        "mono": 7,
        "boot": bytes(16),
        "salt": bytes(16),
    }
    return Record.make(event, **{**place, **changes})


def test_record_is_parsed_back_from_its_bytes():
    assert Record.parse(make().encode()) == make()


def test_every_action_has_its_words():
    assert set(WORDING) == set(get_args(Action))


@pytest.mark.parametrize("field", ["actor", "object", "via", "job", "jti", "request", "previous", "next"])
@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\x1b[2J", "a\u202eb", "a\u2028b", "x\x85", "", "y" * 513])
def test_text_that_could_forge_a_line_is_not_recorded(field, text):
    with pytest.raises(MalformedRecordError, match=field):
        make(replace(EVENT, **{field: text}))


def test_reason_with_a_newline_is_not_recorded():
    with pytest.raises(MalformedRecordError, match="reasons"):
        make(replace(EVENT, reasons=("fine", "not\nfine")))


@given(st.text())
@settings(max_examples=100)
def test_printable_text_can_always_be_recorded(text):
    assert make(replace(EVENT, object=printable(text))).object == printable(text)


@pytest.mark.parametrize(
    "text", ["a\nb", "\ud800", "\x1b[0m", "", "z" * 600, "\u202e", "\u0600", "\U000e0001", "\u180e"]
)
def test_hostile_text_becomes_printable(text):
    make(replace(EVENT, object=printable(text)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 2),
        ("seq", 1.0),
        ("seq", -1),
        ("seq", True),
        ("ts", "2026-01-02T03:04:05Z"),
        ("ts", "2026-13-02T03:04:05.000000Z"),
        ("ts", "2026-01-02T03:04:05.000000+00:00"),
        ("boot", "00"),
        ("salt", "zz" * 16),
        ("action", "key.steal"),
        ("decision", "maybe"),
        ("log", "../service"),
        ("digests", {"model": "00"}),
        ("digests", {"no\nname": "00" * 32}),
        ("round", -1),
        ("extra", 1),
        ("job", ""),
    ],
)
def test_record_with_a_wrong_field_is_refused(field, value):
    document = json.loads(make().encode())
    document[field] = value
    with pytest.raises(MalformedRecordError):
        Record.parse(json.dumps(document).encode())


@pytest.mark.parametrize("field", sorted(Record.model_fields))
def test_record_without_a_field_is_refused(field):
    document = json.loads(make().encode())
    del document[field]
    with pytest.raises(MalformedRecordError):
        Record.parse(json.dumps(document).encode())


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_parsing_raises_nothing_but_malformed(raw):
    with pytest.raises(MalformedRecordError):
        Record.parse(raw)


def test_timestamp_is_written_in_utc_with_microseconds():
    eastern = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(eastern) == "2026-01-02T01:04:05.000000Z"
    assert make(ts=timestamp(eastern)).time == eastern.astimezone(UTC)


# --- frames ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
@settings(max_examples=60)
def test_frames_give_back_what_was_put_in(entries):
    assert [entry for _, entry in read_frames(b"".join(map(frame, entries)))] == entries


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_reading_frames_raises_nothing_but_malformed(raw):
    try:
        entries = [entry for _, entry in read_frames(raw)]
    except MalformedRecordError:
        return
    assert b"".join(map(frame, entries)) == raw


@pytest.mark.parametrize("raw", [b"\0", b"\0\0\0\0", b"\0\0\0\2a", b"\xff\xff\xff\xffa", frame(b"a") + b"\0\0\0"])
def test_torn_frame_is_refused(raw):
    with pytest.raises(MalformedRecordError, match="frame at byte"):
        list(read_frames(raw))


@pytest.mark.parametrize("size", [0, MAX_ENTRY_SIZE + 1])
def test_entry_of_no_or_too_many_bytes_is_not_framed(size):
    with pytest.raises(MalformedRecordError, match=str(size)):
        frame(bytes(size))


# --- words -----------------------------------------------------------------------------------------------------------


def test_denied_event_is_told_as_refused_with_its_reasons():
    record = make(replace(EVENT, decision="deny", reasons=("too old", "no grant"), job="digits"))
    assert narrate([record]) == [
        "2026-01-02T03:04:05.000006Z service #3: service refused to release the key key (job digits): too old; no grant"
    ]


def test_intent_without_outcome_is_told_as_possible():
    intent = make(replace(EVENT, next="intended", request="r"))
    done = make(replace(EVENT, previous="intended", next="done", request="r"), seq=4)
    void = make(replace(EVENT, previous="intended", next="void", request="r"), seq=4)
    assert "possibly happened" in narrate([intent])[0]
    assert "possibly" not in "".join(narrate([intent, done]))
    assert "did not happen" in narrate([intent, void])[1]


def test_logs_are_told_in_the_order_of_time():
    early, late = make(log="site-a", seq=9, ts="2026-01-01T00:00:00.000000Z"), make()
    assert [line.split()[1] for line in narrate([late, early])] == ["site-a", "service"]
