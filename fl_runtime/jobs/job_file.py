"""A job as its submitter writes it: a folder with `job.toml`, the training script and the initial model."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from fl_runtime.arrays import Layout, decode, read_layout, require_finite
from fl_runtime.errors import ArraysError
from fl_runtime.jobs.archive import pack, read
from fl_runtime.secure_aggregation.parameters import MICROS
from policies.documents import Name
from policies.errors import UsageError
from policies.settings import Settings, load_settings
from policies.site_policy import Profile

JOB_FILE = "job.toml"


def _require_text(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError(f'a clip bound is written as text, clip = "{value}", so that every site reads the same number')  # noqa: TRY004 - pydantic wants it
    return value


Decimal = Annotated[
    str, BeforeValidator(_require_text), StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?$")
]  # millionths at the finest


class Aggregation(Settings):
    """How updates are bounded and summed."""

    clip: Decimal = "4.0"  # bound of each coordinate of an update
    weight_cap: int = Field(default=10_000, ge=1)  # a site counts for at most so many samples
    min_survivors: int | None = Field(default=None, ge=3)  # sites in a sum; as many as the threshold where not said
    ring_bits: Literal[32, 64] = 32
    threshold: int | None = Field(default=None, ge=1)  # t of the secret sharing; floor(2n/3) + 1 where not said

    @property
    def clip_micros(self) -> int:
        """The bound in millionths."""
        whole, _, fraction = self.clip.partition(".")
        return int(whole) * MICROS + int(fraction.ljust(6, "0"))


class JobFile(Settings):
    """What `job.toml` says."""

    name: Name = Field(max_length=54)  # leaves room for what makes a job's id unique
    workflow: Literal["fedavg"] = "fedavg"
    rounds: int = Field(ge=1, le=100_000)
    script: str = "train.py"  # within the folder
    args: tuple[str, ...] = Field(default=(), max_length=64)
    sites: tuple[Name, ...] | None = Field(default=None, min_length=1)  # all of the roster where not said
    min_sites: int | None = Field(default=None, ge=1)  # how many open a round; all where not said
    profile: Profile = "tee+mask"
    model: str = "model.safetensors"  # the initial one, within the folder
    metrics: tuple[Name, ...] = Field(default=("accuracy",), max_length=64)  # that sites are asked for, by name
    round_timeout_seconds: int = Field(default=600, ge=1)
    aggregation: Aggregation = Aggregation()
    config: dict[str, str | int | bool] = Field(default={}, max_length=256)  # handed to the script


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPackage:
    """Everything that a submitter has written, read and checked, and nothing else."""

    file: JobFile
    code: bytes  # `archive.pack`
    model: bytes  # safetensors, in the clear
    layout: Layout


def load_job(folder: Path) -> JobPackage:
    """Read a job's folder.

    Raises:
        UsageError: `job.toml` has problems, each with its line, or names a script or a model that is not there or not one.
        ArchiveError: The code cannot be packed.
    """
    path = folder / JOB_FILE
    file = load_settings(path, JobFile)
    model_path = folder / file.model
    code = pack(folder, leave_out=(path, model_path))
    names = list(read(code))
    if file.script not in names:
        near = difflib.get_close_matches(file.script, names, n=1)
        raise UsageError(
            f"{path}: the script {file.script!r} is not among the job's {len(names)} files of code",
            hint=f"did you mean {near[0]!r}?" if near else f"put it into {folder}",
        )
    try:
        model = model_path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: the initial model {model_path} cannot be read: {error.strerror}",
            hint="write it once, from the model in your script: fl_runtime.arrays.encode or safetensors' save_file",
        ) from error
    return JobPackage(file=file, code=code, model=model, layout=_layout_of(model, model_path))


def _layout_of(model: bytes, path: Path) -> Layout:
    try:
        layout = read_layout(model)  # the submitter's own file
        require_finite(decode(model, layout))
    except ArraysError as error:
        raise UsageError(
            f"the initial model {path}: {error.message}",
            hint="it must be safetensors, as `fl_runtime.arrays.encode` writes them",
        ) from error
    return layout
