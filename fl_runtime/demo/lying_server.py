"""An FL server that an intruder has changed as it runs: it shows one site another model than the others.

    python -m fl_runtime.demo.lying_server --config server.toml --victim hospital-d

It has the honest server's kit, machine and measurement, and attests like it: evidence says what was launched, and cannot say
that a program was subverted later. What stops it is that sites compare what they were shown before they mask anything.

The attack: a server that shows most sites a model whose gradients vanish has the sum of all updates be the victim's own.
Source: Pasquini, Francati, Ateniese 2022, https://arxiv.org/abs/2111.07380
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from attestation.channel.interceptor import attested_caller
from fl_runtime.arrays import decode, encode, flatten, unflatten
from fl_runtime.demo.errors import DemoError
from fl_runtime.jobs.model_blob import open_model, seal_model
from fl_runtime.secure_aggregation.errors import PeerRefusedError
from fl_runtime.secure_aggregation.messages import Signed, Step
from fl_runtime.secure_aggregation.server import ServerRound
from fl_runtime.server import attempt, program
from fl_runtime.server.edge import FederationEdge, read_chunks
from fl_runtime.server.settings import ServerSettings
from fl_runtime.transport import federation_pb2 as pb
from policies.settings import load_settings


class LyingEdge(FederationEdge):
    """Tells every site what the honest server says, but for the model that the victim is shown."""

    def __init__(self, *, victim: str, **honest: Any) -> None:  # noqa: ANN401 - whatever the honest edge takes
        """Lie to `victim`."""
        super().__init__(**honest)
        self._victim = victim
        self._shown: set[bytes] = set()  # names of the blobs that only the victim is sent to

    async def Join(self, request: pb.JoinRequest, context: Any) -> AsyncIterator[pb.Instruction]:  # noqa: ANN401, N802
        """Hold the control stream of one site; the victim's rounds open with another model."""
        is_victim = attested_caller(role="site").name == self._victim
        async for instruction in super().Join(request, context):
            if is_victim and instruction.HasField("round_open"):
                instruction.round_open.CopyFrom(await asyncio.to_thread(self._another_model, instruction.round_open))
            yield instruction

    async def Download(self, request: pb.DownloadRequest, context: Any) -> AsyncIterator[pb.Chunk]:  # noqa: ANN401, N802
        """Send a blob of a job, and to the victim the one that was made for it."""
        lie = request.sha256 in self._shown
        chunks = (
            read_chunks(self._blobs.path(request.sha256), request.offset) if lie else super().Download(request, context)
        )
        async for chunk in chunks:
            yield chunk

    def _another_model(self, opening: pb.RoundOpen) -> pb.RoundOpen:
        """Return the opening with the negative of its model: sealed under the job's key, with the same layout."""
        job = self._jobs.job(opening.job_id)
        rounds = job._rounds  # noqa: SLF001 - an intruder reads what is in memory
        if rounds is None:
            raise DemoError(f"{job.job_id} has no key yet, and a round of it was opened")
        key = rounds.key
        layout = job.terms.layout
        domain, number = job.manifest.trust_domain, opening.round
        blob = self._blobs.read(opening.model_blob)
        model = decode(open_model(blob, key, trust_domain=domain, job=job.job_id, round_number=number), layout)
        negative = encode(unflatten(np.negative(flatten(model, layout)), layout, model), layout)
        sealed = seal_model(negative, key, trust_domain=domain, job=job.job_id, round_number=number)
        name = self._blobs.put(sealed)
        self._shown.add(name)
        changed = pb.RoundOpen()
        changed.CopyFrom(opening)
        changed.model_blob, changed.model_blob_size = name, len(sealed)
        return changed


class ForwardingRound(ServerRound):
    """Passes on every advert without looking at it: an honest server would itself refuse the victim's, and so be found out."""

    def receive_advert(self, raw: bytes) -> str:
        """Keep one site's keys, whatever model they were made for."""
        sender = Signed.parse(raw).sender
        self._keep(Step.ADVERTISE, self._cohort.index(sender), raw)
        return sender

    def close_adverts(self) -> tuple[bytes, ...]:
        """Return all adverts, for each site, though they do not fit each other."""
        try:
            return super().close_adverts()
        except PeerRefusedError:
            self._step = Step.SHARE
            return tuple(self._received[Step.ADVERTISE].values())


@click.command()
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The honest server's settings."
)
@click.option("--victim", required=True, help="The site that is shown another model.")
def main(config: Path, victim: str) -> None:
    """Serve like `cloister server start`, and lie to one site."""
    # The honest program, with two parts exchanged as it runs: nothing of this is on its disk or in its measurement.
    vars(program).update(FederationEdge=functools.partial(LyingEdge, victim=victim))
    vars(attempt).update(ServerRound=ForwardingRound)
    asyncio.run(program.serve(load_settings(config, ServerSettings), say=click.echo))


if __name__ == "__main__":
    main()
