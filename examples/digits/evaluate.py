"""Score a model file on the held-out digits: `python evaluate.py MODEL.safetensors FOLDER/test.npz`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from model import Net, accuracy, load

from fl_runtime.arrays import Layout, decode


def evaluate(model_file: Path, test_file: Path) -> float:
    """Return the accuracy, from 0 to 1, of a model of this example's layout.

    Raises:
        ArraysError: The file holds another model.
    """
    model = Net()
    layout = Layout.of({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    arrays = decode(bytearray(model_file.read_bytes()), layout, writable=True)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return accuracy(model, *load(test_file))


if __name__ == "__main__":
    print(f"accuracy {evaluate(Path(sys.argv[1]), Path(sys.argv[2])):.3f}")
