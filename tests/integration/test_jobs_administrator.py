"""An administrator against the real attestation service, with a server that holds a real identity: who is told what, when."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

import grpc
import numpy as np
import pytest
from cryptography import x509

from attestation.channel.caller import Administrator, CallerPolicy
from attestation.channel.credentials import (
    SERVER_OPTIONS,
    RotatingServerCredentials,
    TlsIdentity,
    key_pem,
    new_tls_key,
    pem,
    server_dns_name,
)
from attestation.channel.interceptor import Edge, administrator, utc_now
from attestation.channel.status import RemoteError, UnreachableError
from attestation.enrolment import Enrolment, Identity
from attestation.errors import AppraisalError, AttestationError
from attestation.issue import CertificateAuthority
from attestation.program import bind
from fl_runtime.arrays import encode
from fl_runtime.errors import JobRefusedError
from fl_runtime.jobs import administrator as module
from fl_runtime.jobs.administrator import AdministratorSettings, Session
from fl_runtime.jobs.archive import read
from fl_runtime.jobs.credentials import load_credentials
from fl_runtime.jobs.job_file import load_job
from fl_runtime.jobs.model_blob import open_model, seal_model
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport import federation_pb2_grpc as rpc
from fl_runtime.transport.sealed import SealingKey
from policies.documents import Envelope
from policies.job_manifest import JobManifest, job_digest, open_job
from policies.settings import load_settings
from tests.fakes.federation import TRUST_DOMAIN, RunningLaboratory, laboratory

ARRAYS = {"weight": np.arange(12, dtype=np.float32).reshape(3, 4)}
TRAINED = {"weight": np.full((3, 4), 0.5, np.float32)}


@pytest.fixture
async def lab(tmp_path) -> AsyncIterator[RunningLaboratory]:
    async with laboratory(tmp_path / "lab") as running:
        yield running


@dataclass
class FakeServer(rpc.JobsServicer):
    """Takes a job, pretends to run it, and gives back another model, sealed with a key that the test hands in."""

    parts: dict[str, bytes] = field(default_factory=dict)
    callers: list[Administrator] = field(default_factory=list)
    key: SealingKey | None = None

    @property
    def manifest(self) -> JobManifest:
        return open_job(Envelope.parse(self.parts["manifest"]))

    async def Submit(self, parts, context):
        self.callers.append(administrator())
        async for part in parts:
            what = part.WhichOneof("what")
            self.parts[what] = self.parts.get(what, b"") + getattr(part, what)
        return pb.SubmitReply(job_id=self.manifest.job)

    async def Watch(self, request, context):
        yield pb.JobEvent(number=0, kind="state", state="running")
        yield pb.JobEvent(number=1, kind="state", state="completed")

    async def List(self, request, context):
        return pb.ListReply()

    async def FetchModel(self, request, context):
        job = self.manifest
        place = {"trust_domain": job.trust_domain, "job": job.job, "round_number": job.rounds}
        yield pb.Chunk(offset=0, data=bytes(seal_model(encode(TRAINED), self.key, **place)))


@contextlib.asynccontextmanager
async def serving(
    lab: RunningLaboratory, identity: TlsIdentity, fake: FakeServer
) -> AsyncIterator[RotatingServerCredentials]:
    """Serve `fake` at the server's address, as `identity`."""
    root = lab.documents("server").trust.root
    policy = CallerPolicy(root=root, revocation_epoch=lambda: 0, accept_mock=True)
    roots = pem(root.service.ca_certificate) + pem(root.admin_ca_certificate)
    server = grpc.aio.server(interceptors=[Edge(lambda: policy, clock=utc_now)], options=SERVER_OPTIONS)
    rpc.add_JobsServicer_to_server(fake, server)
    credentials = RotatingServerCredentials(identity, client_roots_pem=roots)
    bind(server, lab.laboratory.layout.addresses.server, credentials)
    await server.start()
    try:
        yield credentials
    finally:
        await server.stop(None)


async def attested(enrolment: Enrolment) -> Identity:
    return await enrolment.attest("issue")


async def session(lab: RunningLaboratory, said: list[str] | None = None) -> Session:
    settings = load_settings(lab.laboratory.kit("admin") / "admin.toml", AdministratorSettings)
    return await Session.open(settings, say=(said if said is not None else []).append)


def job_folder(path):
    path.mkdir()
    (path / "job.toml").write_text('name = "digits"\nrounds = 2\n')
    (path / "train.py").write_text("pass\n")
    (path / "model.safetensors").write_bytes(encode(ARRAYS))
    return path


@pytest.fixture
def package(tmp_path):
    return load_job(job_folder(tmp_path / "job"))


async def test_job_is_submitted_to_a_verified_server_and_its_model_comes_back(lab, package, tmp_path):
    fake, said = FakeServer(), []
    identity = await attested(lab.enrolment("server"))
    async with serving(lab, identity.tls, fake):
        admin = await session(lab, said)
        job = await admin.submit(package)
        events = [event.state async for event in admin.watch(job.job_id)]
        fake.key = job.key
        size = await admin.fetch_model(job.job_id, tmp_path / "out.safetensors")
    assert [line.split(" verified")[0] for line in said[:2]] == [
        f"attestation service of {TRUST_DOMAIN}",
        "server server of consortium",
    ]
    assert "nothing here is attested by hardware" in said[1]
    assert fake.manifest == job.manifest
    assert list(read(fake.parts["code"])) == ["train.py"]
    place = {"trust_domain": TRUST_DOMAIN, "job": job.job_id, "round_number": 0}
    assert open_model(fake.parts["model"], job.key, **place) == encode(ARRAYS)
    assert fake.callers == [Administrator(name="admin")]
    assert events == ["running", "completed"]
    assert (tmp_path / "out.safetensors").read_bytes() == encode(TRAINED)
    assert size == len(encode(TRAINED))
    assert admin.sites_of(job.job_id) == 4
    assert job.digest == job_digest(Envelope.parse(fake.parts["manifest"]).payload)


async def test_server_that_has_not_attested_is_sent_nothing(lab, package):
    fake = FakeServer()
    with pytest.raises(RemoteError, match="no attestation of server is archived"):
        await (await session(lab)).submit(package)
    assert not fake.parts


async def test_server_that_does_not_hold_the_attested_key_is_sent_nothing(lab, package, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_PAUSE_SECONDS", 0)
    await attested(lab.enrolment("server"))
    other = new_tls_key()
    stranger = await attested(lab.enrolment("hospital-a"))
    fake = FakeServer()
    for identity in (stranger.tls, TlsIdentity(key_pem(other), _self_signed(other))):
        async with serving(lab, identity, fake):
            with pytest.raises(UnreachableError, match="does not hold the key that it attested"):
                await (await session(lab)).submit(package)
    assert not fake.parts


async def test_site_that_claims_to_be_the_server_is_sent_nothing(lab, package):
    await attested(lab.enrolment("hospital-a"))
    settings = load_settings(lab.laboratory.kit("admin") / "admin.toml", AdministratorSettings)
    admin = await Session.open(settings.model_copy(update={"server_node": "hospital-a"}), say=[].append)
    with pytest.raises(JobRefusedError, match="hospital-a is a site in the roster, expected a server"):
        await admin.submit(package)
    with pytest.raises(AttestationError, match="role is site, expected server"):
        await admin.list_jobs()


async def test_server_that_rotates_its_certificate_is_verified_again(lab):
    enrolment, fake = lab.enrolment("server"), FakeServer()
    first = await attested(enrolment)
    async with serving(lab, first.tls, fake) as credentials:
        admin = await session(lab)
        assert await admin.list_jobs() == ()
        credentials.rotate((await attested(enrolment)).tls)
        assert await admin.list_jobs() == ()


async def test_service_with_another_image_than_the_root_names_is_told_nothing(lab, monkeypatch):
    def load(settings, *, now):
        loaded = load_credentials(settings, now=now)
        root = loaded.trust.root
        pinned = root.service.model_copy(update={"image": bytes(48)})
        trust = replace(loaded.trust, root=root.model_copy(update={"service": pinned}))
        return replace(loaded, trust=trust)

    monkeypatch.setattr(module, "load_credentials", load)
    with pytest.raises(AppraisalError, match="not the one that the root names"):
        await session(lab)


async def test_service_that_is_not_there_is_told_in_words(lab):
    settings = load_settings(lab.laboratory.kit("admin") / "admin.toml", AdministratorSettings)
    with pytest.raises(UnreachableError, match=r"the attestation service at 127\.0\.0\.1:1 cannot be reached"):
        await Session.open(settings.model_copy(update={"service_enrol": "127.0.0.1:1"}), say=[].append)


def _self_signed(key) -> bytes:
    """A certificate with the server's name, by an authority that nobody trusts."""
    now, lifetime = utc_now(), timedelta(days=1)
    name = x509.DNSName(server_dns_name("server", TRUST_DOMAIN))
    authority = CertificateAuthority.create("nobody", now=now, lifetime=lifetime)
    return authority.issue(key.public_key(), names=[name], not_before=now, not_after=now + lifetime, server=True)
