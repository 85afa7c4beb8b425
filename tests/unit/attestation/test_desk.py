"""A challenge out, evidence in, an identity out; every refusal is in the record."""

from datetime import timedelta

import pytest
from cryptography import x509

from attestation.errors import (
    AppraisalError,
    BindingMismatchError,
    MalformedEvidenceError,
    ReattestError,
    ReplayError,
)
from attestation.keys import BootKeys
from attestation.service.limits import TooManyRequestsError
from policies.attestation_result import verify_result
from policies.documents import Envelope, key_id, raw_public_key
from policies.encoding import PROTOCOL
from policies.errors import DeniedError, RollbackError, UsageError
from tests.fakes.attestation_service import service
from tests.fakes.trust_domain import NOW, TRUST_DOMAIN, boot_keys, domain, keyring, repack

NODE = "hospital-a"


@pytest.fixture
def running(tmp_path):
    with service(tmp_path) as opened:
        yield opened


def result_of(archived):
    return verify_result(archived.result, raw_public_key(keyring().result))


# --- challenges ------------------------------------------------------------------------------------------------------


def test_challenges_are_fresh_and_remember_who_asked(running):
    one, two = running.challenge(NODE), running.challenge(NODE)
    assert (len(one.challenge_id), len(one.nonce)) == (16, 32)
    assert (one.node, one.role, one.client_random) == (NODE, "site", bytes(32))
    assert one.challenge_id != two.challenge_id
    assert one.nonce != two.nonce


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"protocol": "cloister-v0"}, UsageError, "asked for 'cloister-v0'"),
        ({"trust_domain": "other.mock"}, UsageError, f"this service speaks {PROTOCOL} for {TRUST_DOMAIN}"),
        ({"client_random": bytes(31)}, UsageError, "client random has 31 bytes"),
        ({"node": "hospital-z"}, DeniedError, "hospital-z is not in roster"),
        ({"role": "server"}, DeniedError, "asked for the role 'server', the roster names it as site"),
        ({"role": ""}, DeniedError, "asked for the role ''"),
    ],
)
def test_challenge_is_given_to_members_of_this_trust_domain_alone(running, change, error, said):
    asked = {
        "protocol": PROTOCOL,
        "trust_domain": TRUST_DOMAIN,
        "node": NODE,
        "role": "site",
        "client_random": bytes(32),
    }
    with pytest.raises(error, match=said):
        running.desk.challenge(**(asked | change))


# --- what is accepted ------------------------------------------------------------------------------------------------


def test_node_that_proves_itself_is_given_a_result_and_a_certificate(running):
    archived = running.enrol(NODE)
    result = result_of(archived)
    keys = boot_keys(NODE)
    assert (result.node, result.iss) == (NODE, f"attestation.{TRUST_DOMAIN}")
    assert (result.exp - result.iat, result.revocation_epoch) == (1800, 0)
    assert (result.cnf.tls_spki, result.cnf.sign_pk) == (keys.tls_spki, keys.sign_pk)
    assert running.peer(archived).result == result
    assert running.register.by_jti(result.jti) == archived
    assert running.register.latest_of(NODE) == archived
    assert running.desk.keyring_id == key_id(raw_public_key(keyring().result))


def test_only_a_server_is_given_a_dns_name(running):
    for node, expected in (("server", [f"server.server.{TRUST_DOMAIN}"]), (NODE, [])):
        certificate = x509.load_pem_x509_certificate(running.enrol(node).certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == expected


def test_acceptance_is_in_the_record_before_anything_is_given(running):
    result = result_of(running.enrol(NODE))
    (record,) = running.records("attestation.decision")
    assert (record.decision, record.object, record.jti, record.next) == ("allow", NODE, result.jti, "warning")
    assert record.digests["evidence"] == result.evidence_sha256
    assert record.digests["sign"] == boot_keys(NODE).sign_pk
    assert any("nothing here is attested by hardware" in reason for reason in record.reasons)


def test_purpose_of_the_core_is_the_purpose_of_the_result(running):
    assert result_of(running.enrol(NODE, core={"purpose": "release"})).purpose == "release"


# --- replays ---------------------------------------------------------------------------------------------------------


def test_same_bytes_are_answered_the_same_and_recorded_once(running):
    challenge_id, received = running.answer(NODE)
    assert running.desk.attest(challenge_id, received.raw) == running.desk.attest(challenge_id, received.raw)
    assert len(running.records("attestation.decision")) == 1


def test_other_bytes_for_a_used_challenge_are_refused_and_recorded(running):
    challenge_id, received = running.answer(NODE)
    running.desk.attest(challenge_id, received.raw)
    with pytest.raises(ReplayError, match="was used before"):
        running.desk.attest(challenge_id, domain().attestation(NODE).raw)
    assert [record.decision for record in running.records("attestation.decision")] == ["allow", "deny"]


def test_challenge_is_used_up_by_evidence_that_is_refused(running):
    challenge_id, received = running.answer(NODE, core={"nonce": bytes(32)})
    with pytest.raises(BindingMismatchError):
        running.desk.attest(challenge_id, received.raw)
    with pytest.raises(ReplayError):
        running.desk.attest(challenge_id, received.raw)


def test_challenge_that_has_ended_is_refused(running):
    challenge_id, received = running.answer(NODE)
    running.clock.skip(seconds=60)
    with pytest.raises(ReplayError, match="ended 0 s ago"):
        running.desk.attest(challenge_id, received.raw)


# --- 3. the core answers this challenge ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cid": bytes(16)}, "challenge id of the core"),
        ({"nonce": bytes(32)}, "nonce of the core"),
        ({"crand": b"\x01" * 32}, "client random of the core"),
        ({"service_ca": bytes(32)}, "service authority of the core"),
        ({"node": "hospital-b"}, "the core names node hospital-b, the challenge was given to hospital-a"),
        ({"role": "server"}, "the core names role server, the challenge was given to site"),
    ],
)
def test_core_that_answers_something_else_is_refused(running, change, said):
    with pytest.raises(BindingMismatchError, match=said):
        running.enrol(NODE, core=change)
    (record,) = running.records("attestation.decision")
    assert record.decision == "deny"
    assert said in record.reasons[0]


@pytest.mark.parametrize(("node", "policy"), [(NODE, None), ("server", bytes(32))])
def test_site_and_nobody_else_names_its_policy(running, node, policy):
    with pytest.raises(MalformedEvidenceError, match="a site names the digest of its policy"):
        running.enrol(node, core={"site_policy": policy})


# --- 4. and 6. verification and appraisal ----------------------------------------------------------------------------


def test_evidence_that_does_not_verify_is_refused_and_recorded_under_the_name_it_claims(running):
    challenge_id, received = running.answer(NODE)
    moved = repack(received, init_data=domain().init_data("hospital-b"))
    with pytest.raises(BindingMismatchError, match="init_data"):
        running.desk.attest(challenge_id, moved.raw)
    (record,) = running.records("attestation.decision")
    assert (record.object, record.decision, record.digests) == (NODE, "deny", {"evidence": moved.sha256})


def test_core_that_cannot_be_read_is_recorded_as_of_nobody_known(running):
    challenge_id, received = running.answer(NODE)
    with pytest.raises(MalformedEvidenceError):
        running.desk.attest(challenge_id, repack(received, core=b"{}").raw)
    (record,) = running.records("attestation.decision")
    assert (record.object, record.decision) == ("unknown", "deny")


def test_bytes_that_are_no_attestation_use_up_no_challenge(running):
    challenge_id, received = running.answer(NODE)
    with pytest.raises(MalformedEvidenceError):
        running.desk.attest(challenge_id, b"")
    running.desk.attest(challenge_id, received.raw)


def test_machine_that_is_not_what_is_expected_is_given_nothing(running):
    with pytest.raises(AppraisalError, match=r"gpu\.driver_version"):
        running.enrol(NODE, machine={"driver": "535.104.05"})
    assert [record.decision for record in running.records("attestation.decision")] == ["deny"]


def test_grant_that_ended_while_the_service_ran_is_refused(running):
    running.clock.skip(days=61)
    with pytest.raises(Exception, match="Grant version 1 expired"):
        running.enrol(NODE)


def test_one_machine_may_attest_so_often(tmp_path):
    with service(tmp_path, attestations=1) as running:
        first = result_of(running.enrol(NODE))
        with pytest.raises(TooManyRequestsError):
            running.enrol(NODE, core={"prev_jti": first.jti})
        running.enrol("hospital-b")


# --- 5. grants and boots ---------------------------------------------------------------------------------------------


def test_grant_that_is_older_than_one_accepted_before_is_refused(running):
    old = domain().grant(NODE)
    new = domain().grant(NODE, version=2, previous=Envelope.parse(old).digest)
    first = result_of(running.enrol(NODE, grant=new))
    with pytest.raises(RollbackError, match="grant of hospital-a has version 1, version 2 was already seen"):
        running.enrol(NODE, grant=old, core={"prev_jti": first.jti})


def test_grant_of_the_same_version_that_says_something_else_is_refused(running):
    first = result_of(running.enrol(NODE))
    other = domain().grant(NODE, expires_at=NOW + timedelta(days=61))
    with pytest.raises(RollbackError, match="two different documents carry version 1"):
        running.enrol(NODE, grant=other, core={"prev_jti": first.jti})


def test_results_of_one_boot_name_the_one_before(running):
    jtis = [None]
    for _ in range(4):
        jtis.append(result_of(running.enrol(NODE, core={"prev_jti": jtis[-1]})).jti)
    assert running.register.chain_of(NODE, boot_keys(NODE).boot) == tuple(jtis[:0:-1])


def test_result_whose_reply_was_lost_may_be_left_out_once(running):
    one = result_of(running.enrol(NODE)).jti
    two = result_of(running.enrol(NODE, core={"prev_jti": None})).jti  # the reply of the first was lost
    result_of(running.enrol(NODE, core={"prev_jti": one}))  # the reply of the second was lost
    for stale in (None, one, "f" * 32):
        with pytest.raises(ReattestError, match="not of this boot's last two"):
            running.enrol(NODE, core={"prev_jti": stale})
    assert running.enrol(NODE, core={"prev_jti": two})


def test_first_result_of_a_boot_names_none(running):
    with pytest.raises(ReattestError, match="not of this boot's last two"):
        running.enrol(NODE, core={"prev_jti": "0" * 32})


def test_node_that_claims_the_boot_of_another_does_not_break_its_chain(running):
    first = result_of(running.enrol(NODE))
    for _ in range(2):
        claimed = {"boot": boot_keys(NODE).boot, "prev_jti": None}
        running.enrol("hospital-b", core=claimed)
    assert result_of(running.enrol(NODE, core={"prev_jti": first.jti}))


def test_new_boot_begins_a_chain_of_its_own(running):
    running.enrol(NODE)
    assert running.enrol(NODE, keys=BootKeys.generate())
