"""A laboratory is founded and granted, by the real provisioner against the real service and the mock TEE."""

import asyncio
import contextlib
import shutil
import ssl
import tomllib
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import pytest_asyncio
from click.testing import CliRunner
from cryptography import x509

from attestation.channel.caller import Administrator, CallerPolicy, identify
from attestation.channel.credentials import (
    RotatingServerCredentials,
    TlsIdentity,
    key_pem,
    new_tls_key,
    open_channel,
    service_dns_name,
)
from attestation.channel.status import RemoteError, UnreachableError
from attestation.core import ServiceInitData
from attestation.errors import AppraisalError, BindingMismatchError, SignatureError
from attestation.issue import CertificateAuthority
from attestation.mock_tee.machines import chip_id_of
from attestation.node import load_kit, open_site_policy
from attestation.service import attestation_pb2 as pb
from attestation.service import attestation_pb2_grpc as rpc
from attestation.service.edge import EnrolEdge
from attestation.service.limits import RateLimit
from fl_runtime.jobs.credentials import AdministratorSettings, load_credentials
from fl_runtime.server.settings import ServerSettings
from fl_runtime.site.settings import SiteSettings
from policies import grant as grant_document
from policies.documents import Envelope, raw_public_key
from policies.errors import UsageError
from policies.grant import Grant
from policies.settings import load_settings
from provisioning.cli import provision
from provisioning.contact import install_root, load_anchors, meet_service
from provisioning.errors import LaboratoryError, StepError, UnexpectedMachineError
from provisioning.genesis import load_documents, load_trust, run_genesis
from provisioning.grants import grant_nodes
from provisioning.layout import Laboratory
from tests.fakes.federation import IMAGE, TRUST_DOMAIN, found, laboratory, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

SITES = {"hospital-a": "north"}


def now():
    return datetime.now(UTC)


async def grant(lab, *nodes):
    return await asyncio.to_thread(lambda: list(grant_nodes(lab.laboratory, nodes=nodes or None, now=now())))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory):
    """A laboratory that is founded and granted; tests here only read it, or renew a grant."""
    async with laboratory(tmp_path_factory.mktemp("genesis") / "lab", sites=SITES) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unfounded(tmp_path_factory):
    """A laboratory whose attestation service waits for its first root, in vain."""
    async with serving(tmp_path_factory.mktemp("unfounded") / "lab", sites=SITES) as running:
        yield running.laboratory


@pytest.fixture
def copy(unfounded, tmp_path):
    """The files of `unfounded`, to be changed: the service that runs is the same."""
    shutil.copytree(unfounded.directory, tmp_path / "lab", ignore=shutil.ignore_patterns("*.sock"))
    return Laboratory(tmp_path / "lab", unfounded.layout)


@pytest_asyncio.fixture(loop_scope="module")
async def waiting(tmp_path):
    """A laboratory of its own whose attestation service waits for its first root."""
    async with serving(tmp_path / "lab", sites=SITES) as running:
        yield running


# --- genesis ---------------------------------------------------------------------------------------------------------


async def test_kits_hold_documents_that_open_for_their_node(lab):
    for node, member in lab.laboratory.nodes.items():
        documents = load_kit(lab.laboratory.kit(node), now=now())
        assert documents.trust.roster.member(node) == member
        assert documents.trust.root.mock
    policy = open_site_policy(load_kit(lab.laboratory.kit("hospital-a"), now=now()), now=now())
    assert policy.receive.server_images == {IMAGE}
    assert policy.receive.accept_mock


async def test_administrator_is_one_to_who_follows_the_root_and_never_counts_as_attested(lab):
    policy = CallerPolicy(root=lab.documents("server").trust.root, revocation_epoch=lambda: 0, accept_mock=True)
    certificate = (lab.laboratory.kit("admin") / "admin.pem").read_bytes()
    assert identify(certificate, policy, now=now()) == Administrator(name="admin")


async def test_service_answers_that_it_has_its_root_once_it_takes_attestations():
    class Installing:
        def install(self, **_):
            return bytes(32)

    limit = RateLimit("challenges", 1, 1, lambda: 0.0)
    edge = EnrolEdge(Installing(), challenge_limit=limit, verify_queue=1)
    answer = asyncio.create_task(edge.InstallRoot(pb.InstallRootRequest(), None))
    await asyncio.sleep(0.05)
    assert not answer.done()
    edge.open(None)
    assert (await answer).root_sha256 == bytes(32)


async def test_settings_of_every_kit_say_where_its_program_finds_the_others(lab):
    made, addresses = lab.laboratory, lab.laboratory.layout.addresses
    service = {"kit": ".", "service_enrol": addresses.enrol, "service_attested": addresses.attested}
    server = {"server": addresses.server, "server_node": "server"}

    def folders(node):
        return {name: str(made.directory / name / node) for name in ("state", "audit")}

    def tee_socket(node):
        return {"tee_socket": str(made.tee_socket(node))}

    def settings(node, program):
        return tomllib.loads((made.kit(node) / f"{program}.toml").read_text())

    listen = {"listen": addresses.server}
    assert settings("server", "server") == {**service, **listen, **tee_socket("server"), **folders("server")}
    own = {
        "data": str(made.directory / "data" / "hospital-a.npz"),
        "work": str(made.directory / "state" / "hospital-a" / "work"),
        "trainer_threads": 1,
    }
    site = {**service, **server, **tee_socket("hospital-a"), **folders("hospital-a"), **own}
    assert settings("hospital-a", "site") == site
    keys = {"certificate": "admin.pem", "key": "admin.key", "signing_key": "submitter.key"}
    assert settings("admin", "admin") == {"name": "admin", **service, **server, **keys}
    assert all((made.kit("admin") / name).is_file() for name in keys.values())


async def test_kits_are_what_the_programs_read(lab):
    kit = lab.laboratory.kit
    assert load_settings(kit("server") / "server.toml", ServerSettings).kit == kit("server")
    assert load_settings(kit("hospital-a") / "site.toml", SiteSettings).kit == kit("hospital-a")
    administrator = load_settings(kit("admin") / "admin.toml", AdministratorSettings)
    credentials = load_credentials(administrator, now=now())
    policy = open_site_policy(load_kit(kit("hospital-a"), now=now()), now=now())
    assert policy.execute.submitters == {raw_public_key(credentials.submitter.signing_key)}


async def test_genesis_that_is_run_again_signs_nothing_and_keeps_edited_kits(waiting):
    await found(waiting)
    settings = waiting.laboratory.kit("hospital-a") / "site.toml"
    settings.write_text("edited = true\n")
    (waiting.laboratory.kit("server") / "server.toml").unlink()
    before = load_documents(waiting.laboratory)
    await run_genesis(waiting.laboratory, image=IMAGE, now=now() + timedelta(hours=1))
    assert load_documents(waiting.laboratory) == before
    assert settings.read_text() == "edited = true\n"
    assert (waiting.laboratory.kit("server") / "server.toml").exists()


async def test_genesis_that_stopped_before_its_root_was_signed_is_continued(waiting):
    waiting.laboratory.document("roster").write_bytes(b"left over")
    await found(waiting)
    assert load_trust(waiting.laboratory, now=now()).root.trust_domain == TRUST_DOMAIN


async def test_second_root_is_refused_by_the_service(waiting):
    await found(waiting)
    first = load_documents(waiting.laboratory)
    shutil.rmtree(waiting.laboratory.directory / "documents")
    (waiting.laboratory.directory / "documents").mkdir()
    with pytest.raises(RemoteError, match="has a root already") as caught:
        await run_genesis(waiting.laboratory, image=IMAGE, now=now() + timedelta(hours=1))
    assert caught.value.code == "state"
    assert load_documents(waiting.laboratory) != first


async def test_service_of_another_image_is_not_given_a_root(copy):
    with pytest.raises(AppraisalError, match="measurement"):
        await run_genesis(copy, image=bytes(48), now=now())
    assert not copy.document("root").exists()


@pytest.mark.parametrize("change", [{"threshold": 2}, {"organisation_keys": (bytes(32), bytes(range(32)))}])
async def test_service_that_was_launched_for_others_is_not_given_a_root(copy, change):
    path = copy.service_init_data
    expected = ServiceInitData.parse(path.read_bytes()).model_copy(update=change)
    path.write_bytes(expected.encode())
    with pytest.raises(UnexpectedMachineError, match="was launched for other organisations"):
        await run_genesis(copy, image=IMAGE, now=now())
    assert not copy.document("root").exists()


async def test_service_whose_debug_machine_is_genuine_is_not_given_a_root(waiting):
    hypervisor, launched = waiting.hypervisor, waiting.laboratory.service_init_data.read_bytes()
    await asyncio.to_thread(hypervisor.destroy, "attestation")
    await asyncio.to_thread(
        lambda: waiting.launch("attestation", node="attestation", init_data=launched, gpus=(), debug=True)
    )
    with pytest.raises(AppraisalError, match=r"policy\.debug"):
        await run_genesis(waiting.laboratory, image=IMAGE, now=now())


async def test_service_of_a_vendor_that_is_not_pinned_is_not_given_a_root(copy):
    anchors = copy.tee / "anchors.json"
    anchors.write_text(f'[{{"vendor":"amd","product":"Milan","sha256":"{"00" * 32}"}}]')
    with pytest.raises(SignatureError, match="expected one of the pinned amd roots"):
        await run_genesis(copy, image=IMAGE, now=now())


async def test_service_that_lost_its_keys_is_not_given_the_old_root(waiting):
    await found(waiting)
    await waiting.stop_service()
    shutil.rmtree(waiting.laboratory.state("attestation"))
    shutil.rmtree(waiting.laboratory.audit("service"))
    await waiting.start_service()
    with pytest.raises(BindingMismatchError, match="node authority"):
        await run_genesis(waiting.laboratory, image=IMAGE, now=now())


async def test_service_that_does_not_run_is_named(waiting):
    await waiting.stop_service()
    with pytest.raises(UnreachableError, match="cannot be reached") as caught:
        await run_genesis(waiting.laboratory, image=IMAGE, now=now())
    assert "cloister attestation serve" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, StepError),
        (b"[]", LaboratoryError),
        (b"{", LaboratoryError),
        (b'[{"vendor":"amd"}]', LaboratoryError),
        (b'[{"vendor":"acme","product":"x","sha256":"00"}]', LaboratoryError),
    ],
)
async def test_anchors_that_are_missing_or_malformed_are_named(copy, content, error):
    anchors = copy.tee / "anchors.json"
    anchors.unlink() if content is None else anchors.write_bytes(content)
    with pytest.raises(error, match=r"anchors\.json"):
        await run_genesis(copy, image=IMAGE, now=now())


@pytest.mark.parametrize("content", [None, b"{}", b"not JSON"])
async def test_init_data_of_the_service_that_is_missing_or_malformed_is_named(copy, content):
    path = copy.service_init_data
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(LaboratoryError, match=r"init-data\.json"):
        await run_genesis(copy, image=IMAGE, now=now())


async def test_authority_of_administrators_that_is_missing_is_named(copy):
    (copy.administration / "authority.pem").unlink()
    with pytest.raises(LaboratoryError, match="authority"):
        await run_genesis(copy, image=IMAGE, now=now())
    assert not copy.document("root").exists()


class Relay(rpc.EnrolServicer):
    """Stands between the provisioner and the service, with a certificate of its own; passes evidence on."""

    def __init__(self, service):
        self.service = service
        self.asked = 0
        self.installed = 0

    async def GetServiceEvidence(self, request, context):
        self.asked += 1
        host, _, port = self.service.rpartition(":")
        leaf = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
        name = service_dns_name(TRUST_DOMAIN)
        async with open_channel(self.service, trusted_pem=leaf.encode(), name=name) as channel:
            return await rpc.EnrolStub(channel).GetServiceEvidence(request)

    async def InstallRoot(self, request, context):
        self.installed += 1
        return pb.InstallRootReply()


@contextlib.asynccontextmanager
async def relaying(service):
    authority, key = CertificateAuthority.create("relay", now=now(), lifetime=timedelta(days=1)), new_tls_key()
    certificate = authority.issue(
        key.public_key(),
        names=[x509.DNSName(service_dns_name(TRUST_DOMAIN))],
        not_before=now(),
        not_after=now() + timedelta(days=1),
        server=True,
    )
    server, relay = grpc.aio.server(), Relay(service)
    rpc.add_EnrolServicer_to_server(relay, server)
    credentials = RotatingServerCredentials(TlsIdentity(key_pem(key), certificate), client_roots_pem=None)
    port = server.add_secure_port("127.0.0.1:0", credentials.credentials())
    await server.start()
    try:
        yield relay, port
    finally:
        await server.stop(None)


async def test_relay_between_provisioner_and_service_is_never_given_the_root(copy):
    async with relaying(copy.layout.addresses.enrol) as (relay, port):
        addresses = copy.layout.addresses.model_copy(update={"enrol": f"127.0.0.1:{port}"})
        relayed = Laboratory(copy.directory, copy.layout.model_copy(update={"addresses": addresses}))
        with pytest.raises(UnreachableError, match="handshake failed"):
            await run_genesis(relayed, image=IMAGE, now=now())
        assert (relay.asked, relay.installed) == (1, 0)


async def test_root_of_organisations_that_the_service_was_not_launched_for_is_refused_by_it(copy, lab):
    root, roster, reference = load_documents(lab.laboratory)
    service = await meet_service(
        copy,
        image=IMAGE,
        launched_for=ServiceInitData.parse(copy.service_init_data.read_bytes()),
        anchors=load_anchors(copy.tee / "anchors.json"),
        now=now(),
    )
    with pytest.raises(RemoteError, match="0 valid signatures") as caught:
        await install_root(copy, service, root=root, roster=roster, reference_values=reference)
    assert caught.value.code == "policy.signature"


# --- grants ----------------------------------------------------------------------------------------------------------


def read_grant(lab, node):
    envelope = Envelope.parse((lab.laboratory.kit(node) / "grant.json").read_bytes())
    keys = [lab.documents(node).trust.organisation_key(node)]
    return envelope.open(Grant, grant_document.KIND, keys), envelope.digest


async def test_grant_names_the_hardware_and_image_of_the_nodes_own_machine(lab):
    granted, _ = read_grant(lab, "hospital-a")
    assert granted.allows("snp-chip-id", chip_id_of("hospital-a"))
    assert not granted.allows("snp-chip-id", chip_id_of("server"))
    assert [item.kind for item in granted.hardware] == ["snp-chip-id", "gpu-ueid"]
    assert granted.images == {IMAGE}
    assert (granted.organisation, granted.role, granted.tier) == ("north", "site", "attested")
    assert granted.expires_at - granted.issued_at == timedelta(days=30)


async def test_grant_that_is_signed_again_succeeds_the_one_before_it(lab):
    before, digest = read_grant(lab, "hospital-a")
    (renewed,) = await grant(lab, "hospital-a")
    assert (renewed.grant.version, renewed.grant.previous) == (before.version + 1, digest)
    assert renewed.grant.hardware == before.hardware
    assert read_grant(lab, "hospital-a")[1] == renewed.sha256
    assert (await lab.enrolment("hospital-a").attest("issue")).result.node == "hospital-a"


@pytest.mark.parametrize(
    ("change", "what"), [({"init_data": b"{}"}, "init_data"), ({"measurement": bytes(48)}, "image")]
)
async def test_machine_that_was_launched_for_something_else_is_not_granted(waiting, change, what):
    await found(waiting)
    await asyncio.to_thread(lambda: waiting.launch("hospital-a", node="hospital-a", **change))
    with pytest.raises(UnexpectedMachineError, match=f"launched with {what}"):
        await grant(waiting, "hospital-a")
    assert not (waiting.laboratory.kit("hospital-a") / "grant.json").exists()


async def test_grants_before_genesis_say_what_to_do_first(copy):
    with pytest.raises(StepError, match="has not been founded") as caught:
        list(grant_nodes(copy, now=now()))
    assert "cloister provision genesis" in caught.value.hint


async def test_grant_for_a_node_that_is_not_in_the_laboratory_is_refused(lab):
    with pytest.raises(UsageError, match="there is no node 'hospital-z'"):
        await grant(lab, "hospital-z")


# --- commands --------------------------------------------------------------------------------------------------------


async def test_commands_found_a_laboratory_and_print_what_they_did(waiting):
    async def run(*arguments):
        result = await asyncio.to_thread(CliRunner().invoke, provision, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    told = await run("genesis", str(waiting.dir), "--image-measurement", IMAGE.hex())
    assert "attestation service verified" in told
    assert "k = 1" in told
    for node in waiting.laboratory.nodes:
        await asyncio.to_thread(waiting.launch, node, node=node)
    told = await run("grants", str(waiting.dir), "--node", "hospital-a")
    assert "hospital-a may run on (grant 1 of north" in told
    assert chip_id_of("hospital-a").hex()[:32] in told
