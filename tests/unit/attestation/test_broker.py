"""Keys go in from the model's owner, and out to who has just proved what it is."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from attestation.channel.caller import Administrator
from attestation.errors import NotAttestedYetError, ReleaseDeniedError, ReplayError, SignatureError
from attestation.release_context import deposit_info, release_info
from attestation.sealing import seal_to
from attestation.service.broker import WantedKey
from attestation.service.register import Register
from policies import job_manifest, release
from policies.documents import Envelope
from policies.errors import DeniedError, DocumentSignatureError, UsageError
from policies.job_manifest import JobApproval, job_digest
from policies.release import ReleasePolicy
from tests.fakes.attestation_service import service
from tests.fakes.drafts import draft_job
from tests.fakes.trust_domain import IMAGE, NOW, TRUST_DOMAIN, boot_keys, signing_key

KEY = bytes(range(32))
KEY_ID = "digits-1"
ADMIN = Administrator(name="admin")
SITES = ("hospital-a", "hospital-b")
JOB = Envelope.sign(draft_job(), job_manifest.KIND, [signing_key("admin")])
DIGEST = job_digest(JOB.payload)


@pytest.fixture
def running(tmp_path):
    with service(tmp_path) as opened:
        yield opened


def policy_of(*, signer="admin", **changes):
    fields = {
        "key_id": KEY_ID,
        "job_sha256": DIGEST,
        "nodes": {"server": "server", **dict.fromkeys(SITES, "site")},
        "tiers": frozenset({"attested"}),
        "images": frozenset({IMAGE}),
        "accepted_statuses": frozenset({"affirming", "warning"}),
        "allow_mock": True,
        "max_result_age_seconds": 120,
        "min_approvals": 2,
        "max_releases": 2,
    }
    return Envelope.sign(ReleasePolicy(**(fields | changes)), release.KIND, [signing_key(signer)])


def deposit(running, *, caller=ADMIN, key=KEY, key_id=KEY_ID, job=JOB, policy=None, info=None):
    sealed = seal_to(running.broker.sealing.public, key, info=info or deposit_info(TRUST_DOMAIN, KEY_ID, DIGEST))
    policy = policy or policy_of()
    return running.broker.deposit(caller, key_id=key_id, sealed=sealed, policy=policy.encode(), job=job.encode())


def approval_of(site, *, signer=None, **changes):
    fields = {
        "trust_domain": TRUST_DOMAIN,
        "site": site,
        "boot": boot_keys(site).boot,
        "job": "digits-1",
        "job_sha256": DIGEST,
        "site_policy_sha256": bytes(32),
        "approved_at": NOW,
    }
    approval = JobApproval(**(fields | changes))
    return Envelope.sign(approval, job_manifest.APPROVAL_KIND, [signer or boot_keys(site).sign]).encode()


@pytest.fixture
def ready(running):
    """A key in keeping, and both sites attested for release."""
    deposit(running)
    peers = {site: running.peer(running.enrol(site, core={"purpose": "release"})) for site in SITES}
    return running, peers


def wanted(peer, **changes):
    fields = {
        "release_id": b"\x01" * 16,
        "attest_jti": peer.result.jti,
        "key_id": KEY_ID,
        "job": JOB.encode(),
        "approvals": tuple(approval_of(site) for site in SITES),
        "purpose": "train",
    }
    return WantedKey(**(fields | changes))


def opened(peer, released, *, release_id=b"\x01" * 16):
    info = release_info(
        peer.result,
        key_id=KEY_ID,
        version=released.version,
        job_sha256=DIGEST,
        policy_sha256=released.policy_sha256,
        release_id=release_id,
    )
    return boot_keys(peer.name).sealing.open(released.sealed, info=info)


# --- deposits --------------------------------------------------------------------------------------------------------


def test_key_is_taken_into_keeping_wrapped_and_recorded(running):
    assert deposit(running) == 1
    stored = running.register.key(KEY_ID)
    assert KEY not in stored.wrapped
    assert running.broker.keyring.unwrap(stored.wrapped, key_id=KEY_ID, version=1) == KEY
    (record,) = running.records("key.deposit")
    assert (record.object, record.job, record.decision) == (KEY_ID, "digits-1", "allow")
    assert record.digests == {"job": DIGEST, "policy": policy_of().digest}


def job_that(**changes):
    return Envelope.sign(draft_job(**changes), job_manifest.KIND, [signing_key("admin")])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key_id": "digits-2"}, "key of the policy is digits-1, expected digits-2"),
        ({"policy": policy_of(key_id="digits-2")}, "key of the policy is digits-2"),
        ({"policy": policy_of(job_sha256=bytes(32))}, "job of the policy is 0000"),
        ({"caller": Administrator(name="mallory")}, "submitter is admin, expected mallory"),
    ],
)
def test_deposit_that_speaks_of_something_else_is_refused(running, change, said):
    with pytest.raises(DeniedError, match=said):
        deposit(running, **change)
    assert running.register.key(KEY_ID) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trust_domain": "other.mock"}, "trust domain is other.mock"),
        ({"model": draft_job().model.model_copy(update={"key_id": "digits-2"})}, "key of the model is digits-2"),
    ],
)
def test_deposit_for_a_job_of_something_else_is_refused(running, change, said):
    job = job_that(**change)
    policy = policy_of(job_sha256=job_digest(job.payload))
    with pytest.raises(DeniedError, match=said):
        deposit(running, job=job, policy=policy)


def test_policy_that_somebody_else_signed_is_refused(running):
    with pytest.raises(DocumentSignatureError):
        deposit(running, policy=policy_of(signer="mallory"))


def test_job_that_somebody_else_signed_is_refused(running):
    with pytest.raises(DocumentSignatureError):
        deposit(running, job=Envelope.sign(draft_job(), job_manifest.KIND, [signing_key("mallory")]))


@pytest.mark.parametrize(
    "info",
    [
        deposit_info("other.mock", KEY_ID, DIGEST),
        deposit_info(TRUST_DOMAIN, "digits-2", DIGEST),
        deposit_info(TRUST_DOMAIN, KEY_ID, bytes(32)),
    ],
)
def test_key_that_was_sealed_for_something_else_is_refused(running, info):
    with pytest.raises(SignatureError):
        deposit(running, info=info)


@pytest.mark.parametrize("size", [0, 16, 33])
def test_key_of_another_size_is_refused(running, size):
    with pytest.raises(UsageError, match=f"the key has {size} bytes, expected 32"):
        deposit(running, key=bytes(size))


def test_second_key_of_a_name_is_refused_and_never_said_to_be_kept(running):
    deposit(running)
    with pytest.raises(UsageError, match="there is a key digits-1 already"):
        deposit(running, key=bytes(32))
    assert running.broker.keyring.unwrap(running.register.key(KEY_ID).wrapped, key_id=KEY_ID, version=1) == KEY
    assert len(running.records("key.deposit")) == 1


# --- releases --------------------------------------------------------------------------------------------------------


def test_key_is_sealed_to_who_has_proved_itself_and_recorded_first(ready):
    running, peers = ready
    released = running.broker.release(peers["hospital-a"], wanted(peers["hospital-a"]))
    assert opened(peers["hospital-a"], released) == KEY
    assert released.policy_sha256 == policy_of().digest
    assert running.log.latest.checkpoint.size == running.log.size  # witnesses see it before its receiver does
    (record,) = running.records("key.release")
    assert (record.decision, record.object, record.job) == ("allow", "digits-1 to hospital-a", "digits-1")
    assert (record.jti, record.request) == (peers["hospital-a"].result.jti, (b"\x01" * 16).hex())
    assert record.digests == {"job": DIGEST, "policy": policy_of().digest}


def test_release_that_is_repeated_repeats_its_reply_and_counts_once(ready):
    running, peers = ready
    peer = peers["hospital-a"]
    assert running.broker.release(peer, wanted(peer)) == running.broker.release(peer, wanted(peer))
    assert running.register.releases_of(KEY_ID) == 1
    assert len(running.records("key.release")) == 1


def test_release_id_is_for_one_node_one_result_and_one_key(ready):
    running, peers = ready
    one, two = (peers[site] for site in SITES)
    running.broker.release(one, wanted(one))
    with pytest.raises(ReplayError):
        running.broker.release(two, wanted(two))
    with pytest.raises(ReplayError):
        running.broker.release(two, wanted(one))
    with pytest.raises(ReplayError):
        running.broker.release(one, wanted(one, attest_jti="0" * 32))
    running.register.deposit("digits-2", running.register.key(KEY_ID))
    with pytest.raises(ReplayError):
        running.broker.release(one, wanted(one, key_id="digits-2"))


@pytest.mark.parametrize("release_id", [b"", bytes(15), bytes(17)])
def test_release_id_of_another_size_is_refused(ready, release_id):
    running, peers = ready
    with pytest.raises(UsageError, match=f"the release id has {len(release_id)} bytes, expected 16"):
        running.broker.release(peers["hospital-a"], wanted(peers["hospital-a"], release_id=release_id))


def refused(running, peer, error=ReleaseDeniedError, **changes):
    """Ask for the key in vain; returns the reason, which is in the record."""
    with pytest.raises(error) as caught:
        running.broker.release(peer, wanted(peer, **changes))
    record = running.records("key.release")[-1]
    assert record.decision == "deny"
    assert caught.value.code in record.reasons[0]
    assert running.register.releases_of(KEY_ID) == 0
    return caught.value.message


def test_key_that_is_not_there_is_not_released(ready):
    running, peers = ready
    with pytest.raises(ReleaseDeniedError, match="there is no key digits-9"):
        running.broker.release(peers["hospital-a"], wanted(peers["hospital-a"], key_id="digits-9"))


def test_result_that_was_never_issued_is_refused(ready):
    running, peers = ready
    refused(running, peers["hospital-a"], NotAttestedYetError, attest_jti="0" * 32)


def test_result_of_another_node_is_refused(ready):
    running, peers = ready
    said = refused(running, peers["hospital-a"], attest_jti=peers["hospital-b"].result.jti)
    assert "a key that the attestation does not confirm" in said


def test_result_of_an_attestation_for_something_else_is_refused(ready):
    running, peers = ready
    jti = peers["hospital-a"].result.jti
    issued = running.peer(running.enrol("hospital-a", core={"purpose": "issue", "prev_jti": jti}))
    assert "made to issue, expected release" in refused(running, issued)


def test_attestation_that_is_too_old_is_refused(ready):
    running, peers = ready
    running.clock.skip(seconds=121)
    assert "the attestation is 121 s old" in refused(running, peers["hospital-a"])


def test_key_of_one_job_is_not_released_for_another(ready):
    running, peers = ready
    said = refused(running, peers["hospital-a"], job=job_that(rounds=6).encode(), approvals=())
    assert f"is not {DIGEST.hex()[:16]}" in said


def test_job_of_another_submitter_does_not_open_the_policy(ready):
    running, peers = ready
    public = signing_key("mallory").public_key().public_bytes_raw()
    stolen = Envelope.sign(draft_job(submitter_key=public), job_manifest.KIND, [signing_key("mallory")])
    refused(running, peers["hospital-a"], DocumentSignatureError, job=stolen.encode())


def test_key_is_released_so_often_and_not_more(ready):
    running, peers = ready
    peer = peers["hospital-a"]
    for number in range(2):
        running.broker.release(peer, wanted(peer, release_id=bytes([number]) * 16))
    with pytest.raises(ReleaseDeniedError, match="the key was released 2 times, allowed are 2"):
        running.broker.release(peer, wanted(peer, release_id=b"\x09" * 16))


class Slow(Register):
    """Takes its time between counting and remembering releases."""

    def releases_of(self, key_id):
        count = super().releases_of(key_id)
        time.sleep(0.05)
        return count


def test_two_releases_at_once_are_counted_one_after_the_other(running):
    deposit(running, policy=policy_of(max_releases=1))
    peers = [running.peer(running.enrol(site, core={"purpose": "release"})) for site in SITES]
    broker, gate = replace(running.broker, register=Slow(running.register._store)), threading.Barrier(2)

    def ask(number):
        gate.wait()
        try:
            broker.release(peers[number], wanted(peers[number], release_id=bytes([number]) * 16))
        except ReleaseDeniedError:
            return "denied"
        return "released"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(ask, range(2))) == ["denied", "released"]


# --- approvals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "second",
    [
        approval_of("hospital-a"),
        approval_of("hospital-b", signer=signing_key("mallory")),
        approval_of("hospital-b", signer=boot_keys("hospital-a").sign),
        approval_of("hospital-b", boot=bytes(16)),
        approval_of("hospital-b", job_sha256=bytes(32)),
        approval_of("server"),
        b"no approval",
    ],
    ids=["the same twice", "another key", "key of a peer", "another boot", "another job", "no site of it", "malformed"],
)
def test_approval_that_is_not_a_sites_own_for_this_job_counts_for_nothing(ready, second):
    running, peers = ready
    running.enrol("server")
    said = refused(running, peers["hospital-a"], approvals=(approval_of("hospital-a"), second))
    assert "1 sites have approved the job, expected 2" in said


def test_approval_of_a_site_that_never_attested_counts_for_nothing(running):
    deposit(running)
    peer = running.peer(running.enrol("hospital-a", core={"purpose": "release"}))
    assert "1 sites have approved the job, expected 2" in refused(running, peer)


def test_more_approvals_than_sites_are_not_looked_at(ready):
    running, peers = ready
    said = refused(running, peers["hospital-a"], approvals=(approval_of("hospital-a"),) * 3)
    assert "3 approvals came for a job of 2 sites" in said
