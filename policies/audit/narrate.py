"""The story in words: one sentence for each record, all logs merged in the order of time."""

from __future__ import annotations

from collections.abc import Sequence

from policies.audit.actions import WORDING
from policies.audit.record import Record
from policies.audit.story import DONE, INTENDED, VOID, in_order, is_outcome, settle


def narrate(records: Sequence[Record]) -> list[str]:
    """Tell what happened, in order, one sentence each; an intent without an outcome reads "possibly happened"."""
    settled, _ = settle(records)
    return [
        _sentence(record, possibly=record.next == INTENDED and (record.log, record.seq) not in settled)
        for record in in_order(records)
    ]


def _sentence(record: Record, *, possibly: bool) -> str:
    wording = WORDING[record.action]
    deed = f"refused to {wording.would}" if record.decision == "deny" and record.action != "refuse" else wording.did
    outcome = {DONE: " (it is done)", VOID: " (it did not happen)"}[record.next or ""] if is_outcome(record) else ""
    return (
        f"{record.ts} {record.log} #{record.seq}: {record.actor} {deed} {record.object}"
        + _where(record)
        + (f" from {record.previous} to {record.next}" if _moves(record) else "")
        + (f", asked through {record.via}" if record.via != "self" else "")
        + (f": {'; '.join(record.reasons)}" if record.reasons else "")
        + outcome
        + (" (possibly happened: no outcome is recorded)" if possibly else "")
    )


def _where(record: Record) -> str:
    number = [f"round {record.round + 1}"] if record.round is not None else []  # people count from one
    job = [f"job {record.job}"] if record.job is not None and record.job != record.object else []
    return f" ({', '.join([*job, *number])})" if job or number else ""


def _moves(record: Record) -> bool:
    return record.action == "job.state" and record.previous is not None and record.next is not None
