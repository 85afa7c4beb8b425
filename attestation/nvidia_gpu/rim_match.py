"""What a device measured against what NVIDIA released: every index that a manifest lists, none left out.

The manifests are found by the ids that follow from the signed report, so one cannot be chosen for its values. A GPU has
two, its driver's and its VBIOS's; a switch has one.

Source: NVIDIA nvtrust, `verifier.py` and `rim`; index i of a manifest is SPDM measurement block i + 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from attestation.findings import Finding, worst_first
from attestation.nvidia_gpu.rim import RimKind, VerifiedRim
from attestation.nvidia_gpu.verify import GpuClaims

_NVDEC0_INDEX = 35  # measures a decoder that confidential mode switches off; what it then holds means nothing

_CHIP_SKU, _PROJECT, _PROJECT_SKU, _CHIP_INFO = 15, 17, 18, 35  # opaque fields
_PART = re.compile(r"[A-Z0-9]{1,16}")
_SWITCH_BOARD = "5612_0002_890"  # a switch does not report its board; NVIDIA has released one


def rim_ids(claims: GpuClaims) -> Mapping[RimKind, str]:
    """Return the ids of the manifests that a device must match.

    Returns:
        For a GPU "driver" and "vbios", for a switch "switch". A part that the report does not give, or that is no
        number or name, is written "?": no manifest has such an id.
    """
    vbios = claims.vbios_version.replace(".", "").upper()
    if claims.device_class == "switch":
        return {"switch": f"NV_SWITCH_BIOS_{_SWITCH_BOARD}_{vbios}"}
    driver = claims.driver_version or "?"
    hopper = claims.hwmodel == "GH100"
    name = "NV_GPU_DRIVER_GH100" if hopper else f"NV_GPU_CC_DRIVER_{_part(claims, _CHIP_INFO)}"
    board = "_".join(_part(claims, kind) for kind in (_PROJECT, _PROJECT_SKU, _CHIP_SKU))
    return {"driver": f"{name}_{driver}", "vbios": f"NV_GPU_VBIOS_{board}_{vbios}"}


def match_rims(claims: GpuClaims, rims: Iterable[VerifiedRim]) -> tuple[Finding, ...]:
    """Compare the measurements of a device with its manifests.

    1. The manifest of each part of the device is among `rims`, has active measurements, and is a development vendor's
       if and only if the device is.
    2. No index is active in two of them.
    3. Every active index was measured and equals one alternative; but index 35 while the decoder NVDEC0 is off.

    Args:
        claims: A verified device.
        rims: Verified manifests, of any devices; those of this one are found by id.

    Returns:
        Every finding, worst first; nothing where each index of each manifest matches.
    """
    by_id = {rim.rim_id: rim for rim in rims}
    ids = rim_ids(claims)
    chosen = {kind: by_id[rim_id] for kind, rim_id in ids.items() if rim_id in by_id}
    findings = [_absent(kind, rim_id) for kind, rim_id in ids.items() if kind not in chosen]  # 1
    for kind, rim in chosen.items():
        findings += _check_manifest(claims, kind, rim)
    findings += _conflicts(chosen)  # 2
    for rim in chosen.values():
        findings += _compare(claims, rim)  # 3
    return worst_first(findings)


def _part(claims: GpuClaims, kind: int) -> str:
    text = claims.report.opaque.get(kind, b"").rstrip(b"\0").decode("ascii", "replace")
    return text if _PART.fullmatch(text) else "?"  # it becomes part of an address and of a file name


def _absent(kind: RimKind, rim_id: str) -> Finding:
    repair = f"fetch the manifest {rim_id}; where NVIDIA has none, the measurements cannot be appraised"
    return _finding(f"rim.{kind}", "absent", rim_id, repair)


def _check_manifest(claims: GpuClaims, kind: RimKind, rim: VerifiedRim) -> Iterator[Finding]:
    if not rim.measurements:
        yield _finding(f"rim.{kind}", "without active measurements", "at least one", "fetch the manifest again")
    if rim.anchor.mock != claims.mock:
        found, expected = ("development", "genuine") if rim.anchor.mock else ("genuine", "development")
        repair = "compare genuine devices with genuine manifests, and development ones with development manifests"
        yield _finding(f"rim.{kind}.vendor", found, f"{expected}, as the device", repair)


def _conflicts(chosen: Mapping[RimKind, VerifiedRim]) -> Iterator[Finding]:
    """An index belongs to the driver or to the VBIOS: if both list it, one of the two would never be compared."""
    indices = [index for rim in chosen.values() for index in rim.measurements]
    for index in sorted({index for index in indices if indices.count(index) > 1}):
        yield _finding(f"rim.index.{index}", "active in two manifests", "in one", "fetch both manifests again")


def _compare(claims: GpuClaims, rim: VerifiedRim) -> Iterator[Finding]:
    for index, alternatives in sorted(rim.measurements.items()):
        if index == _NVDEC0_INDEX and claims.report.nvdec0_enabled is False:
            continue
        found = claims.measurements.get(index + 1)
        if found not in alternatives:
            expected = " or ".join(digest.hex() for digest in alternatives)
            repair = f"install the released {rim.kind} {rim.version}; if it is, the manifest may be out of date"
            yield _finding(f"measurement.{index + 1}", found.hex() if found else "absent", expected, repair)


def _finding(field: str, found: str, expected: str, repair: str) -> Finding:
    return Finding(field=f"gpu.{field}", found=found, expected=expected, status="contraindicated", repair=repair)
