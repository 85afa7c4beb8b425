"""Which stories are legal: what must have happened before a key was released, a sum unmasked, a model let out.

Records can be genuine and still tell of something that must not happen. These rules hold across all logs of a folder:

1. a key is released only after an attestation with the same jti was accepted;
2. a key for a job is released only after a site approved that job;
3. a round is committed only after it was opened, and once;
4. a sum is unmasked only after its round was opened;
5. a model is released only after a round of its job was committed (its own round, where it names one);
6. what was denied does not happen after all under the same request;
7. an outcome settles an intent, once.

Only the log of the role whose act it is counts as a cause: the service attests, a site approves, the server keeps the rounds.
Within a log, "before" is the order of records. Between logs it is time, and clocks differ: an event up to `CLOCK_SKEW`
later still counts as before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta

from policies.audit.actions import Action
from policies.audit.record import Record
from policies.audit.trust import LogKind
from policies.errors import IllegalStoryError

CLOCK_SKEW = timedelta(seconds=60)  # PROTOCOL section 2, "Time": more than that is reported as a fault of its own
Place = tuple[str, int]  # the log and the number of a record
INTENDED = "intended"
DONE, VOID = "done", "void"
EFFECTS: frozenset[Action] = frozenset(
    {"key.release", "round.open", "round.commit", "unmask", "model.release", "update.sent", "policy.change"}
)


def in_order(records: Sequence[Record]) -> list[Record]:
    """Merge the records of several logs by time; those of one log stay in their order."""
    return sorted(records, key=lambda record: (record.ts, record.log, record.seq))


def check_story(records: Sequence[Record], kinds: Mapping[str, LogKind]) -> None:
    """Require that `records` tell a legal story.

    Args:
        records: Of all logs; those of one log in their order.
        kinds: What each log is, by name.

    Raises:
        IllegalStoryError: One of the rules above is broken; the message names the record.
    """
    outcomes = _require_settled(records)  # 7
    _check_denials(records)  # 6
    story = _Story(records, kinds, void={place for place, outcome in outcomes.items() if outcome.next == VOID})
    _check_releases(story)  # 1, 2
    _check_rounds(story)  # 3, 4, 5


class _Story:
    """Records by action. A record counts as a cause only in the log of the role whose act it is."""

    def __init__(self, records: Sequence[Record], kinds: Mapping[str, LogKind], *, void: AbstractSet[Place]) -> None:
        self._by_action: dict[Action, list[Record]] = defaultdict(list)
        self._kinds = kinds
        self._void = void
        for record in records:
            if record.decision != "deny" and not is_outcome(record):
                self._by_action[record.action].append(record)

    def effects(self, action: Action) -> list[Record]:
        """What was not denied: it happened, or was about to."""
        return self._by_action[action]

    def causes(
        self, action: Action, kind: LogKind, by: Callable[[Record], Hashable | None]
    ) -> Mapping[Hashable, list[Record]]:
        """What happened at a program of `kind`, by a key: not settled as void, and with a key, since none proves nothing."""
        groups: dict[Hashable, list[Record]] = defaultdict(list)
        for record in self.effects(action):
            key = by(record)
            if key is not None and self._kinds.get(record.log) == kind and (record.log, record.seq) not in self._void:
                groups[key].append(record)
        return groups


def _check_releases(story: _Story) -> None:
    attested = story.causes("attestation.decision", "service", lambda record: _if_allowed(record, record.jti))
    approved = story.causes("job.approve", "site", lambda record: _if_allowed(record, record.job))
    for release in story.effects("key.release"):
        _require_before(release, attested.get(release.jti, ()), f"an attestation {release.jti} that was accepted")
        if release.job is not None:
            _require_before(release, approved.get(release.job, ()), f"a site that approved the job {release.job}")


def _check_rounds(story: _Story) -> None:
    opened = story.causes("round.open", "server", _round)
    committed = story.causes("round.commit", "server", _round)
    finished = story.causes("round.commit", "server", lambda record: record.job)
    for commits in committed.values():
        if len(commits) > 1:
            raise IllegalStoryError(
                f"{_place(commits[1])}: {_named(commits[1])} was committed twice, first by {_place(commits[0])}",
                hint="a round has one sum: two servers worked on one store, or a record was forged",
            )
    for record in (*story.effects("round.commit"), *story.effects("unmask")):
        _require_before(record, opened.get(_round(record), ()), f"{_named(record)} being opened")
    for release in story.effects("model.release"):
        commits = finished.get(release.job, []) if release.round is None else committed.get(_round(release), [])
        _require_before(release, commits, f"{_named(release)} being committed")


def _check_denials(records: Sequence[Record]) -> None:
    denied: dict[tuple[str, str], Record] = {}
    for record in records:
        key = (record.log, record.request or "")
        if record.request is None:
            continue
        if record.decision == "deny":
            denied.setdefault(key, record)
        elif key in denied and (record.decision == "allow" or record.action in EFFECTS):  # 6
            raise IllegalStoryError(
                f"{_place(record)}: {record.action} under request {record.request}, which {_place(denied[key])} denied",
                hint="what was denied must not happen; a new attempt has a new request",
            )


def is_outcome(record: Record) -> bool:
    """Whether a record settles an earlier intent."""
    return record.previous == INTENDED and record.next in {DONE, VOID}


def settle(records: Sequence[Record]) -> tuple[Mapping[Place, Record], tuple[Record, ...]]:
    """Find the outcome of each intent: the next one of its log with the same action, request, job and round.

    Returns:
        The outcome by the place of its intent (an intent that is missing has none, so it possibly happened), and the
        outcomes of nothing.
    """
    waiting: dict[Hashable, Record] = {}
    outcomes: dict[Place, Record] = {}
    strays: list[Record] = []
    for record in records:
        key = (record.log, record.action, record.request, record.job, record.round)
        if record.next == INTENDED:
            waiting[key] = record
        elif is_outcome(record) and key in waiting:
            intent = waiting.pop(key)
            outcomes[intent.log, intent.seq] = record
        elif is_outcome(record):
            strays.append(record)
    return outcomes, tuple(strays)


def _require_settled(records: Sequence[Record]) -> Mapping[Place, Record]:
    outcomes, strays = settle(records)
    for stray in strays:
        raise IllegalStoryError(
            f"{_place(stray)}: the outcome ({stray.next}) of {stray.action}, but no intent before it waits for one"
        )
    return outcomes


def _if_allowed(record: Record, key: str | None) -> str | None:
    return key if record.decision == "allow" else None


def _round(record: Record) -> Hashable | None:
    return None if record.job is None or record.round is None else (record.job, record.round)


def _require_before(effect: Record, causes: Sequence[Record], what: str) -> None:
    if not any(_before(cause, effect) for cause in causes):
        raise IllegalStoryError(
            f"{_place(effect)}: {effect.action} of {effect.object}, but no record before it tells of {what}"
        )


def _before(cause: Record, effect: Record) -> bool:
    if cause.log == effect.log:
        return cause.seq < effect.seq
    return cause.time <= effect.time + CLOCK_SKEW


def _place(record: Record) -> str:
    return f"log {record.log}, record {record.seq}"


def _named(record: Record) -> str:
    number = "a round" if record.round is None else f"round {record.round}"
    return f"{number} of job {record.job}"
