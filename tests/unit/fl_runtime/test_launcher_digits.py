"""The digits example, as a user has it: prepared, trained in trainers, scored, compared."""

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from fl_runtime.arrays import encode
from fl_runtime.site.trainer import TrainerLauncher
from fl_runtime.site.trainer_spec import TrainerSpec

EXAMPLE = Path(__file__).parents[3] / "examples" / "digits"
MODULES = ("prepare", "model", "baselines", "evaluate")


@pytest.fixture(scope="module")
def example():
    """Modules of the example, imported as its own scripts import each other."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        yield {name: __import__(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def data(example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    example["prepare"].prepare(folder, seed=0)
    return folder


def test_preparation_is_repeatable_and_shares_are_as_stated(example, data, tmp_path):
    counts = example["prepare"].prepare(tmp_path, seed=0)
    assert counts["test"] == 359
    assert sum(counts.values()) == 1797
    for name, share in zip(
        ("hospital-a", "hospital-b", "hospital-c", "hospital-d"), example["prepare"].SHARES, strict=True
    ):
        assert abs(counts[name] / (1797 - 359) - share) < 0.02
    for path in data.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_two_rounds_in_trainers_beat_the_smallest_site_and_repeat_bit_for_bit(example, data, tmp_path):
    first, second = (federate(example, data, tmp_path / name) for name in ("a", "b"))
    assert encode(first) == encode(second)
    model = tmp_path / "model.safetensors"
    model.write_bytes(encode(first))
    score = example["evaluate"].evaluate(model, data / "test.npz")
    alone = example["baselines"].baselines(data, rounds=2, epochs=10, seed=0)
    assert alone.keys() == {"centralised", "hospital-a", "hospital-b", "hospital-c", "hospital-d"}
    assert alone["hospital-a"] < score
    assert score > 0.9


def test_model_of_another_layout_is_not_scored(example, data, tmp_path):
    (tmp_path / "other").write_bytes(encode({"w": np.zeros(3, np.float32)}))
    with pytest.raises(RuntimeError, match="Missing key"):
        example["evaluate"].evaluate(tmp_path / "other", data / "test.npz")


def federate(example, data, folder):
    """Average two rounds over two sites, weighted by samples."""
    model = {name: tensor.numpy() for name, tensor in example["model"].Net(0).state_dict().items()}
    with TrainerLauncher.start() as launcher, ExitStack() as stack:
        trainers = []
        for site in ("hospital-c", "hospital-d"):
            (folder / site / "scratch").mkdir(parents=True)
            spec = TrainerSpec(
                job="digits",
                site=site,
                script=EXAMPLE / "train.py",
                workdir=folder / site,
                readable=(data / f"{site}.npz",),
                scratch=folder / site / "scratch",
                config={"data": str(data / f"{site}.npz"), "args": {"epochs": 10}},
            )
            trainers.append(stack.enter_context(launcher.start_trainer(spec, progress_seconds=60)))
        for number in range(2):
            results = [each.train("train", model, round_number=number, total_rounds=2) for each in trainers]
            assert all(0 <= result.metrics["accuracy"] <= 1 for result in results)
            weights = [result.sample_count for result in results]
            model = {
                name: np.average([result.params[name] for result in results], axis=0, weights=weights).astype(
                    np.float32
                )
                for name in model
            }
    return model
