"""A server, or a peer, that does not follow the protocol: what it tries, and which site says so."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fl_runtime.secure_aggregation import Cohort, Parameters, decode, vector_digest
from fl_runtime.secure_aggregation.errors import (
    BelowThresholdError,
    ConsistencyError,
    ImplausibleSumError,
    ParametersRefusedError,
    PeerRefusedError,
)
from fl_runtime.secure_aggregation.messages import Advertise, Signed, Step
from tests.fakes.secagg_round import Federation, clipped_of, member, names, segments, signing_key

A, B, C, D = names(4)
OTHER_MODEL = hashlib.sha256(b"another model").digest()


def adverts(federation: Federation, **told: object) -> dict[str, bytes]:
    """Every site's advert; `told` gives some of them another context."""
    honest = federation.context()
    sites = {name: federation.site(name, told.get(name, honest)) for name in federation.cohort.names}
    return {name: site.advertise() for name, site in sites.items()} | {"sites": sites}


def advert_by(name: str, context, *, c_pk: bytes, s_pk: bytes, key=None) -> bytes:
    body = Advertise(c_pk=c_pk, s_pk=s_pk).encode()
    return Signed.sign(body, step=Step.ADVERTISE, context=context, sender=name, key=key or signing_key(name)).encode()


def shown(found: dict[str, bytes], **replaced: bytes) -> list[bytes]:
    by_name = {name: raw for name, raw in found.items() if name != "sites"}
    return list((by_name | {key.replace("_", "-"): raw for key, raw in replaced.items()}).values())


def test_model_shown_differently_to_one_site_is_refused_naming_it():
    federation = Federation.of(4)
    found = adverts(federation, **{C: federation.context(model_hash=OTHER_MODEL)})
    for name in (A, B, D):
        with pytest.raises(PeerRefusedError, match="model_hash differ") as caught:
            found["sites"][name].share(shown(found))
        assert caught.value.sites == (C,)
    with pytest.raises(PeerRefusedError) as caught:  # and the one that was singled out sees it too
        found["sites"][C].share(shown(found))
    assert caught.value.sites == (A, B, D)


def test_masks_do_not_cancel_where_one_site_was_shown_another_model():
    """Even a site that skipped the comparison gives nothing away: the sum is noise (Pasquini et al. 2022)."""
    federation = Federation.of(4)
    this = federation.round()
    this.advertise(names(4))
    this.share(names(4))
    site = this.sites[D]
    site._pair_context = federation.context(model_hash=OTHER_MODEL).pair_context()
    site._open = lambda mailbox, secrets: {
        place: bytes(64) for place in range(3)
    }  # it does not even look at the shares
    this.upload(names(4))
    this.answer([A, B, C], this.agree([A, B, C], names(4)))
    site_sum = this.plain_sum(names(4))
    # D's self-mask commitment was made in the right context, so the server unmasks, and finds noise.
    total = this.server.unmask(this.accumulator)
    assert np.count_nonzero(total.vector == site_sum) == 0
    with pytest.raises(ImplausibleSumError):
        decode(total)


def test_parameters_with_a_lowered_threshold_are_refused_before_anything_is_sent():
    raw = Federation.of(4).parameters.encode()
    for lowered in (0, 1, 2):
        with pytest.raises(ParametersRefusedError, match=f"threshold is {lowered}"):
            Parameters.parse(raw.replace(b'"threshold":3', b'"threshold":%d' % lowered))


def test_parameters_shown_differently_to_one_site_are_refused_naming_it():
    federation, other = Federation.of(4), Federation.of(4)
    other.parameters = Parameters.for_sites(4, segments=segments(), weight_cap=999)
    found, theirs = adverts(federation), adverts(other)
    with pytest.raises(PeerRefusedError, match="params_digest differ") as caught:
        found["sites"][A].share(shown(found, **{B: theirs[B]}))
    assert caught.value.sites == (B,)


def test_cohort_shown_differently_to_one_site_is_refused_naming_it():
    federation, other = Federation.of(4), Federation.of(4)
    other.cohort = Cohort.of([*other.cohort.members[:3], member(D, organisation="a puppet")])
    found, theirs = adverts(federation), adverts(other)
    with pytest.raises(PeerRefusedError, match="cohort_digest differ") as caught:
        found["sites"][A].share(shown(found, **{B: theirs[B]}))
    assert caught.value.sites == (B,)


def test_swapped_keys_are_refused():
    """The server puts its own keys in place of a site's, signed by a key that it has."""
    federation = Federation.of(4)
    found = adverts(federation)
    forged = advert_by(B, federation.context(), c_pk=bytes([9]) * 32, s_pk=bytes([10]) * 32, key=signing_key("server"))
    with pytest.raises(PeerRefusedError, match="not signed by the key of its boot") as caught:
        found["sites"][A].share(shown(found, **{B: forged}))
    assert caught.value.sites == (B,)


def test_invented_site_is_refused():
    federation = Federation.of(4)
    found = adverts(federation)
    invented = advert_by("site-999", federation.context(), c_pk=bytes([9]) * 32, s_pk=bytes([10]) * 32)
    with pytest.raises(PeerRefusedError, match="'site-999' is not in this round's cohort") as caught:
        found["sites"][A].share([*shown(found), invented])
    assert caught.value.sites == ("site-999",)


def test_site_shown_twice_is_refused():
    found = adverts(Federation.of(4))
    with pytest.raises(PeerRefusedError, match="advertised twice"):
        found["sites"][A].share([*shown(found), found[B]])


@pytest.mark.parametrize("which", ["c_pk", "s_pk"])
def test_site_that_copies_anothers_key_is_refused_naming_both(which):
    federation = Federation.of(4)
    found = adverts(federation)
    victim = Advertise.parse(Signed.parse(found[B]).body)
    keys = {"c_pk": bytes([9]) * 32, "s_pk": bytes([10]) * 32, which: getattr(victim, which)}
    copied = advert_by(C, federation.context(), **keys)
    with pytest.raises(PeerRefusedError, match="advertise one key") as caught:
        found["sites"][A].share(shown(found, **{C: copied}))
    assert caught.value.sites == (B, C)


def test_site_whose_own_keys_are_left_out_or_changed_refuses():
    federation = Federation.of(5)
    found = adverts(federation)
    others = [raw for name, raw in found.items() if name not in {A, "sites"}]
    mine = advert_by(A, federation.context(), c_pk=bytes([9]) * 32, s_pk=bytes([10]) * 32)
    for wrong in (others, [*others, mine]):
        with pytest.raises(PeerRefusedError, match="own keys are not among"):
            found["sites"][A].share(wrong)


def test_too_few_adverts_are_refused_naming_who_is_missing():
    found = adverts(Federation.of(4))
    with pytest.raises(BelowThresholdError) as caught:
        found["sites"][A].share([found[A], found[B]])
    assert caught.value.missing == (C, D)


def test_advert_of_an_earlier_attempt_is_refused():
    federation = Federation.of(4)
    earlier = adverts(federation)
    later = {name: federation.site(name, federation.context(attempt=2)) for name in names(4)}
    fresh = {name: site.advertise() for name, site in later.items()}
    with pytest.raises(PeerRefusedError, match="attempt differ") as caught:
        later[A].share([fresh[A], fresh[C], fresh[D], earlier[B]])
    assert caught.value.sites == (B,)


def test_site_that_restarted_in_mid_round_has_dropped_out():
    federation = Federation.of(4)
    found = adverts(federation)
    federation.restart(B)
    restarted = federation.site(B, federation.context(attempt=2))
    with pytest.raises(PeerRefusedError, match="not signed by the key of its boot"):
        found["sites"][A].share(shown(found, **{B: restarted.advertise()}))


# --- shares ----------------------------------------------------------------------------------------------------------


def shared(count: int = 4):
    this = Federation.of(count).round()
    this.advertise(names(count))
    this.share(names(count))
    return this


def test_share_that_was_altered_or_sent_to_another_is_refused_naming_its_sender():
    this = shared()
    mailbox = dict(this.server.mailbox(A))
    for wrong in (mailbox[C][:-1] + b"\0", this.server.mailbox(D)[C], b""):
        update = clipped_of(A, this.parameters)
        before = update.vector.copy()
        with pytest.raises(PeerRefusedError, match="do not open") as caught:
            this.sites[A].mask(update, {**mailbox, C: wrong})
        assert caught.value.sites == (C,)
        assert np.array_equal(update.vector, before)
    this.sites[A].mask(clipped_of(A, this.parameters), mailbox)  # nothing was used up by the attempts


def test_peer_that_was_shown_other_keys_is_noticed_when_its_shares_do_not_open():
    """D is shown to some and hidden from others: their masks would not cancel, and their drop-outs would differ."""
    federation = Federation.of(5)
    found = adverts(federation)
    everything, without_last = shown(found), shown(found)[:-1]
    sites = found["sites"]
    dealt = {name: sites[name].share(without_last if name == B else everything) for name in names(4)}
    from fl_runtime.secure_aggregation.messages import Shares

    mailbox = {
        name: Shares.parse(Signed.parse(raw).body, members=5).sealed[0] for name, raw in dealt.items() if name != A
    }
    with pytest.raises(PeerRefusedError, match="set of keys that this site was not shown") as caught:
        sites[A].mask(clipped_of(A, federation.parameters), mailbox)
    assert caught.value.sites == (B,)


def test_mailbox_with_shares_of_a_site_that_did_not_advertise_is_refused():
    federation = Federation.of(5)
    this = federation.round()
    this.advertise(names(4))
    this.share(names(4))
    with pytest.raises(PeerRefusedError, match="did not advertise"):
        this.sites[A].mask(clipped_of(A, this.parameters), {**this.server.mailbox(A), names(5)[4]: bytes(80)})


def test_mailbox_of_too_few_peers_is_refused():
    this = shared()
    with pytest.raises(BelowThresholdError, match="2 of 4"):
        this.sites[A].mask(clipped_of(A, this.parameters), {B: this.server.mailbox(A)[B]})


# --- survivors -------------------------------------------------------------------------------------------------------


def masked(count: int = 4):
    this = shared(count)
    this.upload(names(count))
    return this


def test_survivors_too_few_to_hide_each_other_are_not_signed():
    this = masked()
    with pytest.raises(BelowThresholdError):
        this.sites[A].consistency([A, B])


def test_survivor_that_shares_no_mask_with_a_site_is_refused_by_it():
    this = Federation.of(5).round()
    this.advertise(names(5))
    this.share(names(4))
    this.upload(names(4))
    with pytest.raises(ConsistencyError, match="site-004 survived"):
        this.sites[A].consistency(names(5))


def test_invented_survivor_is_refused():
    with pytest.raises(PeerRefusedError, match="invented"):
        masked().sites[A].consistency([A, B, C, "invented"])


def test_survivors_that_too_few_have_signed_are_not_unmasked():
    this = masked()
    signed = [this.sites[name].consistency(names(4)) for name in names(4)]
    with pytest.raises(BelowThresholdError, match="2 sites"):
        this.sites[A].unmask(signed[:2])
    this.sites[A].unmask(signed[1:])


def test_signature_of_an_earlier_round_does_not_count():
    federation = Federation.of(4)
    this = federation.round()
    this.run()
    old = this.sites[C].consistency(names(4))
    later = federation.round(round_number=1)
    later.advertise(names(4))
    later.share(names(4))
    later.upload(names(4))
    signed = [later.sites[name].consistency(names(4)) for name in (A, B)]
    with pytest.raises(PeerRefusedError, match="round differ"):
        later.sites[A].unmask([*signed, old])


def test_thresholds_are_checked_again_before_unmasking():
    """A site whose rules were satisfied when it signed still refuses when they no longer are."""
    this = masked()
    signed = [this.sites[name].consistency(names(4)) for name in names(4)]
    site = this.sites[A]
    site._parameters = site._parameters.model_copy(update={"min_survivors": 5})
    with pytest.raises(BelowThresholdError, match="expected at least 5"):
        site.unmask(signed)


def test_no_site_hands_out_both_secrets_of_another():
    """The two shares of one owner are 64 bytes; an answer has 32 for each."""
    this = shared()
    this.upload([A, B, C])
    held = dict(this.sites[A]._secrets.held)
    agreement = this.agree([A, B, C], [A, B, C])
    answer = this.sites[A].unmask(agreement)
    for owner, pair in held.items():
        assert (pair[:32] in answer) == (owner != 3)
        assert (pair[32:] in answer) == (owner == 3)


def test_digest_names_the_very_bytes_of_a_vector():
    this = masked()
    one = this.masked[A].copy()
    before = vector_digest(one)
    one[-1] ^= 1
    assert vector_digest(one) != before
