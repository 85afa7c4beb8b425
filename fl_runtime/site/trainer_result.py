"""A trainer's answer, and the checks it passes before the site uses it. A trainer is not believed: it runs the job's code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from fl_runtime.arrays import Layout, ModelArrays, decode, require_finite
from fl_runtime.client.model import ParamsType
from fl_runtime.client.wire import Result, Task, open_sealed, sample_count
from fl_runtime.errors import FederationError


@dataclass(frozen=True, slots=True, kw_only=True)
class FLModelResult:
    """A trainer's answer, checked: its arrays are of the expected layout and finite."""

    params: ModelArrays | None  # views of sealed memory; None after "validate" without params
    params_type: ParamsType | None
    metrics: Mapping[str, float]
    sample_count: int | None  # weight in the mean, from 1; None unless the task was to train
    meta: Mapping[str, bool | int | str | float]


def check_result(result: Result, fd: int | None, task: Task, layout: Layout | None) -> FLModelResult:
    """Compare an answer with its task and return it, with its arrays mapped.

    Args:
        result: What the trainer said.
        fd: Descriptor that came along; closed here.
        task: What it was asked.
        layout: Of the model it was given last; None if it never was.

    Raises:
        ArraysError: Its arrays are not of the layout, or not finite.
        FederationError: It has no params or no weight where its task needs them.
    """
    if (fd is None) != (result.params_type is None):
        if fd is not None:
            os.close(fd)
        raise FederationError("a trainer's answer has params without their type, or a type without params")
    params = None
    if fd is not None:
        memory = open_sealed(fd)
        if layout is None:
            raise FederationError("a trainer answered with params before it was given a model to compare them with")
        params = decode(memory, layout)
        require_finite(params)
    elif task.name != "validate":
        raise FederationError(f"a {task.name} task was answered without params")
    try:
        count = sample_count(result.meta) if task.name == "train" else None
    except ValueError as error:
        raise FederationError(str(error)) from error
    meta = {**result.meta, **result.numbers}
    return FLModelResult(
        params=params, params_type=result.params_type, metrics=result.metrics, sample_count=count, meta=meta
    )
