"""Secret sharing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_runtime.secure_aggregation.errors import MalformedMessageError
from fl_runtime.secure_aggregation.shamir import PRIME, combine, draw_secret, lagrange, split
from tests.fakes.secagg_round import SeededRandomness


def number(value: int) -> bytes:
    return value.to_bytes(32, "big")


def recovered(shares, holders):
    return combine({holder: shares[holder] for holder in holders}, lagrange(holders))


def test_shares_are_those_written_down():
    # f(x) = 1234 + 166 x + 94 x^2, the example of https://en.wikipedia.org/wiki/Shamir%27s_secret_sharing: the same small
    # numbers modulo this prime. The first coefficient drawn is that of x.
    drawn = iter([number(166), number(94)])
    shares = split(number(1234), holders=range(6), threshold=3, randomness=lambda _: next(drawn))
    assert [int.from_bytes(share, "big") for share in shares.values()] == [1494, 1942, 2578, 3402, 4414, 5614]


def test_lagrange_factors_are_those_written_down():
    # At x = 2, 4, 5: 4/(4-2) * 5/(5-2) = 10/3; 2/(2-4) * 5/(5-4) = -5; 2/(2-5) * 4/(4-5) = 8/3.
    third = pow(3, -1, PRIME)
    assert lagrange([1, 3, 4]) == {1: 10 * third % PRIME, 3: -5 % PRIME, 4: 8 * third % PRIME}


@pytest.mark.parametrize("secret", [0, 1, PRIME - 1, 2**255])
def test_every_set_of_threshold_holders_gives_the_secret_back(secret):
    shares = split(number(secret), holders=range(5), threshold=4, randomness=SeededRandomness("s"))
    for holders in itertools.combinations(range(5), 4):
        assert recovered(shares, holders) == number(secret)


def test_fewer_than_threshold_holders_do_not_give_the_secret():
    shares = split(number(42), holders=range(5), threshold=4, randomness=SeededRandomness("s"))
    assert all(recovered(shares, holders) != number(42) for holders in itertools.combinations(range(5), 3))


@given(secret=st.integers(0, PRIME - 1), holders=st.sets(st.integers(0, 199), min_size=3, max_size=9), data=st.data())
@settings(max_examples=25, deadline=None)
def test_secret_survives_sharing(secret, holders, data):
    threshold = data.draw(st.integers(2, len(holders)))
    shares = split(
        number(secret), holders=sorted(holders), threshold=threshold, randomness=SeededRandomness(str(secret))
    )
    chosen = data.draw(st.permutations(sorted(holders)))[:threshold]
    assert recovered(shares, chosen) == number(secret)


@pytest.mark.parametrize("threshold", [0, 1, 6])
def test_threshold_of_one_or_of_more_than_the_holders_is_refused(threshold):
    with pytest.raises(MalformedMessageError, match=f"threshold {threshold}"):
        split(number(1), holders=range(5), threshold=threshold, randomness=SeededRandomness("s"))


@pytest.mark.parametrize("secret", [number(PRIME), b"\xff" * 32, bytes(31), bytes(33)])
def test_secret_that_is_no_field_element_is_refused(secret):
    with pytest.raises(MalformedMessageError, match="no element of the field"):
        split(secret, holders=range(5), threshold=3, randomness=SeededRandomness("s"))


def test_share_that_is_no_field_element_is_refused():
    with pytest.raises(MalformedMessageError, match="no element of the field"):
        combine({0: b"\xff" * 32, 1: number(1)}, lagrange([0, 1]))


def test_share_too_few_or_given_twice_is_refused():
    with pytest.raises(MalformedMessageError, match="expected those of"):
        combine({0: number(1)}, lagrange([0, 1]))
    with pytest.raises(MalformedMessageError, match="given twice"):
        lagrange([0, 1, 0])


def test_secret_is_drawn_again_until_it_is_below_the_prime():
    drawn = iter([b"\xff" * 32, number(PRIME), number(PRIME - 1)])
    assert draw_secret(lambda _: next(drawn)) == number(PRIME - 1)
