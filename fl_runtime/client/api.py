"""The functions of the Client API. A script writes `import fl_runtime.client as flare` and calls them by name.

They hold the one piece of module state in this project, the context that `init` opened: a script that is a process of its own
has one conversation, and asking it to pass that around would cost what the API is for. Every function takes `ctx` too.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from fl_runtime.client.context import APIContext
from fl_runtime.client.model import FLModel

logger = logging.getLogger(__name__)


class _Current:
    """Where `init` leaves the context for the other functions."""

    context: APIContext | None = None


def init(rank: str | int | None = None, config_file: str | None = None) -> APIContext:
    """Open the conversation with the runtime. A second call with the same arguments returns the first one's context.

    Args:
        rank: Rank of this process in a distributed script; `$RANK` or 0 by default. Only rank 0 talks to the runtime.
        config_file: JSON file of values for `get_config`; what the job says goes before them.

    Raises:
        UsageError: The script was not started by a runtime.
        ValueError: Already open with other arguments.
    """
    name = str(rank if rank is not None else os.environ.get("RANK", "0"))
    opened = _Current.context
    if opened is None:
        _Current.context = opened = APIContext(rank=name, config_file=config_file, environment=os.environ)
    elif (opened.rank, opened.config_file) != (name, config_file):
        raise ValueError(
            f"already initialised as rank {opened.rank} with {opened.config_file}: call flare.shutdown first"
        )
    else:
        logger.warning("flare.init was called again; the first call's context stays")
    return opened


def get_context(ctx: APIContext | None = None) -> APIContext:
    """Return `ctx`, or the context that `init` opened.

    Raises:
        RuntimeError: `init` has not been called.
    """
    context = ctx or _Current.context
    if context is None:
        raise RuntimeError("call flare.init() first")
    return context


def is_running(ctx: APIContext | None = None) -> bool:
    """Wait for the next task; False when the job needs nothing more."""
    return get_context(ctx).is_running()


def receive(timeout: float | None = None, ctx: APIContext | None = None) -> FLModel | None:
    """Return the model of the current task; None if none came within `timeout` seconds, or at the end of the job.

    Its params are torch tensors if the script has imported torch, numpy arrays if not; they are the script's to change.
    """
    return get_context(ctx).receive(timeout)


def send(model: FLModel, clear_cache: bool = True, ctx: APIContext | None = None) -> None:
    """Answer the current task; `clear_cache` lets go of the received model. Refuses, here, what the runtime would refuse."""
    get_context(ctx).send(model, clear_cache=clear_cache)


def is_train(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to train."""
    return get_task_name(ctx) == "train"


def is_evaluate(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to evaluate the received model."""
    return get_task_name(ctx) == "validate"


def is_submit_model(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to hand in this site's own model."""
    return get_task_name(ctx) == "submit_model"


def get_task_name(ctx: APIContext | None = None) -> str:
    """Name of the current task: "train", "validate" or "submit_model"; empty between tasks."""
    return get_context(ctx).task_name


def get_job_id(ctx: APIContext | None = None) -> str:
    """Name of the job."""
    return get_context(ctx).view.job


def get_site_name(ctx: APIContext | None = None) -> str:
    """Name of the site this runs at."""
    return get_context(ctx).view.site


def system_info(ctx: APIContext | None = None) -> dict[str, str]:
    """Return `{"site_name": ..., "job_id": ...}`."""
    return {"site_name": get_site_name(ctx), "job_id": get_job_id(ctx)}


def get_config(ctx: APIContext | None = None) -> dict[str, Any]:
    """Return what the job and the site say to the script, such as `{"data": "/data/site.npz", "args": {...}}`."""
    return dict(get_context(ctx).config)


def log(
    key: str, value: object, data_type: str = "SCALAR", ctx: APIContext | None = None, *, global_step: int | None = None
) -> bool:
    """Send one record to the site's log, such as a loss; True if it was sent. It also tells the site of progress."""
    return get_context(ctx).log(key, value, data_type=data_type, step=global_step)


def clear(ctx: APIContext | None = None) -> None:
    """Let go of the received model, so that its memory can be freed."""
    get_context(ctx).clear()


def shutdown(ctx: APIContext | None = None) -> None:
    """End the conversation; harmless when there is none."""
    context = ctx or _Current.context
    if context is not None:
        context.close()
    if context is _Current.context:
        _Current.context = None
