"""What a site keeps from round to round: one trainer, whose work the attempts of a round share and whose end nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from fl_runtime.errors import TrainerError, TrainerLostError
from fl_runtime.site.job import clear_work
from fl_runtime.site.round import Workplace


class FakeTrainer:
    """Trains until it is let go, or stopped."""

    def __init__(self, *, error=None):
        self.error = error
        self.trained = []
        self.may_end = threading.Event()
        self.stopped = False

    def train(self, task, params, *, round_number, total_rounds):
        self.trained.append(params)
        self.may_end.wait(10)
        if self.stopped:
            raise TrainerLostError("it was stopped")
        if self.error is not None:
            raise self.error
        return f"result of {params}"

    def stop(self):
        self.stopped = True
        self.may_end.set()


def workplace(trainer):
    manifest = SimpleNamespace(rounds=3)
    return Workplace(manifest=manifest, layout=None, parameters=None, key=None, trainer=trainer, vector=None)


async def test_attempts_on_the_same_model_share_one_training():
    trainer = FakeTrainer()
    place = workplace(trainer)
    first = place.train("model", b"digest", round_number=0)
    second = place.train("model", b"digest", round_number=0)
    trainer.may_end.set()
    assert (await first).result == (await second).result == "result of model"
    assert (await place.train("model", b"digest", round_number=0)).result == "result of model"
    assert trainer.trained == ["model"]


async def test_another_model_is_trained_anew():
    trainer = FakeTrainer()
    trainer.may_end.set()
    place = workplace(trainer)
    results = [(await place.train(name, name.encode(), round_number=0)).result for name in ("one", "other")]
    assert results == ["result of one", "result of other"]


async def test_training_that_failed_is_not_shared_with_the_next_attempt():
    error = TrainerError(site="hospital-a", round_number=0, file="train.py", line=1, exception="KeyError", detail="x")
    trainer = FakeTrainer(error=error)
    trainer.may_end.set()
    place = workplace(trainer)
    for _ in range(2):
        with pytest.raises(TrainerError):
            await place.train("model", b"digest", round_number=0)
    assert len(trainer.trained) == 2


async def test_attempt_that_ends_leaves_the_training_alone():
    trainer = FakeTrainer()
    place = workplace(trainer)
    training = place.train("model", b"digest", round_number=0)
    attempt = asyncio.ensure_future(asyncio.shield(training))
    await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
    assert not training.done()
    trainer.may_end.set()
    assert (await training).result == "result of model"


async def test_job_that_ends_does_not_wait_for_a_trainer_in_the_middle_of_its_work():
    trainer = FakeTrainer()
    place = workplace(trainer)
    training = place.train("model", b"digest", round_number=0)
    await asyncio.wait_for(place.close(), 5)
    assert isinstance(training.exception(), TrainerLostError)


@pytest.mark.parametrize(("keep_logs", "left"), [(False, []), (True, ["job-1", "job-1/trainer.log"])])
def test_what_a_killed_boot_left_is_cleared_as_the_policy_says(tmp_path, keep_logs, left):
    job = tmp_path / "job-1"
    for folder in ("scratch/deep", "code"):
        (job / folder).mkdir(parents=True)
    (job / "scratch/deep/model.bin").write_bytes(b"x")
    (job / "trainer.log").write_text("loss 0.5")
    clear_work(tmp_path, keep_logs=keep_logs)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("**/*")) == left


def test_folder_that_no_job_made_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    clear_work(tmp_path, keep_logs=False)
    clear_work(tmp_path / "none", keep_logs=False)
    assert (tmp_path / "mine" / "thesis.txt").exists()
