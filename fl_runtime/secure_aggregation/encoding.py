"""Between floats and ring words: finite check, clip, weight, stochastic rounding; and back, from a sum to means.

A site sends, for each kind of weight: its coordinates times its weight, then the weight itself. With Q the full scale of
the ring, C a segment's bound and n_max the largest cohort, a coordinate becomes `floor(x * W / C + u)`, u uniform in [0, 1), and
is clamped to [-W, W]; W is the site's weight as an integer: `min(samples, W_max) * Q // W_max`, or Q where every site weighs
the same. W <= Q, so n_max words add up to less than half the ring: no sum wraps. Coordinates and weight carry the very same
W, so rounding it adds no error to the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_runtime.secure_aggregation.errors import ImplausibleSumError, MalformedUpdateError
from fl_runtime.secure_aggregation.parameters import Parameters, Segment, WeightKind
from fl_runtime.secure_aggregation.prg import SEED_SIZE, Keystream, new_scratch
from fl_runtime.secure_aggregation.ring import new_vector, require_vector
from fl_runtime.secure_aggregation.stages import ClippedUpdate, Floats, Randomness, RingVector, Sum, Update

BLOCK = 1 << 16  # coordinates; a block and its float64 scratch stay in cache
NOISE_DTYPE = np.dtype("<u4")


def encode(
    update: Update, *, parameters: Parameters, randomness: Randomness, out: RingVector | None = None
) -> ClippedUpdate:
    """Turn one site's update into ring words, in the clear.

    Args:
        update: One flat float32 vector for each segment.
        parameters: Of the job.
        randomness: Gives the seed of the keystream that decides how each coordinate is rounded.
        out: A vector to write to, kept by the caller from round to round; a new one by default.

    Returns:
        The update in `out`, and how many coordinates each segment had clipped.

    Raises:
        MalformedUpdateError: NaN or infinite values, missing, unknown or misshapen segments, or a negative number of
            samples. `out` then holds nothing that may be used.
    """
    vector = new_vector(parameters) if out is None else out
    require_vector(vector, parameters)
    _check_shapes(update, parameters)
    weights = {"one": parameters.full_scale, "samples": _sample_weight(update.sample_count, parameters)}
    rounding = _Rounding(randomness(SEED_SIZE))
    clipped = {}
    for kind, segment, words in _places(vector, parameters):
        if segment is None:
            words[0] = weights[kind]
        else:
            clipped[segment.name] = _encode_segment(
                update.segments[segment.name], segment, weights[kind], words, rounding
            )
    return ClippedUpdate(vector=vector, clipped=clipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a sum says, in floats."""

    segments: dict[str, Floats]  # the weighted mean of each segment, flat
    sample_count: float | None  # samples behind it, each site's capped at weight_cap; None without such segments


def decode(total: Sum, *, slack: int = 0) -> Means:
    """Divide each segment of a sum by its summed weight.

    Sums are exact integers; quotients are taken in float64 and rounded once, to float32.

    Args:
        total: The unmasked sum.
        slack: The largest noise that was added to any word on purpose, in ring units.

    Raises:
        ImplausibleSumError: A summed weight or coordinate is larger than the survivors' clipped updates can give, or there
            are no samples: masks did not cancel, or a site did not encode as agreed.
    """
    parameters = total.parameters
    require_vector(total.vector, parameters)
    signed = total.vector.view(np.dtype("<i4" if parameters.ring_bits == 32 else "<i8"))
    full = parameters.full_scale * len(total.survivors)
    places = list(_places(signed, parameters))
    weights = {kind: int(words[0]) for kind, segment, words in places if segment is None}
    for kind, weight in weights.items():
        if not (0 if kind == "samples" else full) - slack <= weight <= full + slack:
            raise ImplausibleSumError(f"summed weight of kind {kind!r} is {weight}, expected at most {full}")
        if weight <= 0:
            raise ImplausibleSumError("the survivors have no samples at all, so there is no mean")
    means = {
        segment.name: _decode_segment(words, segment, weights[kind], slack)
        for kind, segment, words in places
        if segment is not None
    }
    samples = weights["samples"] / parameters.full_scale * parameters.weight_cap if "samples" in weights else None
    return Means(segments=means, sample_count=samples)


def quantise(block: Floats, noise: npt.NDArray[np.uint32], *, factor: float, weight: int) -> npt.NDArray[np.int64]:
    """Round `block * factor` to integers in [-weight, weight], up with the probability of what is cut off.

    Args:
        block: Finite float32 values.
        noise: As many uniform 32-bit words; u = word / 2^32.
        factor: Ring units for each unit of `block`, weight included: W / C.
        weight: W, the largest magnitude that may come out.
    """
    scaled = np.multiply(block, factor, dtype=np.float64)
    scaled += np.multiply(noise, 2.0**-32, dtype=np.float64)
    np.floor(scaled, out=scaled)
    # After rounding, not before: in float64, W + (1 - 2^-32) is W + 1, which n_max times would overflow the ring.
    limit = _float_at_most(weight)
    np.clip(scaled, -limit, limit, out=scaled)
    return scaled.astype(np.int64)  # negative floats to unsigned words would be undefined


class _Rounding:
    """The noise words that decide each rounding, in order."""

    def __init__(self, seed: bytes) -> None:
        self._stream = Keystream(seed, dtype=NOISE_DTYPE)
        self._scratch = new_scratch()

    def next(self, count: int) -> npt.NDArray[np.uint32]:
        return self._stream.read_into(self._scratch, count)


def _encode_segment(values: Floats, segment: Segment, weight: int, words: npt.NDArray[Any], rounding: _Rounding) -> int:
    bound, clipped = np.float32(segment.clip), 0
    for start in range(0, segment.length, BLOCK):
        block = values[start : start + BLOCK]
        low, high = block.min(), block.max()  # both are NaN where any value is
        if not (math.isfinite(low) and math.isfinite(high)):
            raise MalformedUpdateError(f"segment {segment.name} has NaN or infinite values")
        if low < -bound or high > bound:
            clipped += int(np.count_nonzero(np.abs(block) > bound))
        whole = quantise(block, rounding.next(len(block)), factor=weight / segment.clip, weight=weight)
        np.copyto(
            words[start : start + BLOCK], whole, casting="unsafe"
        )  # two's complement: -1 is the ring's largest word
    return clipped


def _decode_segment(words: npt.NDArray[Any], segment: Segment, weight: int, slack: int) -> Floats:
    means = np.empty(segment.length, dtype=np.float32)
    for start in range(0, segment.length, BLOCK):
        block = words[start : start + BLOCK]
        if max(int(block.max()), -int(block.min())) > weight + slack:
            raise ImplausibleSumError(f"segment {segment.name} has a sum beyond {weight}, its summed weight")
        np.multiply(block, segment.clip / weight, out=means[start : start + BLOCK], dtype=np.float64, casting="unsafe")
    return means


def _places(
    vector: npt.NDArray[Any], parameters: Parameters
) -> Iterator[tuple[WeightKind, Segment | None, npt.NDArray[Any]]]:
    """Yield each segment and the words it has in `vector`; None for the word that holds a kind's weight."""
    start = 0
    for kind, segments in parameters.layout:
        for segment in segments:
            yield kind, segment, vector[start : start + segment.length]
            start += segment.length
        yield kind, None, vector[start : start + 1]
        start += 1


def _check_shapes(update: Update, parameters: Parameters) -> None:
    expected = {segment.name: segment.length for segment in parameters.segments}
    if update.segments.keys() != expected.keys():
        odd = sorted(update.segments.keys() ^ expected.keys())
        raise MalformedUpdateError(f"segments {', '.join(odd)} are missing or were not agreed")
    for name, values in update.segments.items():
        if values.dtype != np.float32 or values.shape != (expected[name],):
            raise MalformedUpdateError(
                f"segment {name} has shape {values.shape} and type {values.dtype}, expected ({expected[name]},) and float32"
            )
    if update.sample_count < 0:
        raise MalformedUpdateError(f"sample_count is {update.sample_count}, expected 0 or more")


def _sample_weight(sample_count: int, parameters: Parameters) -> int:
    return min(sample_count, parameters.weight_cap) * parameters.full_scale // parameters.weight_cap


def _float_at_most(number: int) -> float:
    """The largest float64 that does not exceed `number`: beyond 2^53 the nearest one may."""
    nearest = float(number)
    return nearest if nearest <= number else math.nextafter(nearest, 0.0)
