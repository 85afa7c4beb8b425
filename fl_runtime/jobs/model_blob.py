"""The model of a job, sealed under the job's key: what submitter, server and sites all call the same.

A model is bound to its trust domain, its job and its round, so that no old model and none of another job opens in its place.
"""

from __future__ import annotations

import os

from fl_runtime.transport.chunks import Buffer
from fl_runtime.transport.sealed import Random, SealingKey, seal, unseal
from policies.encoding import lp, u32

PURPOSE = "model"  # of `fl_runtime.transport.sealed`


def model_context(trust_domain: str, job: str, round_number: int) -> bytes:
    """What a sealed model belongs to, as the `context` of `fl_runtime.transport.sealed`.

    Args:
        trust_domain: Of the federation.
        job: The job's id, as in its manifest.
        round_number: How many rounds were committed before it: 0 for the initial model, the manifest's `rounds` for the final.
    """
    return lp(trust_domain) + lp(job) + lp(PURPOSE) + u32(round_number)


def seal_model(
    encoded: Buffer, key: SealingKey, *, trust_domain: str, job: str, round_number: int, random: Random = os.urandom
) -> bytearray:
    """Seal a model. SHA-256 of the result names it.

    Args:
        encoded: safetensors, as `fl_runtime.arrays.encode` writes them.
        key: Of the job.
        trust_domain: As of `model_context`.
        job: As of `model_context`.
        round_number: As of `model_context`.
        random: Cryptographic source of the salt.
    """
    return seal(encoded, key, purpose=PURPOSE, context=model_context(trust_domain, job, round_number), random=random)


def open_model(blob: Buffer, key: SealingKey, *, trust_domain: str, job: str, round_number: int) -> memoryview:
    """Return the safetensors in a sealed model, read-only; `fl_runtime.arrays.decode` checks them against a layout.

    Raises:
        MalformedBlobError: It is not a sealed blob.
        SealedBlobError: It was sealed under another key, or for another federation, job or round.
    """
    context = model_context(trust_domain, job, round_number)
    return memoryview(unseal(blob, key, purpose=PURPOSE, context=context)).toreadonly()
