"""Everything that a record can tell of: the closed list of actions, and the words in which each is told.

To add one, name it in `Action` and give it its words in `WORDING`; a test holds the two lists together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Action = Literal[
    "log.open",
    "log.close",
    "log.cut",
    "audit.halt",
    "audit.resume",
    "service.genesis",
    "attestation.decision",
    "key.deposit",
    "key.release",
    "policy.change",
    "job.submit",
    "job.approve",
    "job.state",
    "server.appraise",
    "peer.appraise",
    "round.open",
    "round.commit",
    "round.abandon",
    "update.sent",
    "unmask",
    "model.release",
    "checkpoint.cosign",
    "refuse",
]


@dataclass(frozen=True, slots=True)
class Wording:
    """How an action is told: `<actor> <did> <object>`, and where it was denied `<actor> refused to <would> <object>`."""

    did: str
    would: str


WORDING: Mapping[Action, Wording] = {
    # About the log itself: the first record of a boot (certifies its log key), the last, a torn tail, a full disk.
    "log.open": Wording("opened the log", "open the log"),
    "log.close": Wording("closed the log", "close the log"),
    "log.cut": Wording("cut what a crash had left unfinished in", "cut"),
    "audit.halt": Wording("could record nothing more in", "halt"),
    "audit.resume": Wording("could record again in", "resume"),
    # The attestation service.
    "service.genesis": Wording("made the keys of", "make the keys of"),
    "attestation.decision": Wording("accepted the evidence of", "accept the evidence of"),
    "key.deposit": Wording("took into keeping the key", "take into keeping the key"),
    "key.release": Wording("released the key", "release the key"),
    "policy.change": Wording("put into force the policy", "put into force the policy"),
    # Jobs and rounds, at the server.
    "job.submit": Wording("took the job of", "take the job of"),
    "job.approve": Wording("approved the job", "approve the job"),
    "job.state": Wording("moved the job", "move the job"),
    "round.open": Wording("opened the round with", "open the round with"),
    "round.commit": Wording("committed the sum of", "commit the sum of"),
    "round.abandon": Wording("abandoned", "go on with"),
    "unmask": Wording("asked to unmask the sum of", "unmask the sum of"),
    "model.release": Wording("released the final model to", "release the final model to"),
    # At a site: it appraises the server and its peers, sends masked updates, and witnesses other logs.
    "server.appraise": Wording("verified the evidence of the server", "trust the server"),
    "peer.appraise": Wording("verified the evidence of its peer", "trust the peer"),
    "update.sent": Wording("sent", "send"),
    "checkpoint.cosign": Wording("cosigned the log", "cosign the log"),
    # Anything else that was refused, with its reasons.
    "refuse": Wording("refused", "accept"),
}
