"""Only what may succeed later is tried again, and its reason is told once."""

import pytest

from attestation import retry
from attestation.channel.status import UnreachableError
from attestation.errors import NotAttestedYetError, ReplayError
from attestation.retry import is_retryable, persistently


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(retry, "LONGEST_WAIT_SECONDS", 0.0)


class Failing:
    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(UnreachableError("x"), True), (NotAttestedYetError("x"), True), (ReplayError("x"), False), (OSError(), False)],
)
def test_typed_error_says_whether_the_call_may_succeed_later(error, expected):
    assert is_retryable(error) is expected


async def test_call_is_repeated_until_it_succeeds():
    call = Failing(*[UnreachableError("x")] * 3)
    assert await persistently(call, what="calling", say=lambda _: None) == "done"
    assert call.calls == 4


@pytest.mark.parametrize("error", [ReplayError("refused"), OSError("a fault of ours")])
async def test_error_for_good_is_raised_at_once(error):
    call = Failing(error)
    with pytest.raises(type(error)):
        await persistently(call, what="calling", say=lambda _: None)
    assert call.calls == 1


async def test_reason_is_told_once_and_not_for_a_first_stumble():
    said = []
    await persistently(Failing(*[UnreachableError("gone")] * 2), what="calling", say=said.append)
    assert said == []
    reasons = [UnreachableError("gone")] * 5 + [NotAttestedYetError("not yet")] * 2
    await persistently(Failing(*reasons), what="calling", say=said.append)
    assert said == [
        "calling does not succeed yet, trying again: gone",
        "calling does not succeed yet, trying again: not yet",
    ]
