from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_runtime.transport.chunks import MAX_CALL_BYTES, Reassembly, calls, cut, is_repeated
from fl_runtime.transport.errors import ChunkError, ConflictError, DigestMismatchError

WHOLE = bytes(range(20))  # in chunks of 8: 8, 8, 4


def collecting() -> tuple[Reassembly, bytearray]:
    into = bytearray(20)
    return Reassembly(into, chunk_bytes=8), into


def filled() -> Reassembly:
    parts, _ = collecting()
    for chunk in cut(WHOLE, chunk_bytes=8):
        parts.accept(chunk.offset, chunk.body)
    return parts


@given(st.binary(max_size=100), st.integers(1, 40))
def test_what_was_cut_is_put_together_as_it_was(whole, chunk_bytes):
    parts = Reassembly(bytearray(len(whole)), chunk_bytes=chunk_bytes)
    digest = hashlib.sha256()
    for chunk in cut(whole, chunk_bytes=chunk_bytes, digest=digest):
        parts.accept(chunk.offset, chunk.body)
    assert parts.finish(digest.digest()) == whole


def test_an_array_is_cut_as_its_bytes_without_a_copy():
    array = np.arange(5, dtype=np.uint32)
    chunks = list(cut(array.data, chunk_bytes=8))
    assert [(chunk.offset, len(chunk.body)) for chunk in chunks] == [(0, 8), (8, 8), (16, 4)]
    assert np.shares_memory(np.frombuffer(chunks[1].body, dtype=np.uint32), array)


@pytest.mark.parametrize("start", [0, 8, 16, 20])
def test_a_transfer_resumes_where_the_receiver_stopped_and_its_digest_covers_the_whole(start):
    digest = hashlib.sha256()
    sent = b"".join(bytes(chunk.body) for chunk in cut(WHOLE, start=start, chunk_bytes=8, digest=digest))
    assert sent == WHOLE[start:]
    assert digest.digest() == hashlib.sha256(WHOLE).digest()


@pytest.mark.parametrize("start", [-8, 1, 24])
def test_a_transfer_does_not_start_where_no_chunk_begins(start):
    with pytest.raises(ChunkError, match=f"start at byte {start} of 20"):
        list(cut(WHOLE, start=start, chunk_bytes=8))


@pytest.mark.parametrize(("offset", "repeated"), [(0, True), (8, False)])
def test_a_chunk_is_the_next_one_or_has_been_here(offset, repeated):
    assert is_repeated(offset, 8, received=8, total=20, chunk_bytes=8) is repeated


@pytest.mark.parametrize(
    ("offset", "size", "words"),
    [
        (16, 4, "expected byte 8 next"),
        (4, 8, "multiple of 8"),
        (-8, 8, "multiple of 8"),
        (24, 8, "below the end"),
        (8, 7, "has 7 bytes, expected 8"),
        (8, 9, "has 9 bytes, expected 8"),
        (8, 0, "has 0 bytes, expected 8"),
        (16, 8, "has 8 bytes, expected 4"),
    ],
)
def test_a_chunk_that_leaves_a_gap_or_has_the_wrong_size_is_refused(offset, size, words):
    with pytest.raises(ChunkError, match=words):
        is_repeated(offset, size, received=8, total=20, chunk_bytes=8)


@given(st.integers(0, 1000), st.integers(1, 100), st.integers(0, 1000))
def test_calls_cover_every_byte_once_in_order(total, call_bytes, start):
    ranges = list(calls(total, start=start, call_bytes=call_bytes))
    assert [byte for span in ranges for byte in span] == list(range(start, total))
    assert all(0 < len(span) <= call_bytes for span in ranges)


def test_a_call_carries_at_most_64_mib():
    assert [len(span) for span in calls(MAX_CALL_BYTES + 1)] == [64 << 20, 1]


def test_a_gap_leaves_what_was_received_as_it_was():
    parts, into = collecting()
    parts.accept(0, WHOLE[:8])
    with pytest.raises(ChunkError, match="expected byte 8 next"):
        parts.accept(16, WHOLE[16:])
    assert parts.received == 8
    assert into == WHOLE[:8] + bytes(12)


def test_a_chunk_sent_again_does_no_harm():
    parts, _ = collecting()
    assert parts.accept(0, WHOLE[:8]) == 8
    assert parts.accept(0, WHOLE[:8]) == 8
    parts.accept(8, WHOLE[8:16])
    parts.accept(16, WHOLE[16:])
    assert parts.accept(16, WHOLE[16:]) == 20
    assert parts.finish(hashlib.sha256(WHOLE).digest()) == WHOLE


def test_other_bytes_for_a_place_that_is_taken_are_refused():
    parts, into = collecting()
    parts.accept(0, WHOLE[:8])
    with pytest.raises(ConflictError, match="at byte 0 was sent twice"):
        parts.accept(0, bytes(8))
    assert into[:8] == WHOLE[:8]


def test_a_buffer_with_bytes_missing_is_not_handed_out():
    parts, _ = collecting()
    parts.accept(0, WHOLE[:8])
    with pytest.raises(ChunkError, match="8 bytes were received, expected 20"):
        parts.finish(hashlib.sha256(WHOLE).digest())


def test_bytes_that_are_not_those_that_were_announced_are_not_handed_out():
    with pytest.raises(DigestMismatchError, match="expected 0000"):
        filled().finish(bytes(32))


def test_the_whole_cannot_be_written_through_what_is_handed_out():
    assert filled().finish(hashlib.sha256(WHOLE).digest()).readonly
