"""From the answers of t sites to the masks that are left in the sum: pure, and checked before anything is subtracted."""

from __future__ import annotations

from collections.abc import Mapping

from fl_runtime.secure_aggregation.adverts import Adverts
from fl_runtime.secure_aggregation.agreement import PrivateKey, seed_commitment
from fl_runtime.secure_aggregation.context import RoundContext
from fl_runtime.secure_aggregation.errors import ShareMismatchError
from fl_runtime.secure_aggregation.messages import Consistency, Unmask
from fl_runtime.secure_aggregation.prg import Mask
from fl_runtime.secure_aggregation.shamir import combine, lagrange


def reconstruct(answers: Mapping[int, Unmask], agreed: Consistency, *, threshold: int) -> dict[int, bytes]:
    """Return, for each sharer, the secret that the answers give: a survivor's self-mask seed, a drop-out's seed key.

    Args:
        answers: At least `threshold`, by the place of who answered; the first `threshold` of them are used.
        agreed: Who shared and who survived, the same in all answers.
        threshold: t of the secret sharing.

    Raises:
        MalformedMessageError: A share is not below Shamir's prime.
    """
    responders = sorted(answers)[:threshold]
    factors = lagrange(responders)
    return {
        owner: combine({place: answers[place].shares[owner] for place in responders}, factors)
        for owner in agreed.sharers
    }


def require_committed(
    secrets: Mapping[int, bytes],
    agreed: Consistency,
    *,
    commitments: Mapping[int, bytes],
    adverts: Adverts,
    context: RoundContext,
) -> None:
    """Compare each secret with what its owner sent before: the commitment to its seed, or its public seed key.

    Raises:
        ShareMismatchError: Names the owners of those that differ.
    """
    pair_context, wrong = context.pair_context(), []
    for owner, secret in secrets.items():
        public = adverts.seed[owner]
        if owner in agreed.survivors:
            holds = seed_commitment(secret, public.site, pair_context) == commitments[owner]
        else:
            holds = PrivateKey.of(public.site, secret).public == public
        if not holds:
            wrong.append(public.site)
    if wrong:
        raise ShareMismatchError(
            f"shares do not give back what {', '.join(wrong)} committed to: bad ones were dealt, or a site altered them",
            sites=wrong,
            hint="the round is abandoned; look for the site that such rounds have in common",
        )


def masks_in_sum(
    secrets: Mapping[int, bytes], agreed: Consistency, *, adverts: Adverts, context: RoundContext
) -> list[Mask]:
    """Return every mask that the survivors' sum still holds, with the sign it was added with.

    These are the survivors' own, and those that a survivor shares with a site that dropped out: |U| + |U| * |dropped|.
    The masks between two survivors have cancelled.
    """
    pair_context = context.pair_context()
    masks = [Mask(secrets[survivor], 1) for survivor in agreed.survivors]
    for dropped in agreed.dropped:
        key = PrivateKey.of(adverts.seed[dropped].site, secrets[dropped])
        masks += [
            Mask(key.pair_seed(adverts.seed[survivor], pair_context), 1 if dropped > survivor else -1)
            for survivor in agreed.survivors
        ]
    return masks
