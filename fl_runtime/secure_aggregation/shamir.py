"""Shamir's secret sharing of 32-byte secrets over the prime 2^256 - 189, the largest below 2^256.

A secret is a big-endian integer below the prime. `draw_secret` draws again in the rare case (189 / 2^256) that random
bytes are not below it, so that every secret made here can be shared and comes back as the very same bytes.

Source: Shamir 1979, https://doi.org/10.1145/359168.359176
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fl_runtime.secure_aggregation.errors import MalformedMessageError
from fl_runtime.secure_aggregation.stages import Randomness

PRIME = 2**256 - 189
SECRET_SIZE = 32


def draw_secret(randomness: Randomness) -> bytes:
    """Return 32 random bytes, uniform below the prime: a seed, an X25519 key or a coefficient."""
    while int.from_bytes(secret := randomness(SECRET_SIZE), "big") >= PRIME:
        pass
    return secret


def split(secret: bytes, *, holders: Sequence[int], threshold: int, randomness: Randomness) -> dict[int, bytes]:
    """Deal one share to each holder; any `threshold` of them give the secret back, fewer say nothing about it.

    Args:
        secret: 32 bytes, below the prime.
        holders: Places in the cohort, from 0; the share of place i is the polynomial's value at i + 1.
        threshold: How many are needed, at least 2.
        randomness: For the threshold - 1 coefficients.

    Returns:
        A share of 32 bytes for each holder.

    Raises:
        MalformedMessageError: A secret not below the prime, or a threshold of less than 2 or more than the holders.
    """
    if not 2 <= threshold <= len(holders):
        raise MalformedMessageError(f"threshold {threshold} for {len(holders)} holders, expected 2 to {len(holders)}")
    coefficients = [_element(secret), *(_element(draw_secret(randomness)) for _ in range(threshold - 1))]
    coefficients.reverse()
    return {holder: _evaluate(coefficients, holder + 1).to_bytes(SECRET_SIZE, "big") for holder in holders}


def lagrange(holders: Sequence[int]) -> dict[int, int]:
    """Return the factor of each holder's share in the polynomial's value at 0.

    The factors depend only on who answered, so they are worked out once for all secrets of a round.

    Raises:
        MalformedMessageError: A holder twice.
    """
    if len(set(holders)) != len(holders):
        raise MalformedMessageError("one holder's share was given twice")
    factors = {}
    for holder in holders:
        numerator, denominator = 1, 1
        for other in holders:
            if other != holder:
                numerator = numerator * (other + 1) % PRIME
                denominator = denominator * (other - holder) % PRIME
        factors[holder] = numerator * pow(denominator, -1, PRIME) % PRIME
    return factors


def combine(shares: Mapping[int, bytes], factors: Mapping[int, int]) -> bytes:
    """Return the secret of exactly threshold many shares, 32 bytes, given the factors of their holders.

    Wrong shares give a wrong secret, not an error: compare it with what its owner committed to.

    Raises:
        MalformedMessageError: A share is missing, has another size, or is not below the prime.
    """
    if shares.keys() != factors.keys():
        raise MalformedMessageError(f"found shares of {sorted(shares)}, expected those of {sorted(factors)}")
    total = sum(_element(shares[holder]) * factor for holder, factor in factors.items())
    return (total % PRIME).to_bytes(SECRET_SIZE, "big")


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in coefficients:  # Horner, highest power first
        value = (value * x + coefficient) % PRIME
    return value


def _element(raw: bytes) -> int:
    number = int.from_bytes(raw, "big")
    if len(raw) != SECRET_SIZE or number >= PRIME:
        raise MalformedMessageError(
            f"found {len(raw)} bytes that are no element of the field, expected 32 below 2^256 - 189"
        )
    return number
