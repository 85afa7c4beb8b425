"""Between floats and ring words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_runtime.secure_aggregation import Parameters, Segment, Sum, Update, accumulate, decode, encode, new_vector
from fl_runtime.secure_aggregation.encoding import BLOCK, quantise
from fl_runtime.secure_aggregation.errors import ImplausibleSumError, MalformedUpdateError
from tests.fakes.secagg_round import SeededRandomness, names


def parameters(length=4, *, bits=32, sites=4, clip=4_000_000, weight="samples", cap=1000) -> Parameters:
    return Parameters.for_sites(
        sites,
        segments=[Segment(name="model", length=length, clip_micros=clip, weight=weight)],
        weight_cap=cap,
        ring_bits=bits,
    )


def update(values, samples=1000) -> Update:
    return Update(segments={"model": np.asarray(values, dtype=np.float32)}, sample_count=samples)


def encoded(values, agreed, samples=1000, seed="r"):
    return encode(update(values, samples), parameters=agreed, randomness=SeededRandomness(seed))


def total(vectors, agreed) -> Sum:
    accumulator = new_vector(agreed)
    for vector in vectors:
        accumulate(accumulator, vector)
    survivors = names(len(vectors))
    return Sum(vector=accumulator, survivors=survivors, clipped_counts=dict.fromkeys(survivors, 0), parameters=agreed)


def test_encoding_is_the_one_written_down():
    # n_max = 4, 32 bits: Q = floor((2^31 - 1) / 4) = 536870911; C = 4; half the samples: W = 500 * Q // 1000 = 268435455.
    # x * W / C: 4 -> 268435455; -4 -> -268435455; 0 -> 0; 100 is clipped to 4. All whole, so noise rounds none of them.
    vector = encoded([4.0, -4.0, 0.0, 100.0], parameters(), samples=500).vector
    assert vector.tolist() == [268435455, 2**32 - 268435455, 0, 268435455, 268435455]


def test_weight_one_is_the_full_scale_whatever_the_samples():
    for samples in (0, 1, 5000):
        assert encoded([4.0], parameters(1, weight="one"), samples).vector.tolist() == [536870911, 536870911]


def test_samples_beyond_the_cap_weigh_as_much_as_the_cap():
    assert np.array_equal(encoded([1.0] * 4, parameters(), 1000).vector, encoded([1.0] * 4, parameters(), 10**9).vector)


def test_segments_of_weight_one_follow_those_weighted_by_samples():
    agreed = Parameters.for_sites(
        4,
        segments=[
            Segment(name="controls", length=1, clip_micros=1_000_000, weight="one"),
            Segment(name="model", length=2, clip_micros=1_000_000, weight="samples"),
        ],
        weight_cap=2,
    )
    values = {"controls": np.ones(1, np.float32), "model": np.array([1, -1], np.float32)}
    vector = encode(Update(segments=values, sample_count=1), parameters=agreed, randomness=SeededRandomness("r")).vector
    half, full = 268435455, 536870911
    assert vector.tolist() == [half, 2**32 - half, half, full, full]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("sites", [4, 5, 7, 200])
@pytest.mark.parametrize("sign", [1, -1])
def test_sum_of_the_largest_values_of_every_site_does_not_wrap(bits, sites, sign):
    agreed = parameters(3, bits=bits, sites=sites, cap=1)
    largest = sign * np.finfo(np.float32).max
    means = decode(total([encoded([largest] * 3, agreed, seed=str(i)).vector for i in range(sites)], agreed))
    assert means.segments["model"].tolist() == [sign * 4.0] * 3


@pytest.mark.parametrize("weight", [1, 536870911, (2**63 - 1) // 4, (2**63 - 1) // 5])
def test_rounding_up_never_exceeds_the_weight_by_one(weight):
    # In float64, 536870911 + (1 - 2^-32) is 536870912: four of those are 2^31, which reads as a negative number.
    block, noise = np.array([1.0, -1.0], np.float32), np.full(2, 2**32 - 1, np.uint32)
    whole = quantise(block, noise, factor=float(weight), weight=weight)
    assert max(abs(int(value)) for value in whole) <= weight


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 4])
def test_value_that_is_not_finite_is_refused_naming_its_segment(bad, where):
    values = np.zeros(2 * BLOCK + 5, np.float32)
    values[where] = bad
    with pytest.raises(MalformedUpdateError, match="segment model has NaN or infinite values"):
        encoded(values, parameters(len(values)))


@pytest.mark.parametrize(
    "change",
    [
        {"segments": {}},
        {"segments": {"model": np.zeros(4, np.float32), "extra": np.zeros(1, np.float32)}},
        {"segments": {"model": np.zeros(5, np.float32)}},
        {"segments": {"model": np.zeros((2, 2), np.float32)}},
        {"segments": {"model": np.zeros(4, np.float64)}},
        {"sample_count": -1},
    ],
)
def test_update_of_another_shape_than_agreed_is_refused(change):
    fields = {"segments": {"model": np.zeros(4, np.float32)}, "sample_count": 1}
    with pytest.raises(MalformedUpdateError):
        encode(Update(**{**fields, **change}), parameters=parameters(), randomness=SeededRandomness("r"))


def test_buffer_of_another_length_or_ring_is_refused():
    for out in (np.zeros(4, "<u4"), np.zeros(5, "<u8"), np.zeros(10, "<u4")[::2]):
        with pytest.raises(MalformedUpdateError, match="found a vector of shape"):
            encode(update([0] * 4), parameters=parameters(), randomness=SeededRandomness("r"), out=out)


def test_buffer_is_used_again_and_holds_nothing_of_the_last_update():
    agreed, buffer = parameters(), new_vector(parameters())
    buffer[:] = 77
    result = encode(update([1.0, 2.0, 3.0, 4.0]), parameters=agreed, randomness=SeededRandomness("r"), out=buffer)
    assert result.vector is buffer
    assert np.array_equal(buffer, encoded([1.0, 2.0, 3.0, 4.0], agreed).vector)


def test_clipped_values_are_counted_across_blocks():
    values = np.zeros(BLOCK + 10, np.float32)
    values[[0, 5, BLOCK, BLOCK + 9]] = [4.5, -9.0, 4.0, 5.0]  # the third lies on the bound
    result = encoded(values, parameters(len(values)))
    assert dict(result.clipped) == {"model": 3}
    assert result.clipped_count == 3


def test_rounding_is_right_on_average():
    # One sample of a cap of full scale: W = 1, so each coordinate is 0 or 1, and only noise carries the value 0.25.
    length, agreed = 200_000, parameters(200_000, clip=1_000_000, cap=536870911)
    words = encoded(np.full(length, 0.25, np.float32), agreed, samples=1).vector[:-1]
    assert set(np.unique(words)) == {0, 1}
    assert abs(words.mean() - 0.25) < 0.006  # six standard deviations


def test_rounding_seed_decides_the_words():
    values, agreed = np.linspace(-1, 1, 50, dtype=np.float32), parameters(50)
    assert np.array_equal(encoded(values, agreed, seed="a").vector, encoded(values, agreed, seed="a").vector)
    assert not np.array_equal(encoded(values, agreed, seed="a").vector, encoded(values, agreed, seed="b").vector)


@given(
    values=st.lists(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    samples=st.lists(st.integers(1, 3000), min_size=4, max_size=4),
    bits=st.sampled_from([32, 64]),
)
@settings(max_examples=40, deadline=None)
def test_decoded_sum_is_the_weighted_mean(values, samples, bits):
    agreed = parameters(3, bits=bits)
    vectors = [encoded(v, agreed, s, seed=str(i)).vector for i, (v, s) in enumerate(zip(values, samples, strict=False))]
    means = decode(total(vectors, agreed))
    weights = [min(count, 1000) for count in samples[: len(values)]]
    expected = np.average(np.array(values), axis=0, weights=weights)
    assert np.allclose(means.segments["model"], expected, atol=4e-5)
    assert means.segments["model"].dtype == np.float32
    assert means.sample_count == pytest.approx(sum(weights), rel=1e-5)


def test_sum_without_samples_has_no_mean():
    agreed = parameters()
    with pytest.raises(ImplausibleSumError, match="no samples"):
        decode(total([encoded([1.0] * 4, agreed, samples=0).vector] * 4, agreed))


@pytest.mark.parametrize(("word", "flip"), [(0, 0x4000_0000), (3, 0x8000_0000), (4, 0x7000_0000), (4, 0x8000_0000)])
def test_sum_in_which_masks_did_not_cancel_is_refused(word, flip):
    agreed = parameters()
    result = total([encoded([1.0] * 4, agreed, samples=10).vector] * 3, agreed)
    result.vector[word] ^= flip
    with pytest.raises(ImplausibleSumError):
        decode(result)


@pytest.mark.parametrize("difference", [1, -1])
def test_weight_of_one_that_is_not_the_number_of_survivors_is_refused(difference):
    agreed = parameters(1, weight="one")
    result = total([encoded([0.0], agreed).vector] * 3, agreed)
    result.vector[-1] = int(result.vector[-1]) + difference
    with pytest.raises(ImplausibleSumError, match="'one'"):
        decode(result)
    assert decode(result, slack=1).segments["model"].tolist() == [0.0]


def test_addition_of_vectors_of_different_length_or_ring_is_refused():
    for vector in (np.zeros(3, "<u4"), np.zeros(4, "<u8")):
        with pytest.raises(MalformedUpdateError):
            accumulate(np.zeros(4, "<u4"), vector)


def test_update_in_the_clear_is_not_shown_by_its_repr():
    assert "vector" not in repr(encoded([1.0] * 4, parameters()))


def test_sum_of_another_length_has_no_mean():
    short = total([encoded([1.0] * 4, parameters()).vector] * 3, parameters())
    with pytest.raises(MalformedUpdateError, match="expected"):
        decode(Sum(vector=short.vector, survivors=short.survivors, clipped_counts={}, parameters=parameters(5)))
