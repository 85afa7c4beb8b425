"""From Claims to a finding on each: is this what the organisations expect? No policy language: typed checks and signed values.

One compound reference entry must match as a whole: image, platform and devices together. Nothing is raised here; every
finding is returned, worst first, with what was found, what was expected and what repairs it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from attestation.claims import Claims
from attestation.findings import Finding, worst_first
from attestation.nvidia_gpu import appraise as gpu_appraisal
from attestation.nvidia_gpu.verify import GpuClaims
from attestation.reference_values import ReferenceEntry, ReferenceValues
from attestation.snp import appraise as snp_appraisal
from attestation.snp.appraise import SnpExpectations
from attestation.snp.tcb import Tcb
from attestation.snp.verify import SnpClaims
from policies.attestation_result import Status, Submodule, TrustVector, worst
from policies.grant import HardwareId


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """What the Verifier thinks of one node."""

    reference: str  # name of the entry that the node was compared with; "" where none is for its image
    findings: tuple[Finding, ...]  # worst first
    submods: dict[str, Submodule]  # "cpu0", "gpu0", ...

    @property
    def status(self) -> Status:
        """The worst status of any component."""
        return worst(tuple(part.status for part in self.submods.values()))


def appraise(claims: Claims, reference_values: ReferenceValues) -> Appraisal:
    """Compare genuine claims with what the organisations expect."""
    image = claims.cpu.report.measurement
    entries = [entry for entry in reference_values.entries if entry.image == image and claims.core.role in entry.roles]
    if not entries:
        return _unknown_image(claims, reference_values)
    candidates = [_compare(claims, entry) for entry in entries]
    return min(candidates, key=lambda appraisal: len(_fatal(appraisal.findings)))


def appraise_service(cpu: SnpClaims, image: bytes) -> tuple[Finding, ...]:
    """Compare the attestation service's own evidence with the measurement that the root names (48 bytes)."""
    return snp_appraisal.appraise(
        cpu, SnpExpectations(measurements=frozenset({image}), host_data=None, min_tcb=None, chip_ids=None)
    )


def _compare(claims: Claims, entry: ReferenceEntry) -> Appraisal:
    least = entry.snp
    expectations = SnpExpectations(
        measurements=frozenset({entry.image}),
        host_data=None,  # the verifier has compared it with init_data
        chip_ids=None,  # the verifier has found it in the grant
        products=frozenset({least.product}),
        min_tcb=Tcb(
            fmc=least.fmc if least.product == "Turin" else None,
            bootloader=least.bootloader,
            tee=least.tee,
            snp=least.snp,
            microcode=least.microcode,
        ),
        min_report_version=least.min_report_version,
    )
    cpu = snp_appraisal.appraise(claims.cpu, expectations)
    gpus = tuple(_appraise_gpu(device, entry) for device in claims.devices)
    count = _device_count(claims.devices, entry)
    submods = {"cpu0": _cpu_submodule(claims.cpu, (*cpu, *count))}
    for index, (device, findings) in enumerate(zip(claims.devices, gpus, strict=True)):
        submods[f"gpu{index}"] = _gpu_submodule(device, findings)
    findings = worst_first((*cpu, *count, *(finding for device in gpus for finding in device)))
    return Appraisal(reference=entry.name, findings=findings, submods=submods)


def _unknown_image(claims: Claims, reference_values: ReferenceValues) -> Appraisal:
    known = sorted({entry.image.hex()[:16] for entry in reference_values.entries})
    finding = Finding(
        field="measurement",
        found=claims.cpu.report.measurement.hex()[:16] + "…",
        expected=f"one of the reference values for a {claims.core.role}: {', '.join(known)}",
        status="contraindicated",
        repair="launch the released image; a new release is admitted by signing reference values that name it",
    )
    gpus = {f"gpu{index}": _gpu_submodule(device, ()) for index, device in enumerate(claims.devices)}
    return Appraisal(
        reference="", findings=(finding,), submods={"cpu0": _cpu_submodule(claims.cpu, (finding,)), **gpus}
    )


def _appraise_gpu(device: GpuClaims, entry: ReferenceEntry) -> tuple[Finding, ...]:
    expected = next((item for item in entry.devices if item.device_class == "gpu"), None)
    if expected is None:
        return ()  # counted as one too many by `_device_count`
    asked = gpu_appraisal.GpuExpectations(
        device_class="gpu",
        min_driver=expected.min_driver,
        features=expected.features,
        ueids=None,  # the verifier has found it in the grant
    )
    return gpu_appraisal.appraise(device, asked)


def _device_count(devices: Iterable[GpuClaims], entry: ReferenceEntry) -> tuple[Finding, ...]:
    found = Counter(device.device_class for device in devices)
    expected = Counter({item.device_class: item.count for item in entry.devices})
    return tuple(
        Finding(
            field=f"devices.{name}",
            found=str(found[name]),
            expected=str(expected[name]),
            status="contraindicated",
            repair="give the machine exactly the devices of its reference entry, each in confidential mode",
        )
        for name in sorted({*found, *expected})
        if found[name] != expected[name]
    )


def _fatal(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.status == "contraindicated")


def _status(findings: Iterable[Finding], *, mock: bool) -> Status:
    statuses: tuple[Status, ...] = tuple(finding.status for finding in findings)
    return worst((*statuses, "warning" if mock else "affirming"))  # mock evidence is at best a warning


def _advisories(findings: Iterable[Finding], *, mock: bool) -> tuple[str, ...]:
    words = tuple(str(finding)[:200] for finding in findings)
    return (*words[:16], "signed by a mock vendor: nothing here is attested by hardware") if mock else words[:16]


def _cpu_submodule(cpu: SnpClaims, findings: Iterable[Finding]) -> Submodule:
    found = tuple(findings)
    return Submodule(
        status=_status(found, mock=cpu.mock),
        trust_vector=TrustVector(
            instance_identity=_status((), mock=cpu.mock),
            configuration=_status(
                (f for f in found if "measurement" not in f.field and "tcb" not in f.field), mock=cpu.mock
            ),
            executables=_status((f for f in found if "measurement" in f.field), mock=cpu.mock),
            hardware=_status((f for f in found if "tcb" in f.field), mock=cpu.mock),
            runtime_opaque=_status((), mock=cpu.mock),
        ),
        hardware=HardwareId(kind="snp-chip-id", value=cpu.chip_id),
        advisories=_advisories(found, mock=cpu.mock),
    )


def _gpu_submodule(device: GpuClaims, findings: Iterable[Finding]) -> Submodule:
    found = tuple(findings)
    return Submodule(
        status=_status(found, mock=device.mock),
        trust_vector=TrustVector(
            instance_identity=_status((), mock=device.mock),
            configuration=_status(found, mock=device.mock),
            executables="none",  # measurements are authentic; comparing them with RIMs is not done here
            hardware=_status((), mock=device.mock),
            runtime_opaque=_status((), mock=device.mock),
        ),
        hardware=HardwareId(kind="gpu-ueid", value=device.ueid),
        advisories=_advisories(found, mock=device.mock),
    )
