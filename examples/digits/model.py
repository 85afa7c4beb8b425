"""The model of the digits example, and how it is trained and scored wherever that happens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 16
LEARNING_RATE = 0.03
MOMENTUM = 0.9


class Net(nn.Module):
    """Two layers for pictures of 8 by 8 pixels: 64 inputs, 64 hidden, 10 digits; 4810 parameters. A seed fixes them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.Linear(64, 64)
            self.output = nn.Linear(64, 10)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of n pictures, n by 10."""
        logits: Tensor = self.output(torch.relu(self.hidden(features)))
        return logits


def load(path: Path | str) -> tuple[Tensor, Tensor]:
    """Return features and labels of one file of `prepare.py`."""
    with np.load(path, allow_pickle=False) as file:
        return torch.from_numpy(file["features"]), torch.from_numpy(file["labels"])


def fit(model: Net, features: Tensor, labels: Tensor, *, epochs: int, seed: str) -> int:
    """Train in place and return the number of samples seen in an epoch. The same seed gives the same model."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big"))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(features[batch]), labels[batch]).backward()
            optimizer.step()
    return len(labels)


@torch.no_grad()
def accuracy(model: Net, features: Tensor, labels: Tensor) -> float:
    """Return the part of the pictures whose digit the model names, from 0 to 1."""
    model.eval()
    return float((model(features).argmax(dim=1) == labels).float().mean())
