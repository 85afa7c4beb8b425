"""Several devices of one machine: are they distinct, of one session, and wired to each other and to nothing else.

Protected PCIe (PPCIE) gives a machine's eight GPUs and four NVSwitches to one guest. NVLink between them is plaintext,
so a GPU or a switch that is not attested could read along: each side must list the other, and nobody else.

Source: NVIDIA nvtrust, `ppcie-verifier`, `validate_topology.py`, and `parse_pdis` of its switch verifier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from attestation.findings import Finding, worst_first
from attestation.nvidia_gpu.verify import GpuClaims

PPCIE_GPUS = 8
PPCIE_SWITCHES = 4

_PDI_FIELD = 22  # opaque: of a GPU, the switch at the end of each link; of a switch, its own identifier
_GPU_PDIS_FIELD = 26  # opaque, of a switch: eight identifiers of GPUs, then which port leads to which
_PDI_SIZE = 8  # bytes
_GPU_PDIS_SIZE = PPCIE_GPUS * _PDI_SIZE
_UNUSED_LINK = bytes(_PDI_SIZE)

_PPCIE_REPAIR = "set protected PCIe on all GPUs and switches"


def appraise_devices(devices: Sequence[GpuClaims], nonces: Sequence[bytes]) -> tuple[Finding, ...]:
    """Compare devices with each other, whatever joins them.

    1. There is at least one.
    2. Each is another chip.
    3. Each answers to its own nonce of this session; vendors' tools give all the same.

    Args:
        devices: Verified devices of one machine.
        nonces: 32 bytes each: what this session asked each of them, in the same order.

    Returns:
        Every finding, worst first.

    Raises:
        ValueError: There is not one nonce for each device.
    """
    findings = [] if devices else [_finding("count", "no devices", "at least one", "attach the devices")]  # 1
    chips = Counter(device.ueid for device in devices)
    for ueid, count in chips.items():  # 2
        if count > 1:
            repair = "send the evidence of each device once; one of them is missing"
            findings.append(_finding("ueid", f"{ueid.hex()} {count} times", "each device once", repair))
    for place, (device, nonce) in enumerate(zip(devices, nonces, strict=True)):  # 3
        if device.report.nonce != nonce:
            repair = "collect the evidence of all devices in one session"
            findings.append(_finding(f"{place}.nonce", device.report.nonce.hex(), nonce.hex(), repair))
    return worst_first(findings)


def appraise_ppcie(devices: Sequence[GpuClaims], nonces: Sequence[bytes]) -> tuple[Finding, ...]:
    """Compare the devices of one machine with what protected PCIe must be.

    1. They are distinct, and of this session.
    2. There are eight GPUs and four switches.
    3. Every GPU says that it runs in protected PCIe; all are of one model, with one driver and the same feature flag.
    4. The links of every GPU lead to exactly the switches that are here.
    5. Every switch lists the same eight GPUs. A GPU does not report its own identifier, so that these are the GPUs that
       are here follows from 4 and from the number alone.

    Args:
        devices: Verified GPUs and switches, in any order.
        nonces: 32 bytes each: what this session asked each of them, in the same order.

    Returns:
        Every finding, worst first.

    Raises:
        ValueError: There is not one nonce for each device.
    """
    gpus = [device for device in devices if device.device_class == "gpu"]
    switches = [device for device in devices if device.device_class == "switch"]
    findings = [*appraise_devices(devices, nonces)]  # 1
    for name, found, expected in (("gpus", gpus, PPCIE_GPUS), ("switches", switches, PPCIE_SWITCHES)):  # 2
        if len(found) != expected:
            findings.append(
                _finding(name, str(len(found)), str(expected), "pass all devices of the machine to the guest")
            )
    findings += _compare_modes(gpus)  # 3
    findings += _compare_switches_seen(gpus, switches)  # 4
    findings += _compare_gpus_seen(switches)  # 5
    return worst_first(findings)


def _compare_modes(gpus: Sequence[GpuClaims]) -> Iterator[Finding]:
    for place, gpu in enumerate(gpus):
        if gpu.report.protected_pcie is not True:
            yield _finding(f"gpu.{place}.protected_pcie", str(gpu.report.protected_pcie), "True", _PPCIE_REPAIR)
        if gpu.feature not in {"ppcie", None}:  # drivers before 580 do not say; the line above holds for all
            yield _finding(f"gpu.{place}.feature", str(gpu.feature), "ppcie", _PPCIE_REPAIR)
    software = {f"{gpu.hwmodel} {gpu.driver_version} {gpu.feature}" for gpu in gpus}
    if len(software) > 1:
        yield _finding(
            "software", "; ".join(sorted(software)), "one model, driver and feature", "set up all GPUs alike"
        )


def _compare_switches_seen(gpus: Sequence[GpuClaims], switches: Sequence[GpuClaims]) -> Iterator[Finding]:
    present = {own for switch in switches if (own := switch.report.opaque.get(_PDI_FIELD, b"")) != b""}
    if len(present) != len(switches):
        repair = "send the evidence of each switch once"
        yield _finding("switches.pdi", f"{len(present)} identifiers", f"{len(switches)} distinct ones", repair)
    for place, gpu in enumerate(gpus):
        # A GPU writes the identifiers of switches in the other byte order than the switches do.
        seen = {pdi[::-1] for pdi in _split(gpu.report.opaque.get(_PDI_FIELD, b"")) if pdi != _UNUSED_LINK}
        if seen != present:
            repair = "send the evidence of every switch that the GPU is wired to"
            yield _finding(f"gpu.{place}.switches", _list(seen), _list(present), repair)


def _compare_gpus_seen(switches: Sequence[GpuClaims]) -> Iterator[Finding]:
    listed = [
        frozenset(_split(switch.report.opaque.get(_GPU_PDIS_FIELD, b"")[:_GPU_PDIS_SIZE])) - {_UNUSED_LINK}
        for switch in switches
    ]
    for place, seen in enumerate(listed):
        if seen != listed[0] or len(seen) != PPCIE_GPUS:
            expected = f"{PPCIE_GPUS} GPUs, the same for each switch"
            yield _finding(f"switch.{place}.gpus", _list(seen), expected, "send the evidence of one machine's switches")


def _split(field: bytes) -> list[bytes]:
    """Return identifiers of eight bytes; none of a field that is cut short."""
    if len(field) % _PDI_SIZE:
        return []
    return [field[start : start + _PDI_SIZE] for start in range(0, len(field), _PDI_SIZE)]


def _list(pdis: frozenset[bytes] | set[bytes]) -> str:
    return ", ".join(sorted(pdi.hex() for pdi in pdis)) or "none"


def _finding(field: str, found: str, expected: str, repair: str) -> Finding:
    return Finding(field=f"topology.{field}", found=found, expected=expected, status="contraindicated", repair=repair)
