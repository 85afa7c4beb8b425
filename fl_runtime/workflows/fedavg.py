"""Federated averaging."""

from __future__ import annotations

from fl_runtime.arrays import ModelArrays
from fl_runtime.federation import Federation, Train


def fedavg(federation: Federation, model: ModelArrays, *, rounds: int) -> ModelArrays:
    """Average the sites' models, each weighted by its samples.

    Source: McMahan et al. 2017, algorithm 1, https://arxiv.org/abs/1602.05629
    """
    for number in range(rounds):
        total = federation.reduce(Train(model=model, round=number))  # a weighted mean: nothing else exists here
        model = total.mean()
    return model
