"""Whole rounds in memory: what comes out, who may be missing, what the site and the server refuse in between."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fl_runtime.secure_aggregation import Parameters, RoundMemory, ServerRound, decode, vector_digest
from fl_runtime.secure_aggregation.errors import (
    BelowThresholdError,
    ConsistencyError,
    MalformedUpdateError,
    OutOfOrderError,
    PeerRefusedError,
    RoundAbandonedError,
    ShareMismatchError,
)
from fl_runtime.secure_aggregation.messages import Masked, Shares, Signed, Step, Unmask
from fl_runtime.secure_aggregation.site import Stage
from policies.errors import MalformedDocumentError
from tests.fakes.secagg_round import (
    Federation,
    clipped_of,
    member,
    names,
    segments,
    signing_key,
    update_of,
)

A, B, C, D = names(4)


def resigned(raw: bytes, step: Step, body: bytes, sender: str | None = None) -> bytes:
    message = Signed.parse(raw)
    name = sender or message.sender
    return Signed.sign(body, step=step, context=message.context, sender=name, key=signing_key(name)).encode()


def at(step: Step, federation: Federation | None = None):
    """A round that everybody has taken part in up to, but not including, `step`."""
    this = (federation or Federation.of(4)).round()
    everyone = this.federation.cohort.names
    done = [
        lambda: this.advertise(everyone),
        lambda: this.share(everyone),
        lambda: this.upload(everyone),
        lambda: this.agree(everyone, everyone),
    ]
    for take in done[: list(Step).index(step)]:
        take()
    return this


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_unmasked_sum_equals_the_plain_sum_bit_for_bit(bits):
    agreed = Parameters.for_sites(4, segments=segments(70_000), weight_cap=1000, ring_bits=bits)
    this = Federation.of(4, parameters=agreed).round()
    total = this.run()
    assert np.array_equal(total.vector, this.plain_sum(total.survivors))
    assert total.survivors == names(4)
    assert total.clipped_counts == {name: clipped_of(name, agreed).clipped_count for name in names(4)}


def test_mean_of_a_round_is_the_weighted_mean_of_the_updates():
    this = Federation.of(5).round()
    means = decode(this.run(lost={Step.MASKED: [B]}))
    updates = [update_of(name, this.parameters) for name in names(5) if name != B]
    weights = [min(update.sample_count, 1000) for update in updates]
    model = np.average([np.clip(u.segments["model"], -4, 4) for u in updates], axis=0, weights=weights)
    controls = np.mean([np.clip(u.segments["controls"], -1, 1) for u in updates], axis=0)
    assert np.allclose(means.segments["model"], model, atol=1e-6)
    assert np.allclose(means.segments["controls"], controls, atol=1e-6)
    assert means.sample_count == pytest.approx(sum(weights), rel=1e-6)


def test_order_of_arrival_does_not_change_the_sum():
    forward, backward = Federation.of(5).round(), Federation.of(5).round()
    assert np.array_equal(forward.run().vector, backward.run(order=-1).vector)


def test_one_masked_vector_looks_nothing_like_its_plain_one():
    agreed = Parameters.for_sites(4, segments=segments(20_000), weight_cap=1000)
    this = Federation.of(4, parameters=agreed).round()
    this.run()
    for name in names(4):
        bits = np.unpackbits((this.masked[name] ^ this.plain[name]).view(np.uint8))
        assert abs(bits.mean() - 0.5) < 0.005


def quorum(count: int, missing: int) -> bool:
    return count - missing >= {4: 3, 5: 4}[count]


@pytest.mark.parametrize("count", [4, 5])
@pytest.mark.parametrize("step", list(Step))
def test_every_set_of_drop_outs_at_every_step_gives_the_plain_sum_or_is_refused(count, step):
    for size in range(count + 1):
        for gone in itertools.combinations(names(count), size):
            this = Federation.of(count).round()
            if not quorum(count, size):
                with pytest.raises(BelowThresholdError) as caught:
                    this.run(lost={step: gone})
                assert set(gone) <= set(caught.value.missing)
                continue
            total = this.run(lost={step: gone})
            uploaded = [name for name in names(count) if name not in gone or step in {Step.CONSISTENCY, Step.UNMASK}]
            assert total.survivors == tuple(uploaded)
            assert np.array_equal(total.vector, this.plain_sum(uploaded))


@pytest.mark.parametrize("first", list(Step))
def test_drop_outs_at_two_steps_give_the_plain_sum(first):
    for second in list(Step)[list(Step).index(first) :]:
        this = Federation.of(7).round()  # t = 5: two may be missing
        total = this.run(lost={first: [names(7)[2]], second: [names(7)[2], names(7)[5]]})
        assert np.array_equal(total.vector, this.plain_sum(total.survivors))


def test_site_whose_upload_was_lost_still_helps_to_unmask():
    this = at(Step.MASKED)
    this.sites[D].mask(clipped_of(D, this.parameters), this.server.mailbox(D))  # and its upload never arrives
    survivors = this.upload([A, B, C])
    agreement = this.agree([A, B, D], survivors)
    this.answer([A, B, D], agreement)
    assert np.array_equal(this.server.unmask(this.accumulator).vector, this.plain_sum([A, B, C]))


# --- the site --------------------------------------------------------------------------------------------------------


def test_site_takes_its_steps_once_and_in_order():
    this = at(Step.MASKED)
    site, update = this.sites[A], clipped_of(A, this.parameters)
    for early in (
        lambda: site.consistency([A, B, C]),
        lambda: site.unmask([]),
        site.advertise,
        lambda: site.share(this.adverts),
    ):
        with pytest.raises((OutOfOrderError, ConsistencyError)):
            early()
    site.mask(update, this.server.mailbox(A))
    assert site.stage is Stage.MASKED


def test_fresh_site_does_nothing_but_advertise():
    this = Federation.of(4).round()
    update = clipped_of(A, this.parameters)
    for step in (lambda site: site.share([]), lambda site: site.mask(update, {}), lambda site: site.unmask([])):
        with pytest.raises(OutOfOrderError):
            step(this.sites[A])


def test_keys_that_met_one_vector_never_meet_another():
    this = at(Step.CONSISTENCY)
    update = clipped_of(A, this.parameters)
    before = update.vector.copy()
    with pytest.raises(OutOfOrderError, match="MASKED, expected SHARED"):
        this.sites[A].mask(update, this.server.mailbox(A))
    assert np.array_equal(update.vector, before)


def test_vector_of_another_ring_is_refused_and_the_right_one_may_follow():
    this = at(Step.MASKED)
    wide = Parameters.for_sites(4, segments=segments(), weight_cap=1000, ring_bits=64)
    with pytest.raises(MalformedUpdateError):
        this.sites[A].mask(clipped_of(A, wide), this.server.mailbox(A))
    this.sites[A].mask(clipped_of(A, this.parameters), this.server.mailbox(A))


def test_vector_is_not_announced_before_it_is_masked():
    this = at(Step.MASKED)
    update = clipped_of(A, this.parameters)
    with pytest.raises(OutOfOrderError, match="no masked vector"):
        this.sites[A].announce(update, digest=bytes(32))  # a type checker refuses a ClippedUpdate here


def test_site_is_not_part_of_a_cohort_that_names_another_key_for_it():
    federation = Federation.of(4)
    federation.boots[A] = 1  # it has restarted, and the cohort does not know
    with pytest.raises(PeerRefusedError, match="another key for site-000"):
        federation.round()


@pytest.mark.parametrize("what", ["cohort", "parameters"])
def test_context_of_another_cohort_or_other_parameters_is_refused(what):
    federation = Federation.of(4)
    other = Federation.of(4)
    if what == "cohort":
        other.cohort = type(other.cohort).of([*other.cohort.members[:3], member("zulu")])
    else:
        other.parameters = Parameters.for_sites(4, segments=segments(), weight_cap=999)
    with pytest.raises(PeerRefusedError, match="another cohort or other parameters"):
        federation.site(A, other.context())


def test_site_signs_one_survivor_set_and_repeats_its_bytes():
    this = at(Step.CONSISTENCY)
    first = this.sites[A].consistency([A, B, C, D])
    assert this.sites[A].consistency([D, C, B, A]) == first
    with pytest.raises(ConsistencyError, match="two survivor sets"):
        this.sites[A].consistency([A, B, C])


def test_site_repeats_the_bytes_of_its_one_answer():
    this = at(Step.UNMASK)
    agreement = this.server.agreement()
    first = this.sites[A].unmask(agreement)
    assert this.sites[A].unmask(agreement) == first
    assert this.sites[A].unmask([]) == first
    with pytest.raises(ConsistencyError):
        this.sites[A].consistency([A, B, C])


def test_site_keeps_no_secrets_after_its_answer():
    this = at(Step.UNMASK)
    this.answer([A], this.server.agreement())
    assert this.sites[A]._secrets is None


# --- attempts --------------------------------------------------------------------------------------------------------


def test_further_attempt_with_new_keys_gives_the_sum():
    federation = Federation.of(4)
    first = federation.round()
    first.advertise(names(4))
    second = federation.round(attempt=2)
    total = second.run(lost={Step.MASKED: [D]})
    assert np.array_equal(total.vector, second.plain_sum([A, B, C]))
    assert not set(first.adverts) & set(second.adverts)


def test_site_that_answered_joins_no_further_attempt_but_the_next_round():
    federation = Federation.of(4)
    federation.round().run()
    with pytest.raises(RoundAbandonedError, match="answered an unmask in round 0") as caught:
        federation.round(attempt=2)
    assert "next round" in str(caught.value.hint)
    federation.round(round_number=1).run()


def test_attempt_is_joined_once_and_rounds_only_rise():
    federation = Federation.of(4)
    federation.round(round_number=1, attempt=2)
    for earlier in (
        {"round_number": 1, "attempt": 2},
        {"round_number": 1, "attempt": 1},
        {"round_number": 0, "attempt": 3},
    ):
        with pytest.raises(RoundAbandonedError, match="expected a later one"):
            federation.round(**earlier)


def test_site_that_joined_a_further_attempt_no_longer_answers_the_earlier_one():
    federation = Federation.of(4)
    this = at(Step.UNMASK, federation)
    federation.round(attempt=2)
    with pytest.raises(RoundAbandonedError, match="not this site's open attempt"):
        this.sites[A].unmask(this.server.agreement())


def test_restart_does_not_make_a_site_forget_that_it_answered():
    federation = Federation.of(4)
    federation.round().run()
    federation.restart(A)
    with pytest.raises(RoundAbandonedError):
        federation.round(attempt=2)


def test_memory_holds_one_entry_a_job_and_refuses_bytes_that_are_not_its_own():
    federation = Federation.of(4)
    for number in range(3):
        federation.round(round_number=number).run()
    memory = federation.memories[A]
    assert memory.encode() == b'{"jobs":[{"answered":true,"attempt":1,"job":"mortality","round":2}]}'
    with pytest.raises(MalformedDocumentError):
        RoundMemory.parse(b'{"jobs":[{}]}')
    memory.forget("mortality")
    memory.join(federation.context())


# --- the server ------------------------------------------------------------------------------------------------------


def test_same_bytes_again_change_nothing_and_other_bytes_are_refused():
    this = at(Step.SHARE)
    raw = this.sites[A].share(this.adverts)
    assert (this.server.receive_shares(raw), this.server.receive_shares(raw)) == (A, A)
    shares = Shares.parse(Signed.parse(raw).body, members=4)
    other = Shares(seed_commitment=bytes(32), sealed=shares.sealed).encode(members=4)
    with pytest.raises(PeerRefusedError, match="two different share messages"):
        this.server.receive_shares(resigned(raw, Step.SHARE, other))


def test_shares_for_other_sites_than_those_that_advertised_are_refused():
    this = at(Step.SHARE)
    raw = this.sites[A].share(this.adverts)
    shares = Shares.parse(Signed.parse(raw).body, members=4)
    fewer = Shares(seed_commitment=bytes(32), sealed={1: shares.sealed[1]}).encode(members=4)
    with pytest.raises(PeerRefusedError, match="other sites than those that advertised"):
        this.server.receive_shares(resigned(raw, Step.SHARE, fewer))


def test_second_upload_of_one_site_is_refused_even_with_the_same_bytes():
    this = at(Step.MASKED)
    masked = this.sites[A].mask(clipped_of(A, this.parameters), this.server.mailbox(A))
    digest = vector_digest(masked.vector)
    message = this.sites[A].announce(masked, digest=digest)
    this.server.receive_masked(message, digest=digest)
    with pytest.raises(PeerRefusedError, match="uploaded before"):
        this.server.receive_masked(message, digest=digest)


def test_upload_whose_bytes_differ_from_the_announced_ones_does_not_count():
    this = at(Step.MASKED)
    masked = this.sites[A].mask(clipped_of(A, this.parameters), this.server.mailbox(A))
    message = this.sites[A].announce(masked, digest=vector_digest(masked.vector))
    with pytest.raises(PeerRefusedError, match="another vector"):
        this.server.receive_masked(message, digest=bytes(32))
    shorter = resigned(message, Step.MASKED, Masked(digest=bytes(32), words=1, clipped=0).encode())
    with pytest.raises(PeerRefusedError, match="another vector"):
        this.server.receive_masked(shorter, digest=bytes(32))


def test_digest_of_a_vector_does_not_depend_on_how_it_was_cut():
    vector = np.arange(1000, dtype="<u4")
    raw = vector.tobytes()
    assert vector_digest(vector) == vector_digest(raw[:7], raw[7:]) == vector_digest(memoryview(raw))


def test_late_message_is_refused():
    this = at(Step.CONSISTENCY)
    for receive, raw in ((this.server.receive_advert, this.adverts[0]), (this.server.receive_shares, this.shares[A])):
        with pytest.raises(OutOfOrderError, match="the round is at the step consistency"):
            receive(raw)


def test_mailbox_opens_when_shares_are_closed_and_only_to_those_that_shared():
    this = at(Step.SHARE)
    with pytest.raises(OutOfOrderError, match="not yet closed"):
        this.server.mailbox(A)
    this.share([A, B, C])
    assert tuple(this.server.mailbox(A)) == (B, C)
    with pytest.raises(PeerRefusedError, match="did not share"):
        this.server.mailbox(D)


def test_signature_on_other_survivors_is_refused_by_the_server():
    this = at(Step.CONSISTENCY)
    with pytest.raises(PeerRefusedError, match="signed other survivors"):
        this.server.receive_consistency(this.sites[A].consistency([A, B, C]))


def test_answer_for_other_survivors_is_refused_by_the_server():
    this, other = at(Step.UNMASK), at(Step.CONSISTENCY)
    for name in (A, B, C):
        other.sites[name].consistency([A, B, C])
    answer = other.sites[A].unmask([other.sites[name].consistency([A, B, C]) for name in (A, B, C)])
    this.server.agreement()
    with pytest.raises(PeerRefusedError, match="answered for other survivors"):
        this.server.receive_unmask(answer)


def test_sum_needs_t_answers_and_is_unmasked_once():
    this = at(Step.UNMASK)
    agreement = this.server.agreement()
    this.answer([A, B], agreement)
    assert this.server.answers_missing == 1
    with pytest.raises(BelowThresholdError, match="2 sites answered") as caught:
        this.server.unmask(this.accumulator)
    assert caught.value.missing == (C, D)
    this.answer([C], agreement)
    this.server.unmask(this.accumulator)
    with pytest.raises(OutOfOrderError):
        this.server.unmask(this.accumulator)


def test_accumulator_of_another_length_is_refused():
    this = at(Step.UNMASK)
    this.answer(names(4), this.server.agreement())
    with pytest.raises(MalformedUpdateError):
        this.server.unmask(this.accumulator[:-1])


@pytest.mark.parametrize("owner", [0, 3])
def test_altered_share_is_noticed_before_anything_is_subtracted(owner):
    this = at(Step.MASKED)
    survivors = this.upload([A, B, C])  # so D's seed key is recovered, and A's self-mask
    for name in (A, B, C):
        this.server.receive_consistency(this.sites[name].consistency(survivors))
    this.answer([A, B], this.server.agreement())
    raw = this.sites[C].unmask(this.server.agreement())
    answer = Unmask.parse(Signed.parse(raw).body, members=4)
    altered = Unmask(agreed=answer.agreed, shares={**answer.shares, owner: bytes(32)})
    this.server.receive_unmask(resigned(raw, Step.UNMASK, altered.encode(members=4)))
    before = this.accumulator.copy()
    with pytest.raises(ShareMismatchError) as caught:
        this.server.unmask(this.accumulator)
    assert caught.value.sites == (names(4)[owner],)
    assert np.array_equal(this.accumulator, before)


def test_server_that_restarts_after_uploads_were_closed_finishes_the_round():
    this = at(Step.MASKED)
    survivors = this.upload([A, B, D])
    transcript = this.server.transcript
    this.server = ServerRound.resume(
        transcript, context=this.context, cohort=this.federation.cohort, parameters=this.parameters
    )
    this.answer([A, B, D], this.agree([A, B, D], survivors))
    assert np.array_equal(this.server.unmask(this.accumulator).vector, this.plain_sum([A, B, D]))


def test_transcript_of_another_attempt_is_refused():
    this = at(Step.CONSISTENCY)
    with pytest.raises(PeerRefusedError, match="attempt differ"):
        ServerRound.resume(
            this.server.transcript,
            context=this.federation.context(attempt=2),
            cohort=this.federation.cohort,
            parameters=this.parameters,
        )


def test_cohort_that_the_parameters_do_not_fit_opens_no_round():
    federation = Federation.of(4, organisations=["a", "a", "b", "b"])
    with pytest.raises(BelowThresholdError, match="2 organisations"):
        ServerRound(context=federation.context(), cohort=federation.cohort, parameters=federation.parameters)
    with pytest.raises(BelowThresholdError, match="2 organisations"):
        federation.site(A, federation.context())


def test_two_rounds_in_a_row_share_one_accumulator():
    federation = Federation.of(4)
    first = federation.round()
    first.run()
    second = federation.round(round_number=1)
    second.accumulator = first.accumulator
    second.accumulator[:] = 0
    total = second.run()
    assert np.array_equal(total.vector, second.plain_sum(names(4)))


def test_site_that_went_on_to_the_next_round_answers_no_more_in_the_last():
    federation = Federation.of(4)
    this = at(Step.UNMASK, federation)
    federation.round(round_number=1)
    with pytest.raises(RoundAbandonedError, match="not this site's open attempt"):
        this.sites[A].unmask(this.server.agreement())


def test_memory_lets_a_site_answer_an_attempt_once_and_only_one_it_joined():
    context, memory = Federation.of(4).context(), RoundMemory()
    with pytest.raises(RoundAbandonedError):
        memory.answer(context)
    memory.join(context)
    memory.answer(context)
    with pytest.raises(RoundAbandonedError):
        memory.answer(context)


@pytest.mark.parametrize("step", [Step.SHARE, Step.MASKED, Step.CONSISTENCY])
def test_server_does_not_close_a_step_below_the_threshold_and_keeps_it_open(step):
    this = at(step)
    take = {Step.SHARE: this.share, Step.MASKED: this.upload, Step.CONSISTENCY: lambda who: this.agree(who, names(4))}[
        step
    ]
    with pytest.raises(BelowThresholdError) as caught:
        take([A, B])
    assert caught.value.missing == (C, D)
    take([C])


@pytest.fixture
def idle():
    """A round of five whose last site advertised and did not share: the server has its key and nothing else of it."""
    this = Federation.of(5).round()
    this.advertise(names(5))
    this.share(names(4))
    return this


def test_site_that_did_not_share_has_no_say_at_the_server(idle):
    outsider, server = names(5)[4], idle.server
    update = clipped_of(outsider, idle.parameters)
    announced = Masked(digest=vector_digest(update.vector), words=len(update.vector), clipped=0).encode()
    template = idle.adverts[4]
    with pytest.raises(PeerRefusedError, match="did not share"):
        server.receive_masked(resigned(template, Step.MASKED, announced), digest=vector_digest(update.vector))
    survivors = idle.upload(names(4))
    raw = idle.sites[A].consistency(survivors)
    with pytest.raises(PeerRefusedError, match="signed other survivors"):
        server.receive_consistency(resigned(raw, Step.CONSISTENCY, Signed.parse(raw).body, outsider))
    agreement = idle.agree(names(4), survivors)
    answer = idle.sites[A].unmask(agreement)
    with pytest.raises(PeerRefusedError, match="answered for other survivors"):
        server.receive_unmask(resigned(answer, Step.UNMASK, Signed.parse(answer).body, outsider))


def test_signature_of_a_site_that_did_not_share_does_not_count(idle):
    survivors = idle.upload(names(4))
    signed = [idle.sites[name].consistency(survivors) for name in names(4)]
    outsider = resigned(signed[0], Step.CONSISTENCY, Signed.parse(signed[0]).body, names(5)[4])
    with pytest.raises(PeerRefusedError, match="shares no mask with this site"):
        idle.sites[A].unmask([*signed[:3], outsider])
