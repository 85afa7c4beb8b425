"""Nodes prove themselves to the real attestation service over gRPC; the mock TEE stands for the hardware."""

import json
from dataclasses import dataclass, field

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from attestation.attester import Attester
from attestation.channel.status import RemoteError, UnreachableError, error_of
from attestation.errors import AttesterUnavailableError
from attestation.evidence import DeviceEvidence
from attestation.keys import BootKeys
from attestation.mock_tee.machines import STALE_TCB
from attestation.service import attestation_pb2 as pb
from policies.encoding import PROTOCOL
from tests.fakes.federation import TRUST_DOMAIN, gpu_of, laboratory

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory):
    async with laboratory(tmp_path_factory.mktemp("enrol") / "lab") as running:
        yield running


async def refused(attesting):
    with pytest.raises(RemoteError) as caught:
        await attesting
    return caught.value


# --- what is accepted ------------------------------------------------------------------------------------------------


async def test_site_is_given_a_result_that_says_mock_and_confirms_its_own_keys(lab):
    keys = BootKeys.generate()
    identity = await lab.enrolment("hospital-a", keys=keys).attest("issue")
    result = identity.result
    assert (result.node, result.role, result.tier, result.organisation) == ("hospital-a", "site", "attested", "north")
    assert (result.status, result.mock, result.reference) == ("warning", True, "release-1")
    assert set(result.submods) == {"cpu0", "gpu0"}
    assert (result.boot, result.cnf.tls_spki, result.cnf.sign_pk) == (keys.boot, keys.tls_spki, keys.sign_pk)


async def test_only_a_server_is_given_a_dns_name(lab):
    names = {}
    for node in ("server", "hospital-a"):
        identity = await lab.enrolment(node).attest("issue")
        certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
        extension = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
        names[node] = extension.value.get_values_for_type(x509.DNSName)
    assert names == {"server": [f"server.server.{TRUST_DOMAIN}"], "hospital-a": []}


async def test_node_attests_again_with_the_same_keys(lab):
    enrolment = lab.enrolment("hospital-b")
    first, second, third = [await enrolment.attest(purpose) for purpose in ("issue", "release", "issue")]
    assert len({first.result.jti, second.result.jti, third.result.jti}) == 3
    assert first.result.cnf == second.result.cnf == third.result.cnf
    assert second.result.purpose == "release"


async def test_boot_that_forgets_its_last_results_must_boot_anew(lab):
    keys = BootKeys.generate()
    enrolment = lab.enrolment("hospital-b", keys=keys)
    await enrolment.attest("issue")
    await enrolment.attest("issue")
    error = await refused(lab.enrolment("hospital-b", keys=keys).attest("issue"))
    assert error.code == "attestation.reattest"


# --- replays ---------------------------------------------------------------------------------------------------------


async def challenge_of(stub, node="hospital-a", role="site"):
    return await stub.GetChallenge(
        pb.ChallengeRequest(protocol=PROTOCOL, trust_domain=TRUST_DOMAIN, node=node, role=role, client_random=bytes(32))
    )


async def attest(stub, challenge_id, raw):
    try:
        return await stub.Attest(pb.AttestRequest(challenge_id=challenge_id, attestation=raw))
    except grpc.aio.AioRpcError as error:
        raise error_of(error, what="the attestation service") from error


def challenge_id_of(raw):
    return bytes.fromhex(json.loads(pb.Attestation.FromString(raw).core)["cid"])


async def test_same_bytes_for_the_same_challenge_are_answered_identically(lab):
    identity = await lab.enrolment("hospital-a").attest("issue")
    async with lab.enrol_stub() as stub:
        replies = [await attest(stub, challenge_id_of(identity.attestation), identity.attestation) for _ in range(2)]
    assert [reply.result for reply in replies] == [identity.token] * 2
    assert [reply.certificate for reply in replies] == [identity.certificate_pem] * 2


async def test_same_bytes_for_a_new_challenge_are_refused(lab):
    identity = await lab.enrolment("hospital-a").attest("issue")
    async with lab.enrol_stub() as stub:
        challenge = await challenge_of(stub)
        error = await refused(attest(stub, challenge.challenge_id, identity.attestation))
    assert error.code == "attestation.binding"
    assert "challenge id of the core" in error.message


async def test_other_bytes_for_a_used_challenge_are_refused(lab):
    one, other = [await lab.enrolment("hospital-a").attest("issue") for _ in range(2)]
    async with lab.enrol_stub() as stub:
        error = await refused(attest(stub, challenge_id_of(one.attestation), other.attestation))
    assert error.code == "attestation.replay"


async def test_challenge_that_was_never_given_out_is_refused(lab):
    identity = await lab.enrolment("hospital-a").attest("issue")
    async with lab.enrol_stub() as stub:
        error = await refused(attest(stub, bytes(16), identity.attestation))
    assert error.code == "attestation.replay"


async def test_attestation_that_was_refused_is_not_accepted_when_it_is_repeated(lab):
    identity = await lab.enrolment("hospital-a").attest("issue")
    async with lab.enrol_stub() as stub:
        challenge = await challenge_of(stub)
        codes = [(await refused(attest(stub, challenge.challenge_id, identity.attestation))).code for _ in range(2)]
    assert codes == ["attestation.binding", "attestation.replay"]


@pytest.mark.parametrize(("node", "role"), [("hospital-z", "site"), ("hospital-a", "server"), ("hospital-a", "")])
async def test_challenge_for_who_is_not_in_the_roster_in_this_role_is_refused(lab, node, role):
    async with lab.enrol_stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await challenge_of(stub, node, role)
    assert error_of(caught.value, what="the attestation service").code == "policy.denied"


# --- machines that are not the granted one ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "code", "reason"),
    [
        ("debug", {"debug": True}, "attestation.appraisal", "snp.policy.debug"),
        ("wrong-image", {"measurement": bytes(48)}, "attestation.appraisal", "runs an image"),
        ("stale-tcb", {"tcb": STALE_TCB}, "attestation.appraisal", "snp.reported_tcb"),
        ("other-chip", {"chip": "somebody else's"}, "attestation.appraisal", "snp-chip-id"),
        ("chip-of-peer", {"chip": "hospital-b"}, "attestation.appraisal", "snp-chip-id"),
        ("gpu-of-peer", {"gpus": [gpu_of("hospital-b")]}, "attestation.appraisal", "gpu-ueid"),
        ("no-gpu", {"gpus": []}, "attestation.appraisal", "devices.gpu"),
        ("old-driver", {"driver": "535.104.05"}, "attestation.appraisal", "gpu.driver_version"),
        ("one-gpu-twice", {"gpus": [gpu_of("hospital-a")] * 2}, "attestation.binding", "the same device"),
        ("other-init-data", {"init_data": b"{}"}, "attestation.binding", "HOST_DATA"),
    ],
)
async def test_machine_that_is_not_the_granted_one_is_refused(lab, name, changes, code, reason):
    lab.launch(name, node="hospital-a", **changes)
    error = await refused(lab.enrolment("hospital-a", machine=name).attest("issue"))
    assert error.code == code
    assert reason in error.message


@dataclass
class Lent:
    """A machine whose GPU evidence comes from somewhere else."""

    own: Attester
    other: Attester
    recorded: list[DeviceEvidence] = field(default_factory=list)  # evidence that was made for another nonce

    def describe(self):
        return self.own.describe()

    def collect_cpu(self, report_data):
        return self.own.collect_cpu(report_data)

    def collect_device(self, index, nonce):
        return self.recorded[index] if self.recorded else self.other.collect_device(index, nonce)


async def test_gpu_that_answers_from_another_machine_is_refused(lab):
    attester = Lent(lab.attester("hospital-a"), lab.attester("hospital-b"))
    error = await refused(lab.enrolment("hospital-a", attester=attester).attest("issue"))
    assert error.code == "attestation.appraisal"
    assert "gpu-ueid" in error.message


async def test_gpu_evidence_of_another_session_is_refused(lab):
    own = lab.attester("hospital-a")
    attester = Lent(own, own, recorded=[own.collect_device(0, bytes(32))])
    error = await refused(lab.enrolment("hospital-a", attester=attester).attest("issue"))
    assert error.code == "attestation.binding"
    assert "nonce" in error.message


async def test_evidence_under_a_core_that_it_was_not_made_for_is_refused(lab):
    identity = await lab.enrolment("hospital-a").attest("issue")
    async with lab.enrol_stub() as stub:
        challenge = await challenge_of(stub)
        message = pb.Attestation.FromString(identity.attestation)
        core = json.loads(message.core) | {"cid": challenge.challenge_id.hex(), "nonce": challenge.nonce.hex()}
        message.core = json.dumps(core | {"crand": bytes(32).hex()}).encode()
        error = await refused(attest(stub, challenge.challenge_id, message.SerializeToString()))
    assert error.code == "attestation.binding"
    assert "report data" in error.message


async def test_machine_of_another_site_cannot_enrol_as_this_one(lab):
    error = await refused(lab.enrolment("hospital-a", machine="hospital-b").attest("issue"))
    assert error.code == "attestation.binding"


async def test_node_without_a_machine_says_so(lab):
    with pytest.raises(AttesterUnavailableError, match="no TEE device at") as caught:
        await lab.enrolment("hospital-a", machine="nowhere").attest("issue")
    assert "was this machine launched" in caught.value.hint


# --- the service must prove itself first -----------------------------------------------------------------------------


async def test_node_does_not_speak_to_a_service_that_its_root_does_not_name(lab, tmp_path):
    async with laboratory(tmp_path / "lab", sites={"hospital-a": "north"}) as other:
        enrolment = lab.enrolment("hospital-a", service=other.service)
        with pytest.raises(UnreachableError, match="handshake failed"):
            await enrolment.attest("issue")


async def test_service_that_was_restarted_is_verified_again_and_has_kept_its_root(tmp_path):
    async with laboratory(tmp_path / "lab", sites={"hospital-a": "north"}) as lab:
        enrolment = lab.enrolment("hospital-a")
        before = await enrolment.attest("issue")
        await lab.stop_service()
        await lab.start_service()
        with pytest.raises(UnreachableError) as caught:  # its TLS key was of the boot that ended
            await enrolment.attest("issue")
        after = await enrolment.attest("issue")
    assert caught.value.retryable
    assert before.result.cnf == after.result.cnf
