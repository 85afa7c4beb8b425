"""Messages: one encoding each, nothing let in that was not signed for this attempt."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_runtime.secure_aggregation.agreement import PrivateKey, PublicKey, open_shares, seal_shares
from fl_runtime.secure_aggregation.errors import MalformedMessageError, PeerRefusedError
from fl_runtime.secure_aggregation.messages import (
    Advertise,
    Consistency,
    Masked,
    Reader,
    Shares,
    Signed,
    Step,
    Unmask,
    bitmap,
)
from tests.fakes.secagg_round import Federation, SeededRandomness, signing_key

FEDERATION = Federation.of(5)
CONTEXT = FEDERATION.context()
SITE = "site-001"
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645c6c2f6c9299a6c0e1c2f6b9b0a2c2a2c")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
PAIR_CONTEXT = bytes.fromhex("7bd00bf6b66d55be95c0410bc82f843fe2b64691f7312ac668254d0b1eedc95d")


def signed(body=b"body", *, step=Step.MASKED, context=CONTEXT, sender=SITE, key=None) -> Signed:
    return Signed.sign(body, step=step, context=context, sender=sender, key=key or signing_key(sender))


def verify(message: Signed, step=Step.MASKED) -> bytes:
    return Signed.parse(message.encode()).verify(step, context=CONTEXT, cohort=FEDERATION.cohort)


PARSERS = (
    Signed.parse,
    Advertise.parse,
    Masked.parse,
    lambda raw: Shares.parse(raw, members=5),
    lambda raw: Consistency.parse(raw, members=5),
    lambda raw: Unmask.parse(raw, members=5),
)
AGREED = Consistency(sharers=(0, 1, 2, 4), survivors=(0, 2, 4))
BODIES = (
    Advertise(c_pk=bytes([1]) * 32, s_pk=bytes([2]) * 32).encode(),
    Masked(digest=bytes(32), words=7, clipped=2).encode(),
    Shares(seed_commitment=bytes(32), sealed={0: bytes(80), 4: bytes([4]) * 80}).encode(members=5),
    AGREED.encode(members=5),
    Unmask(agreed=AGREED, shares={place: bytes([place]) * 32 for place in AGREED.sharers}).encode(members=5),
)


@given(raw=st.binary(max_size=400), parser=st.sampled_from(PARSERS))
@settings(max_examples=150, deadline=None)
def test_parsing_any_bytes_raises_nothing_but_malformed(raw, parser):
    with contextlib.suppress(MalformedMessageError):
        parser(raw)


@pytest.mark.parametrize(("body", "parser"), list(zip(BODIES, PARSERS[1:], strict=True)))
def test_body_cut_short_or_with_bytes_after_its_end_is_refused(body, parser):
    parser(body)
    for wrong in (body[:-1], body + b"\0", b""):
        with pytest.raises(MalformedMessageError):
            parser(wrong)


def test_bodies_come_back_from_their_bytes():
    unmask = Unmask.parse(BODIES[4], members=5)
    assert unmask.agreed == AGREED
    assert unmask.shares[1] == bytes([1]) * 32
    assert unmask.encode(members=5) == BODIES[4]
    assert Shares.parse(BODIES[2], members=5).encode(members=5) == BODIES[2]
    assert Masked.parse(BODIES[1]) == Masked(digest=bytes(32), words=7, clipped=2)


@given(places=st.sets(st.integers(0, 199)))
@settings(max_examples=30, deadline=None)
def test_set_of_sites_comes_back_from_its_bitmap(places):
    assert Reader(bitmap(places, 200)).places(200) == tuple(sorted(places))


def test_bitmap_is_the_one_written_down():
    assert bitmap([0, 2, 9], 11).hex() == "0502"


def test_bitmap_with_a_member_beyond_the_cohort_is_refused():
    with pytest.raises(MalformedMessageError, match="beyond the 5"):
        Reader(b"\x20").places(5)


def test_survivor_that_did_not_share_is_refused():
    with pytest.raises(MalformedMessageError, match="not among those that shared"):
        Consistency.parse(bitmap([0, 1], 5) + bitmap([0, 2], 5), members=5)


def test_nobody_is_both_survivor_and_dropped():
    assert set(AGREED.survivors) | set(AGREED.dropped) == set(AGREED.sharers)
    assert not set(AGREED.survivors) & set(AGREED.dropped)


def test_message_for_200_sites_stays_within_the_limit():
    body = Shares(seed_commitment=bytes(32), sealed=dict.fromkeys(range(1, 200), bytes(80))).encode(members=200)
    assert len(Signed.parse(signed(body).encode()).body) == 32 + 25 + 199 * 80


def test_length_beyond_the_limit_is_refused_before_anything_is_read():
    with pytest.raises(MalformedMessageError, match="at most"):
        Signed.parse(b"\xff\xff\xff\xff")


def test_name_that_is_not_text_is_refused():
    with pytest.raises(MalformedMessageError, match="UTF-8"):
        Reader(b"\0\0\0\1\xff").text()


def test_signed_message_gives_its_body():
    assert verify(signed()) == b"body"


@pytest.mark.parametrize("position", range(0, 250, 3))
def test_no_byte_of_a_signed_message_can_be_changed(position):
    raw = bytearray(signed().encode())
    raw[position % len(raw)] ^= 1
    with pytest.raises((PeerRefusedError, MalformedMessageError)):
        Signed.parse(bytes(raw)).verify(Step.MASKED, context=CONTEXT, cohort=FEDERATION.cohort)


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.MASKED])
def test_message_of_one_step_is_not_taken_for_another(step):
    with pytest.raises(PeerRefusedError, match="not signed by the key of its boot"):
        verify(signed(step=step))


def test_message_signed_by_another_site_is_refused():
    with pytest.raises(PeerRefusedError, match="not signed by the key of its boot") as caught:
        verify(signed(key=signing_key("site-002")))
    assert caught.value.sites == (SITE,)


def test_message_of_an_earlier_boot_is_refused():
    with pytest.raises(PeerRefusedError, match="not signed by the key of its boot"):
        verify(signed(key=signing_key(SITE, boot=1)))


def test_message_of_an_invented_site_is_refused():
    with pytest.raises(PeerRefusedError, match="'invented' is not in this round's cohort"):
        verify(signed(sender="invented"))


@pytest.mark.parametrize(
    "change",
    [
        {"job": "other"},
        {"round": 1},
        {"attempt": 2},
        {"model_hash": bytes(32)},
        {"cohort_digest": bytes(32)},
        {"params_digest": bytes(32)},
        {"vector_length": 1},
    ],
)
def test_message_made_for_something_else_is_refused_naming_what_and_whom(change):
    with pytest.raises(PeerRefusedError, match=f"shown something else.*{next(iter(change))}") as caught:
        verify(signed(context=dataclasses.replace(CONTEXT, **change)))
    assert caught.value.sites == (SITE,)


# --- keys between two sites ------------------------------------------------------------------------------------------


def test_pair_seed_is_the_one_written_down():
    # HKDF-SHA256 by hmac alone, over X25519 of the two keys, with the pair context of test_secagg_parameters.
    alder, birch = PrivateKey.of("alder", ALICE), PrivateKey.of("birch", BOB)
    seed = alder.pair_seed(birch.public, PAIR_CONTEXT)
    assert seed.hex() == "5e77fd01a3f768a5f1f30cc65e0c0b5c9a236634b4195b5d5a5fb5863897e705"
    assert birch.pair_seed(alder.public, PAIR_CONTEXT) == seed


def test_site_that_copies_anothers_key_gets_another_pair_seed():
    """Else the masks with the two could cancel within one vector and leave it bare."""
    alder, birch = PrivateKey.of("alder", ALICE), PrivateKey.of("birch", BOB)
    copy = PublicKey(site="cedar", raw=birch.public.raw)
    assert alder.pair_seed(copy, PAIR_CONTEXT) != alder.pair_seed(birch.public, PAIR_CONTEXT)


def test_keys_of_low_order_are_refused_naming_the_site():
    zero = PublicKey(site="cedar", raw=bytes(32))
    with pytest.raises(PeerRefusedError, match="low order") as caught:
        PrivateKey.of("alder", ALICE).pair_seed(zero, PAIR_CONTEXT)
    assert caught.value.sites == ("cedar",)


def test_channel_has_a_key_of_its_own_for_each_direction_and_attempt():
    alder, birch = PrivateKey.of("alder", ALICE), PrivateKey.of("birch", BOB)
    there = alder.channel_key(birch.public, PAIR_CONTEXT, sending=True)
    back = alder.channel_key(birch.public, PAIR_CONTEXT, sending=False)
    assert there == birch.channel_key(alder.public, PAIR_CONTEXT, sending=False)
    others = {
        back,
        alder.channel_key(birch.public, bytes(32), sending=True),
        alder.pair_seed(birch.public, PAIR_CONTEXT),
    }
    assert len(others | {there}) == 4


def test_sealed_shares_open_only_whole_and_in_their_place():
    sealed = seal_shares(bytes(64), key=bytes(32), associated=b"a")
    assert open_shares(sealed, key=bytes(32), associated=b"a", sender=SITE) == bytes(64)
    for wrong in ((sealed[:-1], b"a"), (bytes([sealed[0] ^ 1]) + sealed[1:], b"a"), (sealed, b"b"), (b"", b"a")):
        with pytest.raises(PeerRefusedError, match="do not open"):
            open_shares(wrong[0], key=bytes(32), associated=wrong[1], sender=SITE)


def test_sealed_shares_of_another_size_are_refused():
    with pytest.raises(PeerRefusedError, match="sealed 63 bytes"):
        open_shares(seal_shares(bytes(63), key=bytes(32), associated=b""), key=bytes(32), associated=b"", sender=SITE)


def test_fresh_keys_keep_their_bytes_and_do_not_show_them():
    key = PrivateKey.draw("alder", SeededRandomness("k"))
    assert X25519PrivateKey.from_private_bytes(key.secret).private_bytes_raw() == key.secret
    assert "secret" not in repr(key)
