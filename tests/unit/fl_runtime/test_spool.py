from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_runtime.transport import spool as module
from fl_runtime.transport.chunks import cut
from fl_runtime.transport.errors import (
    ChunkError,
    ClosedError,
    ConflictError,
    DigestMismatchError,
    MalformedBlobError,
    SealedBlobError,
    SpoolError,
    SumLostError,
)
from fl_runtime.transport.sealed import SealingKey, seal
from fl_runtime.transport.spool import Spool, SpooledSum
from policies.errors import MalformedDocumentError

LENGTH = 50  # words: 200 bytes of uint32, in chunks of 64: 64, 64, 64, 8
CHUNK = 64
KEY = SealingKey(id="job-7/1", secret=bytes(range(32)))


@pytest.fixture
def spool():
    """Make spools whose scratch is freed after the test."""
    with ExitStack() as stack:

        def make(folder: Path, **changes) -> Spool:
            given = {"key": bytes(32), "word": np.uint32, "length": LENGTH, "chunk_bytes": CHUNK} | changes
            return stack.enter_context(Spool(folder, **given))

        yield make


def vector(seed: int, word=np.uint32, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(word).max, length, dtype=word, endpoint=True)


def digest(words: np.ndarray) -> bytes:
    return hashlib.sha256(words.tobytes()).digest()


def send(target: Spool, site: str, words: np.ndarray, *, start: int = 0, stop: int | None = None) -> None:
    for chunk in cut(words.data, start=start, chunk_bytes=CHUNK):
        if stop is None or chunk.offset < stop:
            target.append(site, chunk.offset, chunk.body)


def count(target: Spool, site: str, words: np.ndarray) -> None:
    send(target, site, words)
    target.finish(site, digest(words))


@pytest.mark.parametrize("word", [np.uint32, np.uint64])
def test_the_sum_of_the_vectors_wraps_as_the_ring_does(spool, tmp_path, word):
    target = spool(tmp_path, word=word)
    vectors = [vector(seed, word) for seed in range(3)]
    for number, words in enumerate(vectors):
        count(target, f"site-{number}", words)
    closed = target.close()
    assert np.array_equal(closed.words, vectors[0] + vectors[1] + vectors[2])
    assert closed.words.dtype == word
    assert closed.sites == ("site-0", "site-1", "site-2")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(4)), interleaving=st.randoms(use_true_random=False))
def test_the_sum_does_not_depend_on_the_order_of_arrival(spool, tmp_path_factory, order, interleaving):
    target = spool(tmp_path_factory.getbasetemp())
    waiting = {f"site-{n}": list(cut(vector(n).data, chunk_bytes=CHUNK)) for n in order}
    while waiting:
        site = interleaving.choice(sorted(waiting))
        chunk = waiting[site].pop(0)
        target.append(site, chunk.offset, chunk.body)
        if not waiting[site]:
            del waiting[site]
            target.finish(site, digest(vector(int(site[-1]))))
    assert np.array_equal(target.close().words, vector(0) + vector(1) + vector(2) + vector(3))


def test_sites_may_send_at_the_same_time(spool, tmp_path):
    target = spool(tmp_path, length=5000)
    vectors = {f"site-{n}": vector(n, length=5000) for n in range(8)}
    start = threading.Barrier(8)

    def site(name: str) -> None:
        start.wait()
        count(target, name, vectors[name])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(site, vectors))
    assert np.array_equal(target.close().words, sum(vectors.values(), np.zeros(5000, np.uint32)))


def test_a_vector_of_one_word_is_summed(spool, tmp_path):
    target = spool(tmp_path, length=1)
    count(target, "a", vector(1, length=1))
    assert target.close().words == vector(1, length=1)


def test_a_site_gone_half_way_leaves_no_trace(spool, tmp_path):
    target = spool(tmp_path)
    count(target, "a", vector(1))
    send(target, "b", vector(2), stop=128)
    closed = target.close()
    assert closed.sites == ("a",)
    assert np.array_equal(closed.words, vector(1))
    assert list(tmp_path.iterdir()) == []


def test_scratch_has_no_name_and_holds_no_word_in_the_clear(spool, tmp_path):
    target = spool(tmp_path)
    words = np.full(LENGTH, 0x41414141, np.uint32)
    send(target, "a", words)
    scratch = os.pread(target._uploads["a"].file.fileno(), 1000, 0)
    assert list(tmp_path.iterdir()) == []
    assert len(scratch) == 200 + 4 * 16
    assert b"AAAA" not in scratch


def test_a_site_resumes_from_the_last_chunk_that_is_here(spool, tmp_path):
    target = spool(tmp_path)
    assert target.received("a") == 0
    send(target, "a", vector(1), stop=128)
    assert target.received("a") == 128
    send(target, "a", vector(1), start=128)
    target.finish("a", digest(vector(1)))
    assert target.received("a") == 200
    assert np.array_equal(target.close().words, vector(1))


def test_a_chunk_sent_again_is_counted_once(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1), stop=128)
    assert target.append("a", 0, vector(1).tobytes()[:64]) == 128
    assert target.append("a", 64, vector(1).tobytes()[64:128]) == 128
    send(target, "a", vector(1), start=128)
    target.finish("a", digest(vector(1)))
    assert np.array_equal(target.close().words, vector(1))


def test_other_bytes_for_a_chunk_that_is_here_are_refused(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1), stop=128)
    with pytest.raises(ConflictError, match="at byte 64 was sent twice"):
        target.append("a", 64, bytes(64))
    assert target.received("a") == 128


@pytest.mark.parametrize(("offset", "size"), [(64, 64), (0, 63), (0, 65), (1, 64), (256, 64), (-64, 64), (0, 0)])
def test_a_gap_or_a_chunk_of_the_wrong_size_is_refused_and_changes_nothing(spool, tmp_path, offset, size):
    target = spool(tmp_path)
    with pytest.raises(ChunkError):
        target.append("a", offset, bytes(size))
    assert target.received("a") == 0


def test_a_vector_with_bytes_missing_is_not_counted_and_may_still_come(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1), stop=192)
    with pytest.raises(ChunkError, match="192 bytes were received, expected 200"):
        target.finish("a", digest(vector(1)))
    send(target, "a", vector(1), start=192)
    target.finish("a", digest(vector(1)))
    assert target.close().sites == ("a",)


def test_a_vector_that_is_not_the_one_announced_is_not_counted_and_begins_again(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1))
    with pytest.raises(DigestMismatchError):
        target.finish("a", digest(vector(2)))
    assert target.received("a") == 0
    count(target, "a", vector(2))
    assert np.array_equal(target.close().words, vector(2))


def test_a_site_that_says_twice_that_it_has_finished_is_counted_once(spool, tmp_path):
    target = spool(tmp_path)
    count(target, "a", vector(1))
    target.finish("a", digest(vector(1)))
    assert np.array_equal(target.close().words, vector(1))


def test_a_site_is_not_counted_with_a_second_vector(spool, tmp_path):
    target = spool(tmp_path)
    count(target, "a", vector(1))
    with pytest.raises(ConflictError, match="another vector"):
        target.finish("a", digest(vector(2)))
    with pytest.raises(ClosedError, match="counted already"):
        target.append("a", 0, bytes(64))


def test_a_site_that_is_discarded_may_begin_again_with_another_vector(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1), stop=128)
    target.discard("a")
    target.discard("nobody")
    assert target.received("a") == 0
    count(target, "a", vector(2))
    assert np.array_equal(target.close().words, vector(2))


def test_a_site_that_is_counted_cannot_be_discarded(spool, tmp_path):
    target = spool(tmp_path)
    count(target, "a", vector(1))
    with pytest.raises(ClosedError):
        target.discard("a")


def test_a_site_that_comes_after_the_end_is_refused(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1))
    first = target.close()
    with pytest.raises(ClosedError, match="a comes too late"):
        target.finish("a", digest(vector(1)))
    with pytest.raises(ClosedError, match="b comes too late"):
        target.append("b", 0, bytes(64))
    assert target.close().words is first.words
    assert not first.words.any()


def test_a_site_whose_finish_waits_while_the_spool_is_closed_is_not_counted(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1))
    with target._upload("a") as upload:
        target._closed = True
        with pytest.raises(ClosedError, match="a comes too late"):
            target._count("a", upload, digest(vector(1)))
    assert target.close().sites == ()


def test_an_upload_that_was_dropped_while_another_call_waited_says_where_to_go_on(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1), stop=64)
    target._uploads["a"].file.close()
    with pytest.raises(SpoolError, match="was dropped meanwhile"):
        target.append("a", 64, vector(1).tobytes()[64:128])


def corrupt(target: Spool, site: str, position: int) -> None:
    descriptor = target._uploads[site].file.fileno()
    byte = os.pread(descriptor, 1, position)[0]
    os.pwrite(descriptor, bytes([byte ^ 1]), position)


def test_scratch_that_was_changed_leaves_the_sum_as_it_was(spool, tmp_path):
    target = spool(tmp_path)
    count(target, "a", vector(1))
    send(target, "b", vector(2))
    corrupt(target, "b", 3 * 80)  # in the last chunk: three are added before it is found
    with pytest.raises(SpoolError, match="the vector of b cannot be read back"):
        target.finish("b", digest(vector(2)))
    count(target, "c", vector(3))
    closed = target.close()
    assert closed.sites == ("a", "c")
    assert np.array_equal(closed.words, vector(1) + vector(3))


def test_scratch_that_was_cut_off_leaves_the_sum_as_it_was(spool, tmp_path):
    target = spool(tmp_path)
    send(target, "a", vector(1))
    os.ftruncate(target._uploads["a"].file.fileno(), 100)
    with pytest.raises(SpoolError, match="bytes of scratch"):
        target.finish("a", digest(vector(1)))
    assert not target.close().words.any()


def test_a_sum_that_cannot_be_put_right_is_never_handed_out(spool, tmp_path, monkeypatch):
    target = spool(tmp_path)
    send(target, "a", vector(1))
    corrupt(target, "a", 3 * 80)
    upload, reads = target._uploads["a"], []

    def read(index: int, into: memoryview) -> None:
        reads.append(index)
        if len(reads) > 4:
            raise OSError(5, "Input/output error")
        type(upload).read(upload, index, into)

    monkeypatch.setattr(upload, "read", read)
    with pytest.raises(SumLostError):
        target.finish("a", digest(vector(1)))
    send(target, "b", vector(2))
    with pytest.raises(SumLostError):
        target.finish("b", digest(vector(2)))
    with pytest.raises(SumLostError):
        target.close()


def test_a_full_disk_makes_the_site_begin_again_under_another_salt(spool, tmp_path, monkeypatch):
    target = spool(tmp_path)
    send(target, "a", vector(1), stop=64)
    salt = target._uploads["a"].header.salt

    def full(descriptor: int, view: memoryview, offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", full)
        with pytest.raises(SpoolError, match="No space left") as caught:
            target.append("a", 64, vector(1).tobytes()[64:128])
    assert caught.value.retryable
    assert target.received("a") == 0
    count(target, "a", vector(2))
    send(target, "b", vector(1), stop=64)
    assert target._uploads["b"].header.salt != salt
    assert np.array_equal(target.close().words, vector(2))


def test_a_disk_that_takes_a_part_of_a_chunk_at_a_time_loses_nothing(spool, tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(module.os, "pwrite", lambda descriptor, view, offset: write(descriptor, view[:7], offset))
    target = spool(tmp_path)
    count(target, "a", vector(1))
    assert np.array_equal(target.close().words, vector(1))


def test_no_folder_for_scratch_is_an_error_that_may_pass(spool, tmp_path):
    with pytest.raises(SpoolError, match="no scratch"):
        spool(tmp_path / "absent").append("a", 0, bytes(64))


@pytest.mark.parametrize("changes", [{"length": 0}, {"chunk_bytes": 63}, {"key": bytes(31)}])
def test_a_spool_of_impossible_sizes_is_refused(spool, tmp_path, changes):
    with pytest.raises(ValueError, match=r"expected 32|a vector of"):
        spool(tmp_path, **changes)


def test_a_spool_that_is_left_frees_its_scratch_and_takes_nothing_more(tmp_path):
    with Spool(tmp_path, key=bytes(32), word=np.uint32, length=LENGTH, chunk_bytes=CHUNK) as target:
        send(target, "a", vector(1), stop=64)
        file = target._uploads["a"].file
    assert file.closed
    with pytest.raises(ClosedError):
        target.append("a", 0, bytes(64))


# --- a closed sum ----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "sum"
    closed().save(path, KEY, context=b"round 3")
    return path


def closed() -> SpooledSum:
    return SpooledSum(words=vector(1), sites=("a", "b"))


def load(path: Path, **changes) -> SpooledSum:
    return SpooledSum.load(path, **{"key": KEY, "context": b"round 3", "word": np.uint32, "length": LENGTH} | changes)


def test_a_sum_that_was_saved_is_loaded_as_it_was_with_its_sites(saved):
    assert np.array_equal(load(saved).words, vector(1))
    assert load(saved).words.flags.writeable
    assert load(saved).sites == ("a", "b")


def test_a_saved_sum_is_named_by_its_content_and_not_readable_without_the_key(tmp_path, saved):
    name = closed().save(tmp_path / "sum", KEY, context=b"round 3")
    assert name == hashlib.sha256(saved.read_bytes()).digest()
    assert vector(1).tobytes()[:16] not in saved.read_bytes()


@pytest.mark.parametrize("changes", [{"context": b"round 4"}, {"key": SealingKey(id="job-7/1", secret=bytes(32))}])
def test_a_sum_of_another_round_or_key_does_not_open(saved, changes):
    with pytest.raises(SealedBlobError):
        load(saved, **changes)


@pytest.mark.parametrize("changes", [{"length": LENGTH * 2}, {"word": np.uint64}])
def test_a_sum_of_another_size_is_malformed(saved, changes):
    with pytest.raises(MalformedBlobError, match="words and names"):
        load(saved, **changes)


def test_a_sum_that_was_cut_off_is_malformed(saved):
    os.truncate(saved, saved.stat().st_size - 1)
    with pytest.raises(MalformedBlobError, match="cut off"):
        load(saved)


def test_a_sum_whose_list_of_sites_is_none_is_refused(saved):
    saved.write_bytes(seal(vector(1).tobytes() + b"[]", KEY, purpose="sum", context=b"round 3"))
    with pytest.raises(MalformedDocumentError):
        load(saved)
