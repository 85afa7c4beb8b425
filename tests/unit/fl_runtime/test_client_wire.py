"""The message socket: what arrives is a known message and sealed memory, or is refused."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_runtime.arrays import Layout, decode
from fl_runtime.client.wire import (
    Channel,
    End,
    Log,
    Result,
    Task,
    open_sealed,
    sample_count,
    seal,
    split_meta,
)
from fl_runtime.errors import ArraysError, TrainerLostError
from policies.errors import MalformedDocumentError

ARRAYS = {"w": np.ones(3, np.float32)}
LAYOUT = Layout.of(ARRAYS)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Channel(ours), Channel(theirs), ours


def open_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=9), st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_numbers_travel_exactly(metrics):
    result = Result(params_type=None, metrics=metrics, meta={}, numbers={})
    assert Result.parse(result.encode()) == result


@pytest.mark.parametrize("text", ['"nan"', '"inf"', '"1e999"', '"x"', "1.5"])
def test_number_that_is_not_finite_or_not_text_is_malformed(text):
    raw = b'{"kind":"result","params_type":null,"metrics":{"a":%s},"meta":{},"numbers":{}}' % text.encode()
    with pytest.raises(MalformedDocumentError):
        Result.parse(raw)


def test_message_arrives_with_its_arrays(pair):
    ours, theirs, _ = pair
    fd = seal(ARRAYS, LAYOUT)
    ours.send(End(), fd=fd)
    os.close(fd)
    message, received = theirs.receive(Task, End)
    assert message == End()
    assert not os.get_inheritable(received)
    assert decode(open_sealed(received), LAYOUT)["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b"{}", b'{"kind":"end","more":1}', b'{"kind":"log"}', b'{"kind":["end"]}', b"\xff"]
)
def test_packet_that_is_no_known_message_is_refused_and_its_descriptor_closed(pair, raw):
    _, theirs, sender = pair
    before = open_fds()
    socket.send_fds(sender, [raw], [0])
    with pytest.raises(MalformedDocumentError):
        theirs.receive(End)
    assert open_fds() == before


def test_packet_with_two_descriptors_or_too_many_bytes_is_refused(pair):
    _, theirs, sender = pair
    before = open_fds()
    for raw, fds in ((End().encode(), [0, 0, 0, 0]), (End().encode() + b" " * (64 << 10), [])):
        socket.send_fds(sender, [raw], fds)
        with pytest.raises(MalformedDocumentError, match="more than"):
            theirs.receive(End)
    assert open_fds() == before


def test_message_too_large_to_travel_is_refused_by_its_sender(pair):
    meta = {f"key-{number}": "x" * 10_000 for number in range(7)}
    with pytest.raises(ValueError, match="at most 65536"):
        pair[0].send(Result(params_type=None, metrics={}, meta=meta, numbers={}))


def test_closed_socket_reads_as_the_end_and_cannot_be_written(pair):
    ours, theirs, _ = pair
    theirs.close()
    assert ours.receive(End) == (None, None)
    with pytest.raises(TrainerLostError):
        ours.send(End())


def test_silence_is_a_timeout(pair):
    with pytest.raises(TimeoutError):
        pair[0].receive(Log, timeout_seconds=0.01)


def test_sealed_memory_cannot_be_changed_or_cut():
    fd = seal(ARRAYS, LAYOUT)
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


def test_writable_map_is_private():
    fd = seal(ARRAYS, LAYOUT)
    decode(open_sealed(os.dup(fd), writable=True), LAYOUT, writable=True)["w"][:] = 9
    assert decode(open_sealed(fd), LAYOUT)["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ["unsealed", "file", "pipe"])
def test_arrays_in_anything_but_sealed_memory_are_refused_and_closed(kind, tmp_path):
    before = open_fds()
    if kind == "unsealed":
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.write(fd, bytes(100))
    elif kind == "file":
        fd = os.open(tmp_path / "x", os.O_CREAT | os.O_RDWR)
        os.write(fd, bytes(100))
    else:
        fd, other = os.pipe()
        os.close(other)
    with pytest.raises(ArraysError, match="memory"):
        open_sealed(fd)
    assert open_fds() == before


def test_meta_is_parted_into_plain_values_and_floats():
    meta = {"n": np.int64(3), "lr": np.float32(0.5), "who": "a", "on": True}
    assert split_meta(meta) == ({"n": 3, "who": "a", "on": True}, {"lr": 0.5})
    with pytest.raises(TypeError, match=r"meta\['x'\] is a list"):
        split_meta({"x": [1]})


@pytest.mark.parametrize("count", [None, 0, -1, True, "5"])
def test_sample_count_that_is_no_whole_number_from_1_is_refused_by_name(count):
    with pytest.raises(ValueError, match="NUM_STEPS_CURRENT_ROUND"):
        sample_count({} if count is None else {"NUM_STEPS_CURRENT_ROUND": count})
