"""Who is connected to the server, what is queued for them, and who wakes whom."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import pytest

from fl_runtime.server.bell import Bell
from fl_runtime.server.sites import Sites
from fl_runtime.transport import federation_pb2 as pb


@dataclass(frozen=True)
class Result:
    """The two fields of an Attestation Result that a link is named by."""

    node: str = "hospital-a"
    boot: bytes = bytes(16)


OFFER = pb.Instruction(offer=pb.JobOffer(job_id="one"))
START = pb.Instruction(start=pb.JobStart(job_id="one"))


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def sites(now):
    return Sites(grace_seconds=3, clock=lambda: now[0])


async def join(sites, result=None):
    """Join, and return the link and the stream, of which the first instruction has been taken."""
    stream = sites.attend(result or Result())
    taking = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    link = sites.present([(result or Result()).node])[0]
    link.send(OFFER)
    assert await taking == OFFER
    return link, stream


async def test_instructions_come_in_the_order_they_were_sent(sites):
    link, stream = await join(sites)
    for instruction in (START, OFFER, START):
        link.send(instruction)
    assert [await anext(stream) for _ in range(3)] == [START, OFFER, START]


async def test_what_was_queued_while_a_boot_was_away_is_there_when_it_returns(sites, now):
    link, stream = await join(sites)
    await stream.aclose()
    assert sites.present(["hospital-a"]) == ()
    assert not sites.is_gone(link)
    link.send(START)
    now[0] += 2.9
    again = sites.attend(Result())
    assert await anext(again) == START
    assert sites.present(["hospital-a"]) == (link,)
    await again.aclose()


async def test_boot_that_is_away_for_longer_than_the_grace_is_gone_and_returns_as_a_new_link(sites, now):
    link, stream = await join(sites)
    await stream.aclose()
    link.send(START)
    now[0] += 3
    assert sites.is_gone(link)
    other, again = await join(sites)
    assert other is not link
    assert other.outbox.empty()
    await again.aclose()


async def test_new_boot_takes_the_place_of_the_old_one_at_once(sites):
    old, stream = await join(sites)
    new, again = await join(sites, Result(boot=b"b" * 16))
    assert sites.is_gone(old)
    assert not sites.is_gone(new)
    await stream.aclose()
    assert sites.present(["hospital-a"]) == (new,)  # the end of the old stream does not take the new one with it
    await again.aclose()


async def test_second_stream_of_one_boot_ends_the_first(sites):
    link, first = await join(sites)
    same, second = await join(sites)
    assert same is link
    link.send(START)
    assert [item async for item in first] in ([], [START])  # it may have been waiting for one more
    await second.aclose()


async def test_watchers_are_told_of_new_boots_alone(sites):
    told = []
    sites.on_join(told.append)
    link, stream = await join(sites)
    await stream.aclose()
    _, again = await join(sites)
    await again.aclose()
    assert told == [link]


async def test_closed_register_ends_every_stream_behind_what_was_queued(sites):
    link, stream = await join(sites)
    link.send(START)
    sites.close()
    assert [item async for item in stream] == [START]


async def test_bell_wakes_whoever_waits_when_somebody_joins(sites):
    bell = Bell()
    with sites.rings(bell):
        waiting = asyncio.create_task(bell.until(lambda: bool(sites.present(["hospital-a"])), deadline=None))
        _, stream = await join(sites)
        assert await asyncio.wait_for(waiting, 5)
    await stream.aclose()


async def test_bell_gives_up_at_the_deadline_and_says_that_it_does_not_hold():
    bell = Bell()
    assert not await bell.until(lambda: False, deadline=time.monotonic() + 0.01)
    assert not await bell.until(lambda: False, deadline=time.monotonic() - 1)


async def test_bell_lets_whoever_waits_look_again_at_each_ring():
    bell, holds, looked_again = Bell(), [], asyncio.Event()

    def look():
        if bell_rang:
            looked_again.set()
        return bool(holds)

    bell_rang = []
    waiting = asyncio.create_task(bell.until(look, deadline=None))
    await asyncio.sleep(0)
    bell_rang.append(True)
    bell.ring()
    await asyncio.wait_for(looked_again.wait(), 5)
    assert not waiting.done()
    holds.append(True)
    bell.ring()
    assert await asyncio.wait_for(waiting, 5)


async def test_bell_passes_on_what_the_look_raises():
    with pytest.raises(ZeroDivisionError):
        await Bell().until(lambda: 1 // 0 > 0, deadline=None)
