"""How often one caller may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.service import limits
from attestation.service.limits import RateLimit, TooManyRequestsError


class Seconds:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


def takes(limit, key="caller"):
    try:
        limit.take(key)
    except TooManyRequestsError:
        return False
    return True


def test_burst_is_allowed_at_once_and_no_more(seconds):
    limit = RateLimit("calls", 3, 60, seconds)
    assert [takes(limit) for _ in range(5)] == [True, True, True, False, False]


def test_tokens_come_back_with_time_up_to_the_burst(seconds):
    limit = RateLimit("calls", 2, 60, seconds)
    assert [takes(limit) for _ in range(3)] == [True, True, False]
    seconds.now = 0.5
    assert not takes(limit)
    seconds.now = 1.0
    assert [takes(limit) for _ in range(2)] == [True, False]
    seconds.now = 1000.0
    assert [takes(limit) for _ in range(3)] == [True, True, False]


def test_each_caller_has_a_limit_of_its_own(seconds):
    limit = RateLimit("calls", 1, 60, seconds)
    assert [takes(limit, key) for key in ("a", "b", "a", "b")] == [True, True, False, False]


def test_refusal_says_when_to_come_again(seconds):
    limit = RateLimit("calls", 1, 6, seconds)
    limit.take("caller")
    with pytest.raises(TooManyRequestsError, match="calls: more than 6 a minute") as caught:
        limit.take("caller")
    assert (caught.value.hint, caught.value.retryable) == ("try again in 10.0 seconds", True)


def test_callers_whose_tokens_are_back_are_forgotten_and_the_others_are_not(seconds, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BUCKETS", 3)
    limit = RateLimit("calls", 1, 60, seconds)
    for key in ("a", "b"):
        limit.take(key)
    seconds.now = 0.5
    limit.take("c")
    seconds.now = 1.0
    limit.take("d")
    assert set(limit._buckets) == {"c", "d"}
    assert not takes(limit, "c")


@given(st.lists(st.floats(0, 30), max_size=30), st.integers(1, 4), st.integers(1, 30))
def test_nobody_gets_more_than_the_burst_and_what_time_has_brought(waits, burst, per_minute):
    clock = Seconds()
    limit = RateLimit("calls", burst, per_minute, clock)
    taken = 0
    for wait in waits:
        clock.now += wait
        taken += takes(limit)
        assert taken <= burst + clock.now * per_minute / 60 + 1e-6
