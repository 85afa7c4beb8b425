"""A watched log proves what it shows: each head continues the one that its witness knows, whatever is signed meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestation.witnessing import Watched
from policies.audit import AuditLog, Event, WitnessState
from policies.audit.checkpoint import SignedCheckpoint
from tests.fakes.audit_folder import Program


class Busy:
    """A log in which, whenever its head is looked at, another thread signs a newer one at once."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @property
    def latest(self) -> SignedCheckpoint | None:
        shown = self._log.latest
        self._log.append_critical(Event(action="refuse", actor="server", object="something"))
        self._log.checkpoint()
        return shown


async def test_head_is_proved_to_its_own_size_while_newer_ones_are_signed(tmp_path: Path) -> None:
    server, site = Program("server"), Program("site-a")
    state, sizes = WitnessState.empty(server.origin), []
    with server.open(tmp_path) as log:
        watched = Watched(Busy(log))  # type: ignore[arg-type]
        heads = watched.heads(0)
        while len(sizes) < 3:
            head = await anext(heads)
            state, _ = state.advance(
                SignedCheckpoint.parse(head.checkpoint),
                head.consistency,
                log_key=server.public_key,
                name=site.origin,
                key=site.key,
                seconds=1,
            )
            sizes.append(state.size)
            await watched.publish()
    assert sizes == sorted(set(sizes))
