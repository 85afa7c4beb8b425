"""Share handwritten digits out among four sites of unequal size: `python prepare.py FOLDER [SEED]`.

Writes `test.npz` (a fifth, which no site sees) and `hospital-a.npz` to `hospital-d.npz`, each with `features` (float32, n
by 64, from 0 to 1) and `labels` (int64, n). The sites' mixtures of digits differ mildly. The same seed writes the same
files. The digits are those that come with scikit-learn; this is the only file that needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
SHARES = (0.07, 0.17, 0.31, 0.45)  # of the samples that are not held out, site by site
SKEW = 0.7  # standard deviation of the logarithm of a site's appetite for a digit; 0 gives every site the same mixture
DIGITS = 10

Floats = npt.NDArray[np.float64]


def prepare(folder: Path, *, seed: int = 0) -> dict[str, int]:
    """Write the files and return how many samples each has."""
    random = np.random.default_rng(seed)
    digits = load_digits()
    order = random.permutation(len(digits.target))
    features = (digits.data[order] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    held_out = len(labels) // 5
    owner = np.full(len(labels), -1)
    owner[held_out:] = _owners(labels[held_out:], random)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, number in {"test": -1, **{site: number for number, site in enumerate(SITES)}}.items():
        mine = owner == number
        np.savez(folder / f"{name}.npz", features=features[mine], labels=labels[mine])
        counts[name] = int(mine.sum())
    return counts


def _owners(labels: npt.NDArray[np.int64], random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Say for each sample, in random order, which site it belongs to."""
    mixture = _mixture(random)
    owners = np.empty(len(labels), np.int64)
    for digit in range(DIGITS):
        mine = np.flatnonzero(labels == digit)
        bounds = np.round(np.cumsum(mixture[:, digit])[:-1] * len(mine)).astype(np.int64)
        for site, indices in enumerate(np.split(mine, bounds)):
            owners[indices] = site
    return owners


def _mixture(random: np.random.Generator) -> Floats:
    """Return the part of each digit (column) that each site (row) gets; rows average to `SHARES`, columns sum to one."""
    appetite: Floats = np.exp(SKEW * random.standard_normal((len(SHARES), DIGITS)))
    for _ in range(100):  # proportional fitting: rows, then columns, until both hold
        appetite *= (np.array(SHARES) / appetite.mean(axis=1))[:, None]
        appetite /= appetite.sum(axis=0)
    return appetite


if __name__ == "__main__":
    for name, count in prepare(Path(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0).items():
        print(f"{name}.npz  {count} samples")
