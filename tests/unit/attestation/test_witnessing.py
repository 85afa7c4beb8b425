"""A log and its witnesses: heads are pushed, and only what continues the known history is cosigned."""

import asyncio
from dataclasses import replace

import pytest

from attestation import witnessing
from attestation.witnessing import Watched, Witness, witness_file, witness_name
from policies.audit.record import Event
from policies.documents import raw_public_key
from policies.errors import AuditError, RecordTamperedError, RollbackError
from tests.fakes.attestation_service import Clock, open_log
from tests.fakes.trust_domain import TRUST_DOMAIN, keyring, signing_key

SITE_KEY = signing_key("boot of hospital-a")
NAME = witness_name(TRUST_DOMAIN, "hospital-a")
EVENT = Event(action="refuse", actor="service", object="anything")


@pytest.fixture
def log(tmp_path):
    with open_log(tmp_path / "service", clock=Clock()) as opened:
        yield opened


@pytest.fixture
def witness(tmp_path):
    with open_log(tmp_path / "site", clock=Clock(), name="hospital-a", key=SITE_KEY) as own:
        yield Witness(
            origin=f"{TRUST_DOMAIN}/service",
            log_key=raw_public_key(keyring().log),
            site="hospital-a",
            name=NAME,
            key=SITE_KEY,
            memory=witness_file(tmp_path / "state", "service"),
            own_log=own,
            seconds=lambda: 1_700_000_000,
        )


async def head_of(watched, old_size=0):
    heads = watched.heads(old_size)
    try:
        async with asyncio.timeout(5):
            return await anext(heads)
    finally:
        await heads.aclose()


async def cosign(watched, witness):
    head = await head_of(watched, witness.known_size)
    return witness.cosign(head.checkpoint, head.consistency)


# --- the witness -----------------------------------------------------------------------------------------------------


async def test_witness_cosigns_what_continues_the_history_it_knows(log, witness):
    watched = Watched(log)
    assert witness.known_size == 0
    for _ in range(3):
        log.append_critical(EVENT)
        size, line = await cosign(watched, witness)
        assert witness.known_size == size == log.size
        await watched.take(NAME, line, size=size, keys=[raw_public_key(SITE_KEY)])
    assert watched.cosigned == {NAME: log.size}


async def test_witness_remembers_and_records_before_it_speaks(log, witness):
    size, _ = await cosign(Watched(log), witness)
    assert witness.memory.load(witness.origin).size == size
    assert witness.own_log.size == 2  # its opening, and that it cosigned


async def test_witness_that_cannot_record_has_given_no_cosignature_but_remembers(log, witness):
    head = await head_of(Watched(log))
    witness.own_log.close()
    with pytest.raises(AuditError):
        witness.cosign(head.checkpoint, head.consistency)
    assert witness.known_size == log.size


async def test_other_history_of_the_same_log_is_not_cosigned(tmp_path, log, witness):
    await cosign(Watched(log), witness)
    with open_log(tmp_path / "fork", clock=Clock()) as fork:
        for _ in range(3):
            fork.append_critical(EVENT)
        head = await head_of(Watched(fork), witness.known_size)
        with pytest.raises(RecordTamperedError):
            witness.cosign(head.checkpoint, head.consistency)


async def test_log_that_became_smaller_is_not_cosigned(tmp_path, log, witness):
    log.append_critical(EVENT)
    await cosign(Watched(log), witness)
    with open_log(tmp_path / "restored", clock=Clock()) as restored:
        head = await head_of(Watched(restored))
        with pytest.raises(RollbackError):
            witness.cosign(head.checkpoint, head.consistency)


async def test_head_that_another_key_signed_is_not_cosigned(log, witness):
    head = await head_of(Watched(log))
    with pytest.raises(AuditError):
        replace(witness, log_key=raw_public_key(SITE_KEY)).cosign(head.checkpoint, head.consistency)
    assert witness.known_size == 0


class Busy:
    """A log in which, whenever its head is looked at, another thread signs a newer one at once."""

    def __init__(self, log):
        self._log = log

    def __getattr__(self, name):
        return getattr(self._log, name)

    @property
    def latest(self):
        shown = self._log.latest
        self._log.append_critical(EVENT)
        self._log.checkpoint()
        return shown


# --- the watched log -------------------------------------------------------------------------------------------------


async def test_watcher_that_knows_more_than_there_is_is_told_of_the_rollback(log):
    assert await Watched(log).publish() == 1
    with pytest.raises(RollbackError, match="this log has 1 records, its witness has cosigned 2"):
        await head_of(Watched(log), old_size=2)


async def test_watcher_is_woken_by_every_new_head_and_leaves_with_the_last(log, monkeypatch):
    monkeypatch.setattr(witnessing, "LAST_COSIGNATURES_SECONDS", 0.01)
    watched, sizes = Watched(log), []

    async def watch():
        sizes.extend([int(head.checkpoint.split(b"\n")[1]) async for head in watched.heads(0)])

    watching = asyncio.create_task(watch())
    for _ in range(2):
        log.append_critical(EVENT)
        await watched.publish()
        await asyncio.sleep(0.02)
    await watched.close()
    async with asyncio.timeout(5):
        await watching
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == log.size == 4


async def _publish(watched, _log):
    await watched.publish()


async def _sign_by_itself(watched, log):
    log.checkpoint()
    await watched.notice()


@pytest.mark.parametrize("sign", [_publish, _sign_by_itself])
async def test_watcher_that_waits_is_woken_by_a_new_head(log, sign):
    watched = Watched(log)
    heads = watched.heads(await watched.publish())
    waiting = asyncio.create_task(anext(heads))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    log.append_critical(EVENT)
    await sign(watched, log)
    async with asyncio.timeout(5):
        assert (await waiting).checkpoint == log.latest.encode()
    await heads.aclose()


async def test_closing_waits_until_those_who_watch_have_cosigned_the_last_head(log, witness, monkeypatch):
    monkeypatch.setattr(witnessing, "LAST_COSIGNATURES_SECONDS", 60.0)
    watched = Watched(log)

    async def watch():
        async for head in watched.heads(witness.known_size):
            size, line = witness.cosign(head.checkpoint, head.consistency)
            await watched.take(NAME, line, size=size, keys=[raw_public_key(SITE_KEY)])

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        await watched.close()
    assert watched.cosigned == {NAME: log.size}
    await watching


@pytest.mark.parametrize("keys", [(), [raw_public_key(keyring().log)]])
async def test_cosignature_under_another_key_is_not_taken(log, witness, keys):
    watched = Watched(log)
    size, line = await cosign(watched, witness)
    with pytest.raises(AuditError):
        await watched.take(NAME, line, size=size, keys=keys)
    assert watched.cosigned == {}


async def test_cosignature_of_one_witness_is_not_taken_for_anothers(log, witness):
    watched = Watched(log)
    size, line = await cosign(watched, witness)
    with pytest.raises(AuditError):
        await watched.take(witness_name(TRUST_DOMAIN, "hospital-b"), line, size=size, keys=[raw_public_key(SITE_KEY)])


async def test_late_cosignature_of_an_older_head_does_not_lower_what_is_known(log, witness):
    watched, keys = Watched(log), [raw_public_key(SITE_KEY)]
    first, old = await cosign(watched, witness)
    log.append_critical(EVENT)
    second, new = await cosign(watched, witness)
    await watched.take(NAME, new, size=second, keys=keys)
    await watched.take(NAME, old, size=first, keys=keys)
    assert watched.cosigned == {NAME: second}


@pytest.mark.parametrize("line", [b"", b"\xff", b"no line\n"])
async def test_line_that_is_no_cosignature_is_refused(log, line):
    watched = Watched(log)
    size = await watched.publish()
    with pytest.raises(AuditError):
        await watched.take(NAME, line, size=size, keys=[raw_public_key(SITE_KEY)])


async def test_head_is_proved_to_its_own_size_while_newer_ones_are_signed(log, witness):
    watched = Watched(Busy(log))
    heads, sizes = watched.heads(0), []
    for _ in range(3):
        head = await anext(heads)
        size, _ = witness.cosign(head.checkpoint, head.consistency)
        sizes.append(size)
        await watched.publish()
    assert sizes == sorted(set(sizes))
    await heads.aclose()
