# ruff: noqa: T201 - a benchmark prints its table
"""How fast updates are encoded, masked and unmasked, beside what the machine allows in the same run.

Run: python -m tests.benchmarks.bench_masks [--words N] [--repeats N] [--threads N]
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fl_runtime.secure_aggregation import Parameters, Segment, Sum, Update, accumulate, decode, encode, new_vector
from fl_runtime.secure_aggregation.prg import BLOCK_BYTES, Mask, add_masks
from fl_runtime.secure_aggregation.shamir import combine, lagrange, split

LINE = "{:<46} {:>9} {:>12} {:>8} {:>9} {:>9}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one piece of work, over several repeats, and the bytes it got through."""

    name: str
    seconds: list[float]
    size: int  # bytes of vector, times the number of masks where there are several

    @property
    def rate(self) -> float:
        return self.size / statistics.median(self.seconds) / 1e9

    @property
    def spread(self) -> float:
        return (max(self.seconds) - min(self.seconds)) / statistics.median(self.seconds)


def timed(name: str, work: Callable[[], object], *, size: int, repeats: int) -> Timing:
    work()  # pages and contexts are warm in all that is compared
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return Timing(name=name, seconds=seconds, size=size)


def keystream_only(size: int) -> None:
    """What OpenSSL gives through `cryptography`: 256 KiB at a time, into one buffer, added to nothing."""
    zeros, scratch = bytes(BLOCK_BYTES), bytearray(BLOCK_BYTES + 15)
    encryptor = Cipher(AES256(bytes(32)), CTR(bytes(16))).encryptor()
    for _ in range(0, size, BLOCK_BYTES):
        encryptor.update_into(zeros, scratch)


def measure(words: int, *, repeats: int, threads: int, bits: int) -> list[Timing]:
    parameters = Parameters.for_sites(
        4,
        segments=[Segment(name="model", length=words - 1, clip_micros=4_000_000, weight="samples")],
        weight_cap=1000,
        ring_bits=bits,
    )
    update = Update(
        segments={"model": np.random.default_rng(0).normal(0, 0.1, words - 1).astype(np.float32)}, sample_count=1000
    )
    vector, other = new_vector(parameters), new_vector(parameters)
    size = vector.nbytes
    seeds = [secrets.token_bytes(32) for _ in range(8)]

    def masks(count: int, workers: int) -> Callable[[], None]:
        return lambda: add_masks(vector, [Mask(seed, 1) for seed in seeds[:count]], threads=workers)

    def coded() -> None:
        encode(update, parameters=parameters, randomness=secrets.token_bytes, out=vector)

    limits = [
        timed("in-place add of two vectors (limit)", lambda: accumulate(vector, other), size=size, repeats=repeats),
        timed("AES-256-CTR alone, one thread (limit)", lambda: keystream_only(size), size=size, repeats=repeats),
    ]
    work = [
        timed("1 mask, one thread", masks(1, 1), size=size, repeats=repeats),
        timed("8 masks, one thread, by mask", masks(8, 1), size=8 * size, repeats=repeats),
        timed(f"8 masks, {threads} threads, by mask", masks(8, threads), size=8 * size, repeats=repeats),
        timed("encode, by float32 read", coded, size=4 * words, repeats=repeats),
    ]
    coded()
    total = Sum(vector=vector, survivors=("a",), clipped_counts={"a": 0}, parameters=parameters)
    return [*limits, *work, timed("decode, by float32 written", lambda: decode(total), size=4 * words, repeats=repeats)]


def shamir(sites: int) -> None:
    threshold, secret = 2 * sites // 3 + 1, bytes(31) + b"\1"
    start = time.perf_counter()
    shares = split(secret, holders=range(sites), threshold=threshold, randomness=secrets.token_bytes)
    dealt = time.perf_counter()
    factors = lagrange(range(threshold))
    weighed = time.perf_counter()
    for _ in range(sites):
        combine({holder: shares[holder] for holder in factors}, factors)
    done = time.perf_counter()
    print(
        f"  n = {sites:<3} t = {threshold:<3}  deal one secret {(dealt - start) * 1e3:6.2f} ms"
        f"   factors {(weighed - dealt) * 1e3:6.2f} ms   give back {sites} secrets {(done - weighed) * 1e3:6.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for bits in (32, 64):
        print(f"\nvector of {options.words:,} words of {bits} bits, median of {options.repeats}")
        print(LINE.format("", "GB/s", "ms", "spread", "of add", "of AES"))
        timings = measure(options.words, repeats=options.repeats, threads=options.threads, bits=bits)
        add, aes = timings[0].rate, timings[1].rate
        for timing in timings:
            print(
                LINE.format(
                    timing.name,
                    f"{timing.rate:.2f}",
                    f"{statistics.median(timing.seconds) * 1e3:.1f}",
                    f"{timing.spread:.0%}",
                    f"{timing.rate / add:.2f}",
                    f"{timing.rate / aes:.2f}",
                )
            )
    print("\nShamir, 256 bits")
    for sites in (4, 32, 100, 200):
        shamir(sites)


if __name__ == "__main__":
    main()
