"""A site that attested, but is not in a job, has no part in it: the server does not take its word, its bytes or its approval."""

import asyncio

import grpc
import pytest

from attestation.channel.credentials import open_channel, server_dns_name
from attestation.channel.status import error_of
from fl_runtime.transport import federation_pb2 as pb
from fl_runtime.transport import federation_pb2_grpc as rpc
from tests.fakes.federation import TRUST_DOMAIN
from tests.fakes.running import NAMES

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOUR, STRANGER = NAMES[:4], NAMES[4]


async def joins(stub, job_id):
    """Wait until the server knows of the control stream: until then it asks for one, whatever is said."""
    async with asyncio.timeout(10):
        while True:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Answer(pb.SiteAnswer(job_id=job_id), timeout=10)
            if error_of(caught.value, what="the server").code != "attestation.reattest":
                return


async def test_site_that_is_not_in_a_job_may_neither_answer_nor_upload_nor_download(fed):
    await fed.stop(STRANGER)
    enrolment = fed.lab.enrolment(STRANGER)
    identity = await enrolment.attest("issue")
    with fed.gates(["hospital-a"], round_number=0):
        job = await fed.submit(sites=FOUR)
        goes_on = await fed.trains("hospital-a", round_number=0)
        shown = await enrolment.fetch_attestation(identity, node="server")
        async with open_channel(
            fed.laboratory.layout.addresses.server,
            trusted_pem=shown.certificate,
            name=server_dns_name("server", TRUST_DOMAIN),
            identity=identity.tls,
        ) as channel:
            stub = rpc.FederationStub(channel)
            joined = stub.Join(pb.JoinRequest(boot=identity.result.boot))
            await joins(stub, job.job_id)
            refusals = []
            for call in (
                stub.Answer(pb.SiteAnswer(job_id=job.job_id, approval=b"{}"), timeout=10),
                stub.Upload(iter([pb.UploadChunk(job_id=job.job_id, attempt=1)]), timeout=10),
                stub.Download(pb.DownloadRequest(job_id=job.job_id, sha256=bytes(32)), timeout=10).read(),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                refusals.append(error_of(caught.value, what="the server"))
            joined.cancel()
        goes_on()
        assert (await job.ended()).state == "completed"
    assert [refusal.code for refusal in refusals] == ["policy.denied"] * 3, refusals
    assert all(f"{STRANGER} is not a site of {job.job_id}" in refusal.message for refusal in refusals)
