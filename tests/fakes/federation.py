"""A laboratory federation for tests: the real provisioner, the mock TEE and the attestation service as processes.

    async with laboratory(tmp_path / "lab") as lab:
        identity = await lab.enrolment("hospital-a").attest("issue")

Every node's machine runs and is granted. A test that needs another machine launches it: `lab.launch("open", node="hospital-a",
debug=True)`, and lets the node's enrolment use it: `lab.enrolment("hospital-a", machine="open")`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from attestation.attester import Attester, SocketAttester
from attestation.channel.credentials import open_channel, pem, service_dns_name
from attestation.enrolment import AuditHead, Enrolment, NodeDocuments, ServiceAddress
from attestation.keys import BootKeys
from attestation.mock_tee.control import Hypervisor
from attestation.mock_tee.gpu import DRIVER_VERSION
from attestation.mock_tee.machines import CURRENT_TCB, GpuLaunch, Launch, MilanTcb, chip_id_of, snp_launch
from attestation.mock_tee.vendor import VENDOR_FILE, open_vendor
from attestation.node import load_kit
from attestation.service import attestation_pb2_grpc as rpc
from policies.init_data import init_data_digest
from provisioning.genesis import load_trust, run_genesis
from provisioning.grants import grant_nodes
from provisioning.kits import INIT_DATA
from provisioning.laboratory import create_laboratory, default_sites
from provisioning.layout import ATTESTATION, Laboratory

IMAGE = bytes(range(48))  # stands for the released image
TRUST_DOMAIN = "test.cloister.mock"
READY_SECONDS = 30.0
STOP_SECONDS = 10.0

_CLOISTER = "import sys; from policies.command import main; sys.exit(main())"


@dataclass(frozen=True, kw_only=True)
class RunningLaboratory:
    """A laboratory whose mock TEE and attestation service run."""

    laboratory: Laboratory
    running: contextlib.AsyncExitStack  # the attestation service

    async def start_service(self) -> None:
        made = self.laboratory
        serve = ("attestation", "serve", "--config", str(made.service_settings))
        await self.running.enter_async_context(_program(made, "attestation", *serve))

    async def stop_service(self) -> None:
        await self.running.aclose()

    @property
    def dir(self) -> Path:
        return self.laboratory.directory

    @property
    def hypervisor(self) -> Hypervisor:
        return Hypervisor(self.laboratory.tee)

    @property
    def service(self) -> ServiceAddress:
        addresses = self.laboratory.layout.addresses
        return ServiceAddress(enrol=addresses.enrol, attested=addresses.attested)

    def launch(
        self,
        machine: str,
        *,
        node: str,
        init_data: bytes | None = None,
        measurement: bytes = IMAGE,
        chip: str | None = None,
        gpus: Sequence[str] | None = None,
        driver: str = DRIVER_VERSION,
        debug: bool = False,
        tcb: MilanTcb = CURRENT_TCB,
    ) -> Path:
        """Launch a machine on `node`'s hardware with `node`'s init_data, except for what is said; returns its TEE device."""
        raw = (self.laboratory.kit(node) / INIT_DATA).read_bytes() if init_data is None else init_data
        return self.hypervisor.launch(
            Launch(
                name=machine,
                snp=snp_launch(
                    chip_id=chip_id_of(chip or node),
                    measurement=measurement,
                    host_data=init_data_digest(raw),
                    debug=debug,
                    tcb=tcb,
                ),
                gpus=tuple(
                    GpuLaunch(serial=serial, driver_version=driver)
                    for serial in ([gpu_of(node)] if gpus is None else gpus)
                ),
            )
        )

    def documents(self, node: str) -> NodeDocuments:
        return load_kit(self.laboratory.kit(node), now=datetime.now(UTC))

    def enrolment(
        self,
        node: str,
        *,
        machine: str | None = None,
        attester: Attester | None = None,
        keys: BootKeys | None = None,
        service: ServiceAddress | None = None,
    ) -> Enrolment:
        """Return an enrolment of `node` that is ready to attest: on its own machine and here, unless told otherwise."""
        return Enrolment(
            self.documents(node),
            attester=attester or self.attester(machine or node),
            service=service or self.service,
            keys=keys or BootKeys.generate(),
            clock=lambda: datetime.now(UTC),
            audit_head=lambda: AuditHead(0, bytes(32)),
        )

    def attester(self, machine: str) -> SocketAttester:
        return SocketAttester(self.laboratory.tee_socket(machine))

    @contextlib.asynccontextmanager
    async def enrol_stub(self) -> AsyncIterator[rpc.EnrolStub]:
        """Open a plain channel to the enrol port, for tests that speak its protocol themselves."""
        root = load_trust(self.laboratory, now=datetime.now(UTC)).root
        channel = open_channel(
            self.service.enrol,
            trusted_pem=pem(root.service.ca_certificate),
            name=service_dns_name(root.trust_domain),
        )
        async with channel:
            yield rpc.EnrolStub(channel)


def gpu_of(node: str) -> str:
    """The serial number of a node's GPU."""
    return f"H100-{node}"


@contextlib.asynccontextmanager
async def laboratory(directory: Path, *, sites: Mapping[str, str] | None = None) -> AsyncIterator[RunningLaboratory]:
    """Bring up a whole laboratory: founded, every node's machine launched and granted."""
    async with serving(directory, sites=sites) as lab:
        await found(lab)
        for node in lab.laboratory.nodes:
            await asyncio.to_thread(lab.launch, node, node=node)
        await asyncio.to_thread(lambda: list(grant_nodes(lab.laboratory, now=datetime.now(UTC))))
        yield lab


@contextlib.asynccontextmanager
async def serving(directory: Path, *, sites: Mapping[str, str] | None = None) -> AsyncIterator[RunningLaboratory]:
    """Bring up a laboratory whose attestation service runs and waits for its first root."""
    made = create_laboratory(
        directory, sites=sites or default_sites(4), trust_domain=TRUST_DOMAIN, base_port=0, now=datetime.now(UTC)
    )
    (made.tee / VENDOR_FILE).write_bytes(await asyncio.to_thread(vendor_file))
    async with (
        _program(made, "mock-tee", "mock-tee", "serve", "--config", str(made.mock_tee_settings)),
        contextlib.AsyncExitStack() as running,
    ):
        lab = RunningLaboratory(laboratory=made, running=running)
        await _run(made, "roots", "mock-tee", "roots", "--dir", str(made.tee))
        init_data = made.service_init_data.read_bytes()
        await asyncio.to_thread(lab.launch, ATTESTATION, node=ATTESTATION, init_data=init_data, gpus=())
        await lab.start_service()
        yield lab


async def found(lab: RunningLaboratory) -> None:
    """Sign the first documents and write the kits."""
    await run_genesis(lab.laboratory, image=IMAGE, now=datetime.now(UTC))


@functools.cache
def vendor_file() -> bytes:
    """The mock vendor of this test session: its RSA keys take seconds to make."""
    with tempfile.TemporaryDirectory() as folder:
        open_vendor(Path(folder), now=datetime.now(UTC))
        return (Path(folder) / VENDOR_FILE).read_bytes()


# --- processes -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _program(made: Laboratory, name: str, *arguments: str) -> AsyncIterator[None]:
    """Run a program from when it says that it serves until the block ends; then stop it as an operator would."""
    process, output = _start(made, name, *arguments)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not any(word in output.read_text() for word in ("ready", "has no root yet")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{name} did not start: {output.read_text()}")
            await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.returncode == 0, f"{name} ended with {process.returncode}: {output.read_text()}"


async def _run(made: Laboratory, name: str, *arguments: str) -> None:
    process, output = _start(made, name, *arguments)
    status = await asyncio.to_thread(process.wait)
    assert status == 0, f"{name} ended with {status}: {output.read_text()}"


def _start(made: Laboratory, name: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
    output = made.directory / f"{name}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _CLOISTER, *arguments], stdout=log, stderr=subprocess.STDOUT, env={**os.environ}
        )
    return process, output
