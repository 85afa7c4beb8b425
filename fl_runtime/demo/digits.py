"""What the demonstration asks of the digits example, in processes of their own: only here is torch imported.

    python -m fl_runtime.demo.digits prepare EXAMPLE FOLDER SEED
    python -m fl_runtime.demo.digits score EXAMPLE FOLDER SEED MODEL ROUNDS EPOCHS

`prepare` writes the data and `model.safetensors`, and prints how many samples each file has; `score` prints accuracies on the
held-out pictures. Both print one JSON object.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from fl_runtime.arrays import Layout, encode
from policies.errors import UsageError
from policies.files import write_atomically

MODEL = "model.safetensors"
FEDERATED = "federated"


def example_folder() -> Path:
    """Return the folder of the digits example in the clone that this package was installed from.

    Raises:
        UsageError: This package was not installed from a clone.
    """
    folder = Path(__file__).resolve().parents[2] / "examples" / "digits"
    if not (folder / "prepare.py").is_file():
        raise UsageError(
            f"the demonstration trains the digits example, and {folder} is not there",
            hint="run it from a clone of the repository, where `make setup` installs the package",
        )
    return folder


def prepare(folder: Path, *, seed: int) -> dict[str, int]:
    """Write each site's data, the held-out pictures, and the initial model; return how many samples each file has."""
    counts = import_module("prepare").prepare(folder, seed=seed)
    state = import_module("model").Net(seed).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    write_atomically(folder / MODEL, encode(arrays, Layout.of(arrays)))
    return dict(counts)


def score(folder: Path, model: Path, *, seed: int, rounds: int, epochs: int) -> dict[str, float]:
    """Return the accuracy of the federated model, of one trained on all data, and of one for each site's file."""
    federated = import_module("evaluate").evaluate(model, folder / "test.npz")
    others = import_module("baselines").baselines(folder, rounds=rounds, epochs=epochs, seed=seed)
    return {FEDERATED: float(federated), **others}


def main(arguments: list[str]) -> None:
    """Do what the command line says; errors of the example end in a traceback, as in any script."""
    verb, example, folder, seed, *rest = arguments
    sys.path.insert(0, example)
    result: dict[str, int] | dict[str, float]
    if verb == "prepare":
        result = prepare(Path(folder), seed=int(seed))
    else:
        model, rounds, epochs = rest
        result = score(Path(folder), Path(model), seed=int(seed), rounds=int(rounds), epochs=int(epochs))
    print(json.dumps(result))  # noqa: T201 - its result


if __name__ == "__main__":
    main(sys.argv[1:])
