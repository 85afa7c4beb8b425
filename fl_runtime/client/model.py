"""What a script and the runtime exchange: a model, its metrics, and what else is to be said about them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class ParamsType(StrEnum):
    """What params are: the model itself, or its difference from the model received."""

    FULL = "FULL"
    DIFF = "DIFF"


class MetaKey:
    """Keys of `FLModel.meta` that mean something to the runtime."""

    NUM_STEPS_CURRENT_ROUND = "NUM_STEPS_CURRENT_ROUND"  # this site's weight in the mean; a whole number from 1
    INITIAL_METRICS = "initial_metrics"
    JOB_ID = "job_id"
    SITE_NAME = "site_name"
    CURRENT_ROUND = "current_round"
    TOTAL_ROUNDS = "total_rounds"
    VALIDATE_TYPE = "validate_type"
    SUBMIT_MODEL_NAME = "submit_model_name"


class FLModel:
    """A model on its way between the runtime and a script.

    Args:
        params_type: What `params` are; FULL when params are given without it.
        params: Tensors by name, as numpy arrays or torch tensors.
        optimizer_params: Kept with the object for the script's own use; it does not travel.
        metrics: Numbers by name.
        start_round: The job's first round.
        current_round: The round this belongs to.
        total_rounds: How many rounds the job has.
        meta: Text, numbers and booleans by name; `MetaKey` lists those the runtime reads.

    Raises:
        ValueError: A params_type without params, or one that does not exist.
        TypeError: params, metrics or meta is not a mapping.
    """

    def __init__(
        self,
        params_type: ParamsType | str | None = None,
        params: Mapping[str, Any] | None = None,
        optimizer_params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        start_round: int | None = 0,
        current_round: int | None = None,
        total_rounds: int | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if params is None and params_type is not None:
            raise ValueError(f"params_type is {params_type!r} and there are no params")
        for name, value in (("params", params), ("metrics", metrics), ("meta", meta)):
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(f"{name} is a {type(value).__name__}, expected a dict")
        self.params_type = None if params is None else ParamsType(params_type or ParamsType.FULL)
        self.params = params
        self.optimizer_params = optimizer_params
        self.metrics = metrics
        self.start_round = start_round
        self.current_round = current_round
        self.total_rounds = total_rounds
        self.meta: dict[str, Any] = dict(meta or {})

    def summary(self) -> dict[str, Any]:
        """How many there are of everything; never a value of a model, a metric or meta."""
        return {
            "params_type": self.params_type.value if self.params_type else None,
            "params": len(self.params or ()),
            "optimizer_params": len(self.optimizer_params or ()),
            "metrics": len(self.metrics or ()),
            "meta": len(self.meta),
            "current_round": self.current_round,
            "total_rounds": self.total_rounds,
        }

    def __repr__(self) -> str:
        return f"FLModel({', '.join(f'{name}={value}' for name, value in self.summary().items())})"
