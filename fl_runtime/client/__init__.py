"""Client API: five lines in a training script, `import fl_runtime.client as flare`."""

from fl_runtime.client.api import (
    clear,
    get_config,
    get_context,
    get_job_id,
    get_site_name,
    get_task_name,
    init,
    is_evaluate,
    is_running,
    is_submit_model,
    is_train,
    log,
    receive,
    send,
    shutdown,
    system_info,
)
from fl_runtime.client.context import APIContext
from fl_runtime.client.model import FLModel, MetaKey, ParamsType

__all__ = [
    "APIContext",
    "FLModel",
    "MetaKey",
    "ParamsType",
    "clear",
    "get_config",
    "get_context",
    "get_job_id",
    "get_site_name",
    "get_task_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "log",
    "receive",
    "send",
    "shutdown",
    "system_info",
]
