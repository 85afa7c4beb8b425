"""Claims of a GPU or NVSwitch against what a policy asks: every finding, worst first.

With `GpuExpectations.rims`, an empty result also says that the firmware is what NVIDIA released; without, only that
versions, features and identity are wanted. `GpuExpectations.measurements` can pin values that were recorded on a machine
one trusts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attestation.findings import Finding, worst_first
from attestation.nvidia_gpu.chain import DeviceClass
from attestation.nvidia_gpu.report import Feature
from attestation.nvidia_gpu.rim import VerifiedRim
from attestation.nvidia_gpu.rim_match import match_rims
from attestation.nvidia_gpu.verify import GpuClaims

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuExpectations:
    """What a policy asks of a device.

    Fields without a default must be written out: None says in so many words that nothing is asked. An empty set accepts
    nothing.
    """

    device_class: DeviceClass
    min_driver: str | None  # "550.90"; compared number by number; a switch has no driver and is not asked
    features: frozenset[Feature] | None  # what a GPU may run as; a switch reports none and is not asked
    ueids: frozenset[bytes] | None  # 32 bytes each: the chips that are accepted
    require_fwid: bool = True  # of a GPU: the key must be tied to its firmware; switches report no firmware id
    vbios_versions: frozenset[str] | None = None  # lower case
    measurements: Mapping[int, bytes] | None = None  # SPDM block index to 48 bytes; each must be there and equal
    rims: tuple[VerifiedRim, ...] | None = (
        None  # the device's own must be among them, and match in full; None: not asked
    )


def appraise(claims: GpuClaims, expectations: GpuExpectations) -> tuple[Finding, ...]:
    """Return everything about the device that the policy does not want, worst first; nothing where it is all well."""
    findings = [*_appraise_device(claims, expectations), *_appraise_software(claims, expectations)]
    if expectations.device_class == "gpu":
        findings += _appraise_gpu(claims, expectations)
    if expectations.rims is not None:
        findings += match_rims(claims, expectations.rims)
    return worst_first(findings)


def _appraise_device(claims: GpuClaims, asked: GpuExpectations) -> Iterator[Finding]:
    """Which device it is."""
    if claims.device_class != asked.device_class:
        repair = "send the evidence of each device under its own class"
        yield _finding("device_class", claims.device_class, asked.device_class, repair)
    if asked.ueids is not None and claims.ueid not in asked.ueids:
        yield _finding("ueid", claims.ueid.hex(), f"one of {len(asked.ueids)} enrolled devices", "enrol this device")


def _appraise_software(claims: GpuClaims, asked: GpuExpectations) -> Iterator[Finding]:
    """What runs on it."""
    if asked.vbios_versions is not None and claims.vbios_version not in asked.vbios_versions:
        expected = " or ".join(sorted(asked.vbios_versions)) or "none at all"
        yield _finding("vbios_version", claims.vbios_version, expected, "update the VBIOS")
    for index, expected_value in sorted((asked.measurements or {}).items()):
        found = claims.measurements.get(index)
        if found != expected_value:
            repair = "install the driver and VBIOS that the value was recorded with"
            name = f"measurement.{index}"
            yield _finding(name, found.hex() if found is not None else "absent", expected_value.hex(), repair)


def _appraise_gpu(claims: GpuClaims, asked: GpuExpectations) -> Iterator[Finding]:
    """What only GPUs report."""
    if asked.min_driver is not None and not _at_least(claims.driver_version, asked.min_driver):
        repair = "update the driver in the guest's image"
        yield _finding("driver_version", str(claims.driver_version), f"at least {asked.min_driver}", repair)
    if asked.features is not None and claims.feature not in asked.features:
        expected = " or ".join(sorted(asked.features)) or "none at all"
        yield _finding("feature", str(claims.feature), expected, "set the confidential mode that the policy lists")
    if asked.require_fwid and claims.fwid is None:
        yield _finding("fwid", "absent", "present", "update the driver: older ones do not report a firmware id")


def _at_least(found: str | None, floor: str) -> bool:
    """Compare versions number by number; one that is not dotted numbers is below every floor."""
    if found is None or not _VERSION.fullmatch(found) or not _VERSION.fullmatch(floor):
        return False
    return [int(part) for part in found.split(".")] >= [int(part) for part in floor.split(".")]


def _finding(field: str, found: str, expected: str, repair: str) -> Finding:
    return Finding(field=f"gpu.{field}", found=found, expected=expected, status="contraindicated", repair=repair)
