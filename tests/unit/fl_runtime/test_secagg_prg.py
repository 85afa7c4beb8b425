"""Masks: keystreams added modulo the ring."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fl_runtime.secure_aggregation.prg import BLOCK_BYTES, Keystream, Mask, add_masks, new_scratch

SEED = bytes(range(32))
KEYSTREAM = bytes.fromhex(  # openssl enc -aes-256-ctr -K 00010203..1f -iv 0, of 48 zero bytes
    "f29000b62a499fd0a9f39a6add2e7780f05d76ae4ab99fe5a6f69b3148c2363d0ebcb5deb52c83bd08a8a935182c9199"
)
SHA256_OF_300000 = "cb81cc346f6ab745970796dd292b5bf0bfcdc295592207654142fd8dc7d8e8dd"  # the same, of 300,000 zero bytes


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_keystream_is_the_one_written_down_in_little_endian_words(dtype):
    vector = np.zeros(48 // np.dtype(dtype).itemsize, dtype)
    add_masks(vector, [Mask(SEED, 1)])
    assert vector.tobytes() == KEYSTREAM
    if dtype == "<u4":
        assert vector[0] == 0xB60090F2


def test_keystream_goes_on_across_blocks():
    assert BLOCK_BYTES < 300_000
    vector = np.zeros(75_000, "<u4")
    add_masks(vector, [Mask(SEED, 1)])
    assert hashlib.sha256(vector.tobytes()).hexdigest() == SHA256_OF_300000


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("length", [0, 1, 3, 5, BLOCK_BYTES // 8 + 1, 3 * BLOCK_BYTES // 4 + 7])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_the_result(dtype, length, threads):
    masks = [Mask(hashlib.sha256(bytes([i])).digest(), 1 if i % 2 else -1) for i in range(3)]
    one, many = np.full(length, 5, dtype), np.full(length, 5, dtype)
    add_masks(one, masks)
    add_masks(many, masks, threads=threads)
    assert np.array_equal(one, many)


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_mask_and_its_inverse_leave_the_vector_as_it_was(dtype):
    vector = np.arange(1000, dtype=dtype)
    masks = [Mask(SEED, 1), Mask(bytes(32), -1)]
    add_masks(vector, masks)
    assert not np.array_equal(vector, np.arange(1000, dtype=dtype))
    add_masks(vector, [mask.inverse() for mask in masks])
    assert np.array_equal(vector, np.arange(1000, dtype=dtype))


def test_every_bit_of_the_seed_changes_the_mask():
    """A seed folded to 32 bits, as elsewhere, would give a colluder a mask to guess."""
    firsts = set()
    for bit in range(256):
        seed = (int.from_bytes(SEED, "big") ^ 1 << bit).to_bytes(32, "big")
        firsts.add(bytes(Keystream(seed, dtype=np.dtype("<u4")).read_into(new_scratch(), 4)))
    assert len(firsts | {KEYSTREAM[:16]}) == 257


@pytest.mark.parametrize("size", [4, 16, 31, 33])
def test_seed_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match="key"):
        add_masks(np.zeros(4, "<u4"), [Mask(bytes(size), 1)])


def test_seed_is_not_shown_by_its_repr():
    assert "seed" not in repr(Mask(SEED, 1))
