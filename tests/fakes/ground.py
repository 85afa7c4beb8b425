"""What attacks need: a laboratory whose attestation service runs, and on request a server and sites, as processes.

The job trains nothing: its script sends back what it received, so that no test imports torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from fl_runtime.arrays import encode
from fl_runtime.demo.federation import start_server, start_sites
from fl_runtime.demo.ground import DemoGround
from fl_runtime.demo.processes import Processes
from provisioning.layout import Laboratory
from tests.fakes.federation import laboratory

_TRAIN = """
import fl_runtime.client as flare

flare.init()
while flare.is_running():
    params = flare.receive().params
    flare.send(flare.FLModel(params=params, metrics={"accuracy": 0.5}, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""
_JOB = """
name = "echo"
rounds = 1
"""


@contextlib.asynccontextmanager
async def ground_of(directory: Path, *, sites_run: bool) -> AsyncIterator[DemoGround]:
    """Bring up a federation of four sites in `directory`/lab; server and sites run only where `sites_run` says so."""
    logs, job = directory / "logs", directory / "job"
    logs.mkdir()
    _write_job(job)
    async with laboratory(directory / "lab") as lab:
        made = lab.laboratory
        async with Processes(logs, environment=os.environ, stop_order=("server",)) as processes:
            if sites_run:
                _make_light(made)
                await start_server(made, processes)
                await start_sites(made, processes, admitted=lambda _: None)
            yield DemoGround(
                laboratory=made,
                job=job,
                job_id="echo",
                image=(),
                programs=processes,
            )


def _write_job(folder: Path) -> None:
    folder.mkdir()
    (folder / "job.toml").write_text(_JOB)
    (folder / "train.py").write_text(_TRAIN)
    (folder / "model.safetensors").write_bytes(encode({"weight": np.ones(8, dtype=np.float32)}))


def _make_light(made: Laboratory) -> None:
    """Let sites have data, and launchers that import nothing before they are asked to train."""
    for site in made.layout.sites:
        made.data(site).write_bytes(b"no pictures")
        settings = made.kit(site) / "site.toml"
        settings.write_text(f"{settings.read_text()}preload = []\n")
