"""Score a model file on the held-out digits: `python evaluate.py MODEL.safetensors FOLDER/test.npz`."""

from __future__ import annotations

import sys
from pathlib import Path

from model import Net, accuracy, load
from safetensors.torch import load_file


def evaluate(model_file: Path, test_file: Path) -> float:
    """Return the accuracy, from 0 to 1, of a model of this example's layout.

    Raises:
        RuntimeError: The file holds another model.
    """
    model = Net()
    model.load_state_dict(load_file(model_file))
    return accuracy(model, *load(test_file))


if __name__ == "__main__":
    print(f"accuracy {evaluate(Path(sys.argv[1]), Path(sys.argv[2])):.3f}")
