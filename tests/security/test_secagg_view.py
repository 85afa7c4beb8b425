"""What a server and its colluders can work out, from the messages that real sites send: linear algebra, not trust.

Every masked vector is one equation: a site's update plus masks. The masks are those that the sites really add (a spy in
place of the keystreams), and a mask is known where its seed can be worked out from shares that were really handed out. What
is left is solved: the combinations in which every unknown mask cancels are all that the view says about the updates.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from fl_runtime.secure_aggregation import RoundMemory, site
from fl_runtime.secure_aggregation.agreement import PrivateKey
from fl_runtime.secure_aggregation.errors import BelowThresholdError, ConsistencyError, PeerRefusedError
from fl_runtime.secure_aggregation.messages import Consistency, Signed, Step, Unmask
from fl_runtime.secure_aggregation.shamir import combine, lagrange
from tests.fakes.secagg_round import Federation, Round, clipped_of, names, signing_key


@dataclass
class Attack:
    """A round in which everybody has masked, and what a test may see of it."""

    this: Round
    masks: dict[int, dict[bytes, int]]  # by site: seed -> sign, as added
    held: dict[int, dict[int, bytes]]  # by site: the pairs of shares that it was dealt
    keys: dict[int, PrivateKey]
    selves: dict[int, bytes]

    @property
    def size(self) -> int:
        return len(self.masks)

    @property
    def threshold(self) -> int:
        return self.this.parameters.threshold


@pytest.fixture
def open_round(monkeypatch):
    """Return a function that opens a round of n sites, in which all have masked; the masks are seen as they are added."""
    seen: list[dict[bytes, int]] = []
    monkeypatch.setattr(
        site, "add_masks", lambda vector, masks, *, threads: seen.append({m.seed: m.sign for m in masks})
    )

    def start(count: int, organisations=None) -> Attack:
        seen.clear()
        this = Federation.of(count, organisations=organisations).round()
        this.advertise(names(count))
        this.share(names(count))
        for name in names(count):
            this.sites[name].mask(clipped_of(name, this.parameters), this.server.mailbox(name))
        secrets = {place: this.sites[name]._secrets for place, name in enumerate(names(count))}
        return Attack(
            this=this,
            masks=dict(enumerate(seen)),
            held={place: dict(secret.held) for place, secret in secrets.items()},
            keys={place: secret.seed for place, secret in secrets.items()},
            selves={place: secret.self_mask for place, secret in secrets.items()},
        )

    return start


def released(attack: Attack, survivors: set[int], answering: set[int], colluders: set[int]) -> dict[int, Unmask]:
    """Ask honest sites of `answering` to unmask `survivors`, with every signature that can be had; return what they answer."""
    this, everyone = attack.this, tuple(range(attack.size))
    agreed = Consistency(sharers=everyone, survivors=tuple(sorted(survivors)))
    body = agreed.encode(members=attack.size)
    agreement, asked = [], {}
    for place in answering - colluders:
        name = names(attack.size)[place]
        asked[place] = copy.copy(this.sites[name])  # each trial starts from the masked stage
        asked[place]._memory = RoundMemory.parse(this.federation.memories[name].encode())
        try:
            agreement.append(asked[place].consistency(names(attack.size)[member] for member in survivors))
        except BelowThresholdError:
            return {}
    for place in colluders:
        name = names(attack.size)[place]
        forged = Signed.sign(body, step=Step.CONSISTENCY, context=this.context, sender=name, key=signing_key(name))
        agreement.append(forged.encode())
    answers = {}
    for place, asked_site in asked.items():
        try:
            raw = asked_site.unmask(agreement)
        except BelowThresholdError:
            continue
        answers[place] = Unmask.parse(Signed.parse(raw).body, members=attack.size)
    return answers


def learnt(attack: Attack, answers: list[tuple[int, Unmask]], colluders: set[int]) -> np.ndarray:
    """Return the space of combinations of the honest sites' updates that the view gives: one row for each dimension."""
    known_seeds: set[bytes] = {seed for place in colluders for seed in attack.masks[place]}
    for owner in range(attack.size):
        self_shares = {place: attack.held[place][owner][:32] for place in colluders}
        key_shares = {place: attack.held[place][owner][32:] for place in colluders}
        for place, answer in answers:
            (self_shares if owner in answer.agreed.survivors else key_shares)[place] = answer.shares[owner]
        known_seeds |= _seeds_from(attack, owner, self_shares, key_shares)
    seeds = sorted({seed for masks in attack.masks.values() for seed in masks} - known_seeds)
    column = {seed: number for number, seed in enumerate(seeds)}
    masks = np.zeros((attack.size, len(seeds)))
    for place, added in attack.masks.items():
        for seed, sign in added.items():
            if seed in column:
                masks[place, column[seed]] = sign
    cancelling = _null_space(masks.T)  # each row: a combination of masked vectors without an unknown mask
    honest = [place for place in range(attack.size) if place not in colluders]
    return _row_basis(cancelling[:, honest])


def _seeds_from(attack: Attack, owner: int, self_shares: dict[int, bytes], key_shares: dict[int, bytes]) -> set[bytes]:
    seeds: set[bytes] = set()
    if len(self_shares) >= attack.threshold:
        seeds.add(_combined(self_shares, attack.threshold))
        assert seeds == {attack.selves[owner]}
    if len(key_shares) >= attack.threshold:
        key = PrivateKey.of(names(attack.size)[owner], _combined(key_shares, attack.threshold))
        assert key == attack.keys[owner]
        peers = (attack.keys[place].public for place in range(attack.size) if place != owner)
        seeds |= {key.pair_seed(peer, attack.this.context.pair_context()) for peer in peers}
    return seeds


def _combined(shares: dict[int, bytes], threshold: int) -> bytes:
    chosen = dict(sorted(shares.items())[:threshold])
    return combine(chosen, lagrange(list(chosen)))


def _null_space(matrix: np.ndarray) -> np.ndarray:
    _, singular, right = np.linalg.svd(matrix)
    return right[int((singular > 1e-9).sum()) :]


def _row_basis(matrix: np.ndarray) -> np.ndarray:
    _, singular, right = np.linalg.svd(matrix)
    return right[: int((singular > 1e-9).sum())]


def exposed(space: np.ndarray) -> bool:
    """Whether one site's update alone is among the combinations."""
    width = space.shape[1]
    return any(np.linalg.matrix_rank(np.vstack([space, unit]), tol=1e-9) == len(space) for unit in np.eye(width))


def subsets(items, sizes):
    return [set(chosen) for size in sizes for chosen in itertools.combinations(items, size)]


@pytest.mark.parametrize("count", [4, 5])
def test_passive_server_and_all_colluders_but_two_learn_the_sum_and_nothing_else(open_round, count):
    attack, everyone = open_round(count), set(range(count))
    for survivors in subsets(everyone, [count - 1, count]):
        for colluders in subsets(everyone, range(count)):
            answers = list(released(attack, survivors, everyone, colluders).items())
            space = learnt(attack, answers, colluders)
            honest = sorted(everyone - colluders)
            inside = [1.0 if place in survivors else 0.0 for place in honest]
            if any(
                inside
            ):  # the one thing learnt is the plain sum of the honest survivors, so nobody's where they are two
                assert len(space) == np.linalg.matrix_rank(np.vstack([space, inside]), tol=1e-9) == 1
                assert exposed(space) == (sum(inside) == 1)
            else:  # all survivors collude: they are t or more, and their shares give back whatever was dealt to them
                assert exposed(space)


def two_sets(attack: Attack, colluders: set[int]):
    """Yield what is learnt by a server that shows one part of the honest sites one survivor set, and the rest another."""
    everyone = set(range(attack.size))
    honest = everyone - colluders
    sets = subsets(everyone, range(attack.threshold, attack.size + 1))
    for first, second in itertools.combinations(sets, 2):
        for part in subsets(honest, range(len(honest) + 1)):
            answers = [*released(attack, first, part, colluders).items()]
            answers += released(attack, second, honest - part, colluders).items()
            yield learnt(attack, answers, colluders)


@pytest.mark.parametrize("count", [4, 5])
def test_active_server_with_fewer_than_2t_minus_n_colluders_learns_one_sum_at_most(open_round, count):
    """Fewer colluders see a part of what these see, so the largest sets below the bound cover all."""
    attack = open_round(count)
    for colluders in subsets(range(count), [2 * attack.threshold - count - 1]):
        for space in two_sets(attack, colluders):
            assert len(space) <= 1
            assert not exposed(space)


@pytest.mark.parametrize("count", [4, 5])
def test_active_server_with_2t_minus_n_colluders_does_expose_a_site(open_round, count):
    """The bound is the bound: a test that could not see a broken sum would show nothing."""
    attack = open_round(count)
    colluders = set(range(2 * attack.threshold - count))
    assert any(exposed(space) for space in two_sets(attack, colluders))


def test_one_organisation_with_2t_minus_n_sites_is_one_voice(open_round):
    """By sites alone the two could side with each half of the others; counted in organisations, no half is enough."""
    attack = open_round(4, organisations=["a", "a", "b", "c"])
    assert 2 * attack.threshold - attack.size == 2
    for space in two_sets(attack, {0, 1}):
        assert len(space) <= 1
        assert not exposed(space)


def test_one_organisations_two_sites_do_not_read_the_third(open_round):
    attack = open_round(4, organisations=["a", "a", "b", "c"])
    for survivors in ({0, 1, 2}, {0, 1, 3}):
        assert released(attack, survivors, {0, 1, 2, 3}, {0, 1}) == {}


def test_site_that_sees_another_survivor_set_signed_does_not_answer(open_round):
    attack = open_round(4)
    sites = [attack.this.sites[name] for name in names(4)]
    everyone, fewer = names(4), names(4)[:3]
    agreement = [sites[0].consistency(everyone), sites[1].consistency(everyone), sites[2].consistency(fewer)]
    with pytest.raises(ConsistencyError, match="was shown the survivors"):
        sites[0].unmask(agreement)


def test_one_signature_is_not_counted_twice(open_round):
    attack = open_round(4)
    sites = [attack.this.sites[name] for name in names(4)]
    agreement = [sites[0].consistency(names(4)), sites[1].consistency(names(4))]
    with pytest.raises(PeerRefusedError, match="signed twice"):
        sites[0].unmask([*agreement, agreement[1]])
    with pytest.raises(BelowThresholdError, match="2 sites of 2 organisations"):
        sites[0].unmask(agreement)
