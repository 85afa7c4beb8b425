"""What the federation is compared with: all data in one place, and each site alone. `python baselines.py FOLDER [SEED]`.

Same model, same initial parameters, same number of epochs, same held-out pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from model import Net, accuracy, fit, load


def baselines(data_dir: Path, *, rounds: int, epochs: int, seed: int) -> dict[str, float]:
    """Return accuracies on `test.npz`: "centralised", and one for each site by its file's name.

    Args:
        data_dir: Folder that `prepare.py` wrote.
        rounds: Rounds of the federation; `rounds * epochs` epochs are trained here.
        epochs: Local epochs in a round.
        seed: Of the initial parameters and the order of the samples.
    """
    test = load(data_dir / "test.npz")
    sites = {path.stem: load(path) for path in sorted(data_dir.glob("*.npz")) if path.stem != "test"}
    everything = (torch.cat([x for x, _ in sites.values()]), torch.cat([y for _, y in sites.values()]))
    scores = {}
    torch.set_num_threads(1)  # as trainers do: the model is too small for more
    for name, (features, labels) in {"centralised": everything, **sites}.items():
        model = Net(seed)
        fit(model, features, labels, epochs=rounds * epochs, seed=f"{seed}/{name}")
        scores[name] = accuracy(model, *test)
    return scores


if __name__ == "__main__":
    chosen = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for name, score in baselines(Path(sys.argv[1]), rounds=5, epochs=10, seed=chosen).items():
        print(f"{name:12} {score:.3f}")
