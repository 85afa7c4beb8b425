"""What a site asks of its trainer launcher, as messages of `fl_runtime.client.wire`, and the description of one trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fl_runtime.client.context import JobView
from fl_runtime.client.wire import Text
from policies.documents import Document, Name

LOG_NAME = "trainer.log"  # what the script prints, in the trainer's workdir


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSpec:
    """One trainer: whose script it runs, on what, and as whom.

    Every path is absolute. The script may read its workdir, `readable` and Python's own files, and write below `scratch`.
    """

    job: str
    site: str
    script: Path  # of the user; its folder and the workdir count as the user's own files in error messages
    workdir: Path  # where it runs and where LOG_NAME is written; exists
    scratch: Path  # exists and belongs to `uid` where that is given
    config: Mapping[str, Any] = field(default_factory=dict)  # JSON; what `flare.get_config()` returns
    args: tuple[str, ...] = ()  # sys.argv[1:]
    readable: tuple[Path, ...] = ()  # data files or folders
    torch_threads: int = 1
    uid: int | None = None  # user and group to become; needs root
    gid: int | None = None
    data_workers: bool = False  # DataLoader workers need unix sockets and shared memory: both are allowed then

    def request(self) -> Start:
        """Return the message that asks for this trainer."""
        return Start(
            view=JobView(job=self.job, site=self.site, config=self.config).encode(),
            job=self.job,
            site=self.site,
            script=str(self.script),
            workdir=str(self.workdir),
            scratch=str(self.scratch),
            args=self.args,
            readable=tuple(map(str, self.readable)),
            torch_threads=self.torch_threads,
            uid=self.uid,
            gid=self.gid,
            data_workers=self.data_workers,
        )


class Start(Document):
    """Fork one trainer; answered by `Started` with the trainer's socket."""

    kind: Literal["start"] = "start"
    view: str  # `JobView.encode`: JSON that may hold floats, which strict JSON does not
    job: Name
    site: Name
    script: Text
    workdir: Text
    scratch: Text
    args: tuple[Text, ...]
    readable: tuple[Text, ...]
    torch_threads: int = Field(ge=1, le=1024)
    uid: int | None = Field(ge=1)
    gid: int | None = Field(ge=1)
    data_workers: bool


class Started(Document):
    """A trainer was forked; its socket comes along."""

    kind: Literal["started"] = "started"
    pid: int


class Stop(Document):
    """Kill one trainer and everything it started; answered by `Stopped` when it is gone."""

    kind: Literal["stop"] = "stop"
    pid: int


class Stopped(Document):
    """The trainer is gone."""

    kind: Literal["stopped"] = "stopped"
    pid: int
