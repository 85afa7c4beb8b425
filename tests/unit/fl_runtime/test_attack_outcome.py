"""What counts as a refusal: the expected error, with the expected words, and nothing else."""

import asyncio

import pytest

from attestation.errors import ReplayError
from fl_runtime.demo.attacks.outcome import LONGEST_REASON, attempt, shortened, together
from fl_runtime.demo.ground import AttackOutcome

CODE = ReplayError.code


async def ending_with(error):
    if error is not None:
        raise error


def judged(error, *, code=CODE, says="used before", told=None):
    return asyncio.run(attempt("replay", ending_with(error), code=code, says=says, seconds=1, told=told))


def outcome(reason, *, refused=True):
    return AttackOutcome(name="replay", refused=refused, reason=reason)


def test_expected_error_is_a_refusal_in_its_own_words():
    assert judged(ReplayError("it was used before")) == outcome("it was used before")


def test_reason_can_be_told_in_other_words():
    assert judged(ReplayError("it was used before"), told="seen already") == outcome("seen already")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "was accepted"),
        (ReplayError("it ended long ago"), "ended for another reason (attestation.replay): it ended long ago"),
        (FileNotFoundError("no kit"), "the attack could not be made: no kit"),
    ],
)
def test_anything_else_is_no_refusal_and_says_what_happened(error, reason):
    assert judged(error) == outcome(reason, refused=False)


def test_error_with_another_code_is_no_refusal():
    judgement = judged(ReplayError("it was used before"), code="attestation.appraisal")
    assert judgement == outcome("ended for another reason (attestation.replay): it was used before", refused=False)


def test_attempt_that_hangs_is_no_refusal():
    hanging = attempt("replay", asyncio.Event().wait(), code=CODE, says="", seconds=0.01)
    assert asyncio.run(hanging) == outcome("no answer within 0.01 s", refused=False)


def test_attempts_are_refused_together_only_if_each_is():
    assert together("replay", [outcome("a"), outcome("b"), outcome("a")]) == outcome("a; b")
    assert together("replay", [outcome("a"), outcome("accepted", refused=False)]) == outcome("accepted", refused=False)
    assert not together("replay", []).refused


def test_reason_fits_a_row_of_a_table():
    assert shortened("line one\nline two") == "line one line two"
    assert shortened(f"evidence {'0123456789abcdef' * 4}… is old") == "evidence 01234567… is old"
    assert len(shortened("word " * 100)) == LONGEST_REASON
    assert shortened("word " * 100).endswith("…")
