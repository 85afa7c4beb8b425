# ruff: noqa: T201 - a benchmark prints its table
"""How long a round of a tiny model takes: four sites, real processes, mutual TLS, the whole secure sum.

Run: python -m tests.benchmarks.bench_round [--rounds N] [--repeats N]

A round is from its opening to its commit, as the server counts it. Beside it stands what one round-trip of an empty call over
the same kind of channel takes on this machine: a secure sum has ten of them, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import grpc

from tests.fakes.running import federation

EMPTY_CALLS = 200


async def rounds_of(directory: Path, *, rounds: int, repeats: int) -> list[float]:
    """Seconds of every round but the first of each job: in that one the sites verify each other."""
    seconds: list[float] = []
    async with federation(directory, sites=4) as running:
        for _ in range(repeats):
            job = await running.submit(rounds=rounds)
            await job.ended()
            seconds += [event.seconds for event in job.events if event.kind == "round" and event.round > 1]
            await job.close()
    return seconds


async def empty_calls() -> list[float]:
    """Seconds of each of some empty unary calls over loopback, in the clear."""

    async def answer(request: bytes, _context: object) -> bytes:
        return request

    server = grpc.aio.server()
    methods = {"Empty": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    seconds = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/bench/Empty")
        for _ in range(EMPTY_CALLS):
            started = time.perf_counter()
            await call(b"")
            seconds.append(time.perf_counter() - started)
    await server.stop(0)
    return seconds


def row(name: str, seconds: list[float], *, unit: float) -> str:
    """One line of the table, in milliseconds."""
    median = statistics.median(seconds)
    low, *_, high = statistics.quantiles(seconds, n=10)
    return f"{name:<44} {median * 1e3:9.2f} {low * 1e3:9.2f} {high * 1e3:9.2f} {median / unit:9.0f}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="of one job")
    parser.add_argument("--repeats", type=int, default=3, help="jobs")
    options = parser.parse_args()
    calls = asyncio.run(empty_calls())
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        rounds = asyncio.run(rounds_of(Path(directory) / "lab", rounds=options.rounds, repeats=options.repeats))
    unit = statistics.median(calls)
    print(f"{'milliseconds':<44} {'median':>9} {'p10':>9} {'p90':>9} {'by call':>9}")
    print(row("empty call, gRPC over loopback", calls, unit=unit))
    print(row(f"round, tee+mask, 4 sites, tiny model (n={len(rounds)})", rounds, unit=unit))


if __name__ == "__main__":
    main()
