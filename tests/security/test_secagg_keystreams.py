"""One seed, one keystream, one vector: a spy sees every keystream that sites make, across rounds, attempts and restarts."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from fl_runtime.secure_aggregation import RoundMemory, encoding, prg, site
from fl_runtime.secure_aggregation.messages import Step
from tests.fakes.secagg_round import Federation, Round, clipped_of, names


@pytest.fixture
def keystreams(monkeypatch):
    """Return the list of (whose, seed, sign) of every keystream that a site makes; "rounding" for those that never travel."""
    seen: list[tuple[str, bytes, int]] = []
    real = site.add_masks

    def spy(vector, masks, *, threads):
        seen.extend((spy.whose, mask.seed, mask.sign) for mask in masks)
        real(vector, masks, threads=threads)

    class Rounding(prg.Keystream):
        def __init__(self, seed, **place):
            seen.append(("rounding", seed, 0))
            super().__init__(seed, **place)

    original = site.SiteRound.mask

    def mask(self, *args, **named):
        spy.whose = f"{self._site} {self._context.round} {self._context.attempt} {self._cohort.digest().hex()}"
        return original(self, *args, **named)

    monkeypatch.setattr(site, "add_masks", spy)
    monkeypatch.setattr(encoding, "Keystream", Rounding)
    monkeypatch.setattr(site.SiteRound, "mask", mask)
    return seen


def upload_only(this: Round) -> None:
    """Go as far as the uploads, then give the attempt up."""
    this.advertise(names(4))
    this.share(names(4))
    this.upload(names(4))


def test_no_keystream_is_used_for_two_vectors_across_rounds_attempts_and_restarts(keystreams):
    federation = Federation.of(4)
    upload_only(federation.round())
    federation.round(attempt=2).run(lost={Step.MASKED: [names(4)[3]]})
    federation.round(round_number=1).run()
    federation.restart(names(4)[1])
    federation.round(round_number=2).run()
    upload_only(federation.round(round_number=3))
    federation.restart(names(4)[2])
    federation.round(round_number=3, attempt=2).run()

    users: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for whose, seed, sign in keystreams:
        if whose != "rounding":
            users[seed].append((whose, sign))
    assert len(users) > 50
    for used in users.values():
        assert len({whose for whose, _ in used}) == len(used), "one vector got one keystream twice"
        if len(used) > 1:  # a pair's: the two ends of one attempt, with opposite signs, so that it cancels
            (one, sign), (other, opposite) = used
            assert one.split()[0] != other.split()[0]
            assert one.split()[1:] == other.split()[1:]
            assert sign == -opposite


def test_every_vector_has_a_mask_of_its_own_and_one_with_each_peer(keystreams):
    upload_only(Federation.of(4).round())
    masks = Counter(whose for whose, _, _ in keystreams if whose != "rounding")
    assert set(masks.values()) == {4}
    assert len(masks) == 4
    alone = [seed for seed, count in Counter(seed for _, seed, _ in keystreams).items() if count == 1]
    assert len(alone) == 4 + 4  # four self-masks, and four seeds of rounding


def test_signs_follow_the_order_of_the_cohort(keystreams):
    upload_only(Federation.of(4).round())
    signs = defaultdict(list)
    for whose, _, sign in keystreams:
        if whose != "rounding":
            signs[whose.split()[0]].append(sign)
    assert [sum(signs[name]) for name in names(4)] == [4, 2, 0, -2]


def test_same_randomness_in_another_context_still_gives_other_pair_seeds(keystreams):
    """A cloned machine draws the same numbers again; the attempt is part of every pair's seed."""
    first, second = Federation.of(4), Federation.of(4)
    for federation, attempt in ((first, 1), (second, 2)):
        context = federation.context(attempt=attempt)
        this = Round(federation, context)
        cloned = federation.context(attempt=1)
        for name, built in this.sites.items():
            federation.memories[name] = RoundMemory()
            built._secrets = federation.site(name, cloned)._secrets
        upload_only(this)
    pairs = Counter(seed for whose, seed, _ in keystreams if whose != "rounding")
    selves = {seed for seed, count in pairs.items() if count == 2 and _same_site(keystreams, seed)}
    assert len(selves) == 4  # self-masks repeat, as the numbers do: this is why a cloned snapshot is revoked
    assert len(pairs) == 4 + 6 + 6


def _same_site(keystreams, seed):
    return len({whose.split()[0] for whose, used, _ in keystreams if used == seed}) == 1


def test_buffer_in_the_clear_is_the_one_that_gets_masked(keystreams):
    this = Federation.of(4).round()
    this.advertise(names(4))
    this.share(names(4))
    update = clipped_of(names(4)[0], this.parameters)
    masked = this.sites[names(4)[0]].mask(update, this.server.mailbox(names(4)[0]))
    assert masked.vector is update.vector
