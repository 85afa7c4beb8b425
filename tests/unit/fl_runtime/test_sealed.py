from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from fl_runtime.transport.errors import ChunkError, MalformedBlobError, SealedBlobError
from fl_runtime.transport.sealed import MAX_CHUNK_BYTES, ChunkCipher, Header, SealingKey, seal, unseal
from fl_runtime.transport.sealed_file import SealedReader, SealedWriter

KEY = SealingKey(id="job-7/1", secret=bytes(range(32)))
CHUNK = 64  # small, so that a short plaintext has several


def sealed(plaintext: bytes = bytes(200), **changes) -> bytearray:
    return seal(plaintext, **{"key": KEY, "purpose": "model", "chunk_bytes": CHUNK} | changes)


def opened(blob: bytes | bytearray, **changes) -> bytes:
    return bytes(unseal(blob, **{"key": KEY, "purpose": "model"} | changes))


def reader(blob: bytes | bytearray, **changes) -> SealedReader:
    return SealedReader(io.BytesIO(blob), **{"key": KEY, "purpose": "model"} | changes)


def written(plaintext: bytes, cuts: list[int], random: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    file = io.BytesIO()
    writer = SealedWriter(file, KEY, length=len(plaintext), purpose="model", chunk_bytes=CHUNK, random=random)
    for start, stop in zip([0, *cuts], [*cuts, len(plaintext)], strict=True):
        writer.write(plaintext[start:stop])
    return file.getvalue(), writer.finish()


@given(st.binary(max_size=300), st.binary(max_size=20), st.integers(1, 100))
def test_what_was_sealed_opens_as_it_was(plaintext, context, chunk_bytes):
    blob = sealed(plaintext, context=context, chunk_bytes=chunk_bytes)
    assert opened(blob, context=context) == plaintext


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK])
def test_every_size_around_a_chunk_opens_as_it_was(size):
    plaintext = bytes(range(256))[:size]
    blob = sealed(plaintext)
    assert len(blob) == Header.parse(blob).sealed_size
    assert opened(blob) == plaintext


def test_arrays_are_sealed_as_their_bytes():
    array = np.arange(100, dtype=np.uint64)
    assert opened(seal(array.data, KEY, purpose="model")) == array.tobytes()


def test_the_format_is_the_one_that_is_written_down():
    blob = sealed(bytes(70), context=b"c", random=lambda size: b"\x5a" * size)
    header = b"CLSEALED\x01" + b"\0\0\0\x07job-7/1" + b"\0\0\0\x40" + b"\x5a" * 32 + b"\0\0\0\0\0\0\0\x46"
    info = b"cloister-v1 sealed-blob\0" + b"\0\0\0\x05model" + b"\0\0\0\x01c"
    derived = HKDF(SHA256(), length=39, salt=b"\x5a" * 32, info=info).derive(KEY.secret)
    first, last = (derived[32:] + nonce for nonce in (b"\0\0\0\0\0", b"\0\0\0\x01\x01"))
    aead = AESGCM(derived[:32])
    assert blob == header + aead.encrypt(first, bytes(64), header) + aead.encrypt(last, bytes(6), header)


def test_the_same_plaintext_is_never_sealed_to_the_same_bytes():
    assert sealed()[-216:] != sealed()[-216:]


@given(st.data())
def test_a_blob_with_any_bit_changed_does_not_open(data):
    blob = sealed(b"x" * 100)
    position = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[position // 8] ^= 1 << position % 8
    with pytest.raises((MalformedBlobError, SealedBlobError)):
        opened(blob)


@given(st.binary(max_size=120))
def test_bytes_that_are_not_a_blob_are_malformed(raw):
    with pytest.raises(MalformedBlobError):
        opened(raw)


@given(st.binary(max_size=80))
def test_a_header_of_any_bytes_is_parsed_or_malformed(rest):
    try:
        header = Header.parse(b"CLSEALED\x01" + rest)
    except MalformedBlobError:
        return
    assert header.encode() == (b"CLSEALED\x01" + rest)[: header.size]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [(0, b"X", "magic"), (8, b"\x02", "version 2"), (9, b"\xff" * 4, "cut off"), (13, b"\xff", "not UTF-8")],
)
def test_a_header_that_is_not_read_says_why(place, value, words):
    blob = sealed()
    blob[place : place + len(value)] = value
    with pytest.raises(MalformedBlobError, match=words):
        opened(blob)


@pytest.mark.parametrize("chunk_bytes", [0, MAX_CHUNK_BYTES + 1])
def test_chunks_of_no_bytes_or_of_too_many_are_refused(chunk_bytes):
    with pytest.raises(MalformedBlobError, match="in chunks of"):
        Header(key_id="", chunk_bytes=chunk_bytes, salt=bytes(32), length=1)


def test_more_chunks_than_the_nonce_can_count_are_refused():
    assert Header(key_id="", chunk_bytes=1, salt=bytes(32), length=1 << 32).chunks == 1 << 32
    with pytest.raises(MalformedBlobError, match="in chunks of 1"):
        Header(key_id="", chunk_bytes=1, salt=bytes(32), length=(1 << 32) + 1)


def test_a_blob_under_another_key_names_both_keys():
    with pytest.raises(SealedBlobError, match="the key 'job-7/1', found the key 'job-8/1'"):
        opened(sealed(), key=SealingKey(id="job-8/1", secret=KEY.secret))


def test_a_key_of_the_same_name_and_other_bytes_does_not_open():
    with pytest.raises(SealedBlobError):
        opened(sealed(), key=SealingKey(id=KEY.id, secret=bytes(32)))


@pytest.mark.parametrize("changes", [{"purpose": "spool"}, {"context": b"other job"}])
def test_a_blob_for_another_purpose_or_context_does_not_open(changes):
    with pytest.raises(SealedBlobError, match="chunk 0 of 4 does not open"):
        opened(sealed(), **changes)


def test_purpose_and_context_cannot_be_shifted_into_each_other():
    with pytest.raises(SealedBlobError):
        opened(sealed(purpose="model", context=b"a"), purpose="modela", context=b"")


@pytest.mark.parametrize("size", [-1, 1, -80, 80])
def test_a_blob_that_is_cut_off_or_extended_is_malformed(size):
    blob = sealed()
    changed = blob[:size] if size < 0 else blob + bytes(size)
    for read in (opened, reader):
        with pytest.raises(MalformedBlobError, match="cut off or extended"):
            read(changed)


def test_a_blob_cut_at_a_chunk_with_its_length_adjusted_does_not_open():
    blob = sealed(bytes(CHUNK * 3))
    header = Header.parse(blob)
    shorter = Header(key_id=KEY.id, chunk_bytes=CHUNK, salt=header.salt, length=CHUNK * 2)
    with pytest.raises(SealedBlobError):
        opened(shorter.encode() + blob[header.size :][: shorter.sealed_size - shorter.size])


def test_chunks_that_change_places_do_not_open():
    blob = sealed()
    header = Header.parse(blob)
    first, second = (slice(header.size + i * 80, header.size + (i + 1) * 80) for i in (0, 1))
    blob[first], blob[second] = blob[second], blob[first]
    with pytest.raises(SealedBlobError, match="chunk 0"):
        opened(blob)


def test_a_chunk_of_another_blob_under_the_same_key_does_not_open():
    blob, other = sealed(), sealed()
    size = Header.parse(blob).size
    blob[size : size + 80] = other[size : size + 80]
    with pytest.raises(SealedBlobError, match="chunk 0"):
        opened(blob)


def test_the_last_chunk_does_not_open_as_one_in_the_middle_even_under_the_same_header():
    header = Header(key_id=KEY.id, chunk_bytes=CHUNK, salt=bytes(32), length=CHUNK)
    longer = Header(key_id=KEY.id, chunk_bytes=CHUNK, salt=bytes(32), length=CHUNK * 2)
    assert cipher(header)._nonce(0) != cipher(longer)._nonce(0)


def cipher(header: Header) -> ChunkCipher:
    return ChunkCipher(KEY, header, purpose="model", context=b"")


def test_a_chunk_that_does_not_open_leaves_zeros_and_not_its_plaintext():
    header = Header(key_id=KEY.id, chunk_bytes=CHUNK, salt=bytes(32), length=CHUNK)
    chunk, plain = bytearray(CHUNK + 16), bytearray(b"?" * CHUNK)
    cipher(header).seal_into(0, b"secret!!" * 8, memoryview(chunk))
    chunk[-1] ^= 1
    with pytest.raises(SealedBlobError):
        cipher(header).open_into(0, chunk, memoryview(plain))
    assert plain == bytes(CHUNK)


def test_a_chunk_of_the_wrong_size_is_neither_sealed_nor_opened():
    header = Header(key_id=KEY.id, chunk_bytes=CHUNK, salt=bytes(32), length=CHUNK)
    with pytest.raises(ChunkError, match="has 63 bytes, expected 64"):
        cipher(header).seal_into(0, bytes(63), memoryview(bytearray(79)))
    with pytest.raises(ChunkError, match="has 79 bytes, expected 80"):
        cipher(header).open_into(0, bytes(79), memoryview(bytearray(63)))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_a_blob_written_in_any_pieces_is_the_one_sealed_at_once(plaintext, cuts):
    cuts = sorted(min(cut, len(plaintext)) for cut in cuts)
    blob, name = written(plaintext, cuts, random=bytes)
    assert blob == sealed(plaintext, random=bytes)
    assert name == hashlib.sha256(blob).digest()


def test_a_writer_refuses_more_than_was_announced():
    writer = SealedWriter(io.BytesIO(), KEY, length=10, purpose="model")
    with pytest.raises(ChunkError, match="more bytes than the 10"):
        writer.write(bytes(11))


def test_a_writer_refuses_to_finish_with_less_than_was_announced():
    writer = SealedWriter(io.BytesIO(), KEY, length=100, purpose="model", chunk_bytes=CHUNK)
    writer.write(bytes(99))
    with pytest.raises(ChunkError, match="99 bytes were written, expected 100"):
        writer.finish()


class FailingFile(io.BytesIO):
    """Fails once, as a full disk does, when chunk 0 is written."""

    failed = False

    def write(self, part, /):
        if len(part) == CHUNK + 16 and not self.failed:
            self.failed = True
            raise OSError(28, "No space left on device")
        return super().write(part)


def test_a_chunk_whose_write_failed_is_never_sealed_again():
    file = FailingFile()
    writer = SealedWriter(file, KEY, length=CHUNK, purpose="model", chunk_bytes=CHUNK)
    with pytest.raises(OSError, match="No space"):
        writer.write(b"a" * CHUNK)
    with pytest.raises(ChunkError):
        writer.write(b"b" * CHUNK)


@given(st.integers(0, 200), st.integers(0, 200))
def test_any_part_of_a_blob_is_read_alone(start, size):
    plaintext = bytes(range(200))
    size = min(size, 200 - start)
    into = bytearray(size)
    reader(sealed(plaintext)).read_into(into, offset=start)
    assert into == plaintext[start : start + size]


def test_each_chunk_of_a_blob_is_opened_alone():
    chunks = reader(sealed(bytes(range(200))))
    assert bytes(chunks.open_chunk(3)) == bytes(range(192, 200))
    assert bytes(chunks.open_chunk(1)) == bytes(range(64, 128))
    for index in (-1, 4):
        with pytest.raises(ChunkError, match="expected 0 to 3"):
            chunks.open_chunk(index)


@pytest.mark.parametrize(("offset", "size"), [(0, 201), (200, 1), (-1, 1)])
def test_reading_past_the_end_is_refused(offset, size):
    with pytest.raises(ChunkError, match="asked for"):
        reader(sealed(bytes(200))).read_into(bytearray(size), offset=offset)


def test_a_reader_refuses_a_changed_empty_blob_at_once():
    blob = sealed(b"")
    blob[-1] ^= 1
    with pytest.raises(SealedBlobError):
        reader(blob)


def test_a_file_that_shrinks_while_it_is_read_is_noticed():
    file = io.BytesIO(sealed(bytes(200)))
    chunks = SealedReader(file, KEY, purpose="model")
    file.truncate(100)
    with pytest.raises(MalformedBlobError, match="expected 80"):
        chunks.open_chunk(1)


def test_a_key_is_32_bytes_has_a_short_name_and_is_not_shown():
    with pytest.raises(ValueError, match="has 31 bytes, expected 32"):
        SealingKey(id="k", secret=bytes(31))
    with pytest.raises(ValueError, match="more than 255"):
        SealingKey(id="k" * 256, secret=bytes(32))
    assert "secret" not in repr(KEY)
