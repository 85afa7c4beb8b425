# ruff: noqa: T201 - a benchmark prints its table
"""How fast evidence is verified on one core, beside the bare signature checks that it cannot do without.

Run: python -m tests.benchmarks.bench_verify [--repeats N]

The evidence is a mock vendor's, in the production formats; the verifier is the production one.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.mock_tee.hardware import Hardware
from attestation.mock_tee.machines import GpuLaunch, Launch, chip_id_of, snp_launch
from attestation.mock_tee.vendor import create_vendor
from attestation.nvidia_gpu.verify import verify as verify_gpu
from attestation.snp.certificate_table import CertificateTable
from attestation.snp.verify import verify as verify_snp
from attestation.trust_anchors import TrustAnchor, with_development

BATCH = 50


def rate(work: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Return how often `work` is done in a second, and the spread of the repeats in per cent."""
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(BATCH):
            work()
        rates.append(BATCH / (time.perf_counter() - started))
    median = statistics.median(rates)
    return median, 100 * (max(rates) - min(rates)) / median


def bare_p384() -> Callable[[], object]:
    """One ECDSA P-384 verification over a report's worth of bytes, as `cryptography` does it."""
    key, message = ec.generate_private_key(ec.SECP384R1()), secrets.token_bytes(0x2A0)
    signature, public = key.sign(message, ec.ECDSA(hashes.SHA384())), key.public_key()
    return lambda: public.verify(signature, message, ec.ECDSA(hashes.SHA384()))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    now = datetime.now(UTC)
    vendor = create_vendor(now=now)
    anchors = with_development(
        TrustAnchor(vendor=anchor.vendor, product=anchor.product, sha256=anchor.sha256, mock=True)
        for anchor in vendor.anchors
    )
    snp = snp_launch(chip_id=chip_id_of("bench"), measurement=bytes(48), host_data=bytes(32))
    machine = Hardware(vendor, now=lambda: now, randomness=secrets.token_bytes).start(
        Launch(name="bench", snp=snp, gpus=(GpuLaunch(serial="bench", driver_version="580.95.05"),))
    )
    cpu, nonce = machine.collect_cpu(bytes(64)), bytes(32)
    gpu = machine.collect_device(0, nonce)
    endorsements = CertificateTable.parse(cpu.endorsements).endorsements()
    bare, spread = rate(bare_p384(), repeats=repeats)
    print(f"{'one core':<52} {'a second':>9} {'spread':>8} {'by bare':>8}")
    print(f"{'bare ECDSA P-384 verification':<52} {bare:9.0f} {spread:7.0f}% {1:8.2f}")
    for name, work in (
        ("SNP report, chain and all", lambda: verify_snp(cpu.report, endorsements, anchors=anchors, now=now)),
        ("GPU report with its chain", lambda: verify_gpu(gpu.report, gpu.chain, nonce=nonce, anchors=anchors, now=now)),
    ):
        found, spread = rate(work, repeats=repeats)
        print(f"{name:<52} {found:9.0f} {spread:7.0f}% {found / bare:8.2f}")


if __name__ == "__main__":
    main()
