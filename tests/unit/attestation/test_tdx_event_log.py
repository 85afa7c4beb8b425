import hashlib
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import BindingMismatchError, MalformedEvidenceError
from attestation.tdx.event_log import MAX_EVENTS, MAX_LOG_SIZE, parse_event_log, replay, verify_event_log

SHA384, SHA256 = (0x0C, 48), (0x0B, 32)
EV_SEPARATOR, EV_NO_ACTION = 4, 3


def header(
    *algorithms: tuple[int, int], kind=EV_NO_ACTION, sha1=bytes(20), mark=b"Spec ID Event03\0", vendor=b"v", behind=b""
):
    specification = mark + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    specification += b"".join(struct.pack("<HH", *algorithm) for algorithm in algorithms)
    specification += bytes((len(vendor),)) + vendor + behind
    return struct.pack("<II", 1, kind) + sha1 + struct.pack("<I", len(specification)) + specification


def event(register: int, data: bytes, *, kind=EV_SEPARATOR, digests=None, size=None) -> bytes:
    listed = [(0x0C, hashlib.sha384(data).digest())] if digests is None else digests
    raw = struct.pack("<III", register, kind, len(listed))
    raw += b"".join(struct.pack("<H", algorithm) + digest for algorithm, digest in listed)
    return raw + struct.pack("<I", len(data) if size is None else size) + data


EVENTS = [event(1, b"config"), event(2, b"kernel"), event(3, b"command line"), event(1, b"boot\0"), event(0, b"memory")]
LOG = header(SHA384) + b"".join(EVENTS)


def extend(*data: bytes) -> bytes:
    register = bytes(48)
    for one in data:
        register = hashlib.sha384(register + hashlib.sha384(one).digest()).digest()
    return register


RTMRS = (extend(b"config", b"boot\0"), extend(b"kernel"), extend(b"command line"), bytes(48))


@pytest.mark.parametrize("padding", [b"", bytes(100), b"\xff" * 100], ids=["none", "zeros", "ones"])
def test_log_gives_its_events_and_the_registers_of_the_quote(padding):
    events = verify_event_log(LOG + padding, RTMRS)
    assert [(one.register, one.data) for one in events] == [
        (1, b"config"),
        (2, b"kernel"),
        (3, b"command line"),
        (1, b"boot\0"),
        (0, b"memory"),
    ]


@pytest.mark.parametrize("end", [b"\0", b"\xff", b""])
@pytest.mark.parametrize("padding", [b"", bytes(9), b"\xff" * 9], ids=["none", "zeros", "ones"])
def test_event_whose_data_end_like_padding_is_read_in_full(end, padding):
    raw = header(SHA384) + event(4, b"x" + end * 20)
    assert [one.data for one in parse_event_log(raw + padding)] == [b"x" + end * 20]


def test_fourth_register_is_rtmr3():
    assert replay(parse_event_log(header(SHA384) + event(4, b"workload")))[3] == extend(b"workload")


def test_event_of_no_action_extends_nothing():
    events = parse_event_log(header(SHA384) + event(1, b"note", kind=EV_NO_ACTION))
    assert (replay(events), events[0].data_is_measured) == ((bytes(48),) * 4, False)


def test_data_are_measured_where_the_digest_is_theirs():
    raw = header(SHA384) + event(1, b"data") + event(1, b"a name", digests=[(0x0C, bytes(48))])
    assert [one.data_is_measured for one in parse_event_log(raw)] == [True, False]


def test_log_may_announce_eight_algorithms_up_to_sha512():
    algorithms = [SHA384, (0x0D, 64), *((0x20 + index, 20) for index in range(6))]
    digests = [(algorithm, bytes(size)) for algorithm, size in algorithms]
    assert len(parse_event_log(header(*algorithms) + event(1, b"x", digests=digests))) == 1


def test_other_digests_are_passed_over():
    both = [(0x0B, bytes(32)), (0x0C, hashlib.sha384(b"x").digest())]
    assert replay(parse_event_log(header(SHA256, SHA384) + event(2, b"x", digests=both)))[1] == extend(b"x")


@pytest.mark.parametrize("index", range(4))
def test_log_that_gives_another_register_is_rejected(index):
    expected = [*RTMRS]
    expected[index] = b"\1" * 48
    with pytest.raises(BindingMismatchError, match=f"event log gives RTMR{index}"):
        verify_event_log(LOG, tuple(expected))


@pytest.mark.parametrize(
    "raw",
    [
        header(SHA384) + b"".join((EVENTS[3], *EVENTS[1:3], EVENTS[0])),
        header(SHA384) + b"".join(EVENTS[1:]),
        header(SHA384) + b"".join((*EVENTS, EVENTS[1])),
        header(SHA384) + bytes(16) + b"".join(EVENTS),
    ],
    ids=["order", "event left out", "event twice", "padding before the events"],
)
def test_log_that_was_edited_is_rejected(raw):
    with pytest.raises((BindingMismatchError, MalformedEvidenceError)):
        verify_event_log(raw, RTMRS)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "ends at byte 0"),
        (header(SHA384, kind=4), "crypto agile"),
        (header(SHA384, sha1=b"\1" * 20), "crypto agile"),
        (header(SHA384, mark=b"Spec ID Event02\0"), "crypto agile"),
        (header(SHA256), "and SHA-384 of 48 bytes"),
        (header(), "and SHA-384 of 48 bytes"),
        (header((0x0C, 32)), "and SHA-384 of 48 bytes"),
        (header(SHA384, SHA384), "expected each once"),
        (header(SHA384, (0x0D, 65)), "expected each once"),
        (header(*((index, 20) for index in range(9))), "9 digest algorithms"),
        (header(SHA384, behind=b"x"), "vendor field"),
        (header(SHA384) + event(5, b""), "register 5"),
        (header(SHA384) + event(1, b"", digests=[]), "0 digests"),
        (header(SHA384, SHA256) + event(1, b"", digests=[(0x0C, bytes(48))] * 2), "twice or unannounced"),
        (header(SHA384) + event(1, b"", digests=[(0x0B, bytes(32))]), "twice or unannounced"),
        (header(SHA384) + event(1, b"cut", size=4), "event log ends at"),
        (header(SHA384) + event(1, b"", size=0xFFFFFFFF), "event log ends at"),
        (header(SHA384) + event(1, b"") * (MAX_EVENTS + 1), f"more than {MAX_EVENTS}"),
        (bytes(MAX_LOG_SIZE + 1), "at most 1048576"),
    ],
)
def test_log_that_breaks_the_format_is_rejected(raw, reason):
    with pytest.raises(MalformedEvidenceError, match=reason):
        parse_event_log(raw)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(LOG)))
def test_log_parser_raises_nothing_but_malformed_evidence(raw, cut):
    with suppress(MalformedEvidenceError):
        parse_event_log(LOG[:cut] + raw)
