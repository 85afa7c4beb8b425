from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fl_runtime.arrays import Layout, encode
from fl_runtime.jobs.archive import read
from fl_runtime.jobs.job_file import Aggregation, load_job
from policies.errors import UsageError

ARRAYS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array([7], np.int32)}
LEAST = 'name = "digits"\nrounds = 5\n'


def job_folder(path: Path, text: str = LEAST, *, model: bytes | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "job.toml").write_text(text)
    (path / "train.py").write_text("import fl_runtime.client as flare\n")
    (path / "model.safetensors").write_bytes(encode(ARRAYS) if model is None else model)
    return path


def problem(path: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_job(job_folder(path, text))
    return caught.value.message.removeprefix(f"{path}/")


def test_name_and_rounds_are_enough(tmp_path):
    package = load_job(job_folder(tmp_path))
    file = package.file
    assert (file.workflow, file.script, file.sites, file.min_sites) == ("fedavg", "train.py", None, None)
    assert (file.profile, file.metrics, file.aggregation.clip_micros) == ("tee+mask", ("accuracy",), 4_000_000)
    assert package.layout == Layout.of(ARRAYS)
    assert package.model == encode(ARRAYS)


def test_code_travels_without_the_job_file_and_the_model(tmp_path):
    folder = job_folder(tmp_path, LEAST + 'model = "initial.txt"\n')
    (folder / "model.safetensors").rename(folder / "initial.txt")
    assert list(read(load_job(folder).code)) == ["train.py"]


def test_everything_can_be_said(tmp_path):
    file = load_job(
        job_folder(
            tmp_path,
            LEAST
            + """
script = "train.py"
args = ["--fast"]
sites = ["b", "a"]
min_sites = 4
profile = "mask"
metrics = ["accuracy", "loss"]
round_timeout_seconds = 60
[aggregation]
clip = "0.000125"
weight_cap = 100
min_survivors = 3
ring_bits = 64
threshold = 4
[config]
epochs = 6
optimizer = "sgd"
nesterov = true
""",
        )
    ).file
    assert file.aggregation.clip_micros == 125
    assert file.config == {"epochs": 6, "optimizer": "sgd", "nesterov": True}
    assert file.config["nesterov"] is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LEAST + 'profil = "tee"\n', "job.toml:3: unknown key 'profil', did you mean 'profile'?"),
        ('name = "digits"\n', "job.toml:1: missing key 'rounds'"),
        (
            LEAST + "\n[aggregation]\nclip = 4.0\n",
            'job.toml:5: aggregation.clip: a clip bound is written as text, clip = "4.0"',
        ),
        (LEAST + "\n[aggregation]\nclip = 4\n", "job.toml:5: aggregation.clip: a clip bound is written as text"),
        (LEAST + '\n[aggregation]\nclip = "1e3"\n', "job.toml:5: aggregation.clip"),
        (LEAST + '\n[aggregation]\nclip = "0.0000001"\n', "job.toml:5: aggregation.clip"),
        (LEAST + "\n[aggregation]\nring_bits = 16\n", "job.toml:5: aggregation.ring_bits"),
        (LEAST + 'workflow = "gossip"\n', "job.toml:3: workflow"),
        (LEAST + "\n[config]\nlearning_rate = 0.1\n", "job.toml:5: config.learning_rate"),
        ('name = "Digits!"\nrounds = 0\n', "job.toml has 2 problems"),
    ],
)
def test_problem_of_the_job_file_names_its_line(tmp_path, text, expected):
    assert expected in problem(tmp_path, text)


def test_script_that_is_not_there_is_named_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"'trian\.py' is not among the job's 1 files") as caught:
        load_job(job_folder(tmp_path, LEAST + 'script = "trian.py"\n'))
    assert caught.value.hint == "did you mean 'train.py'?"


def test_missing_model_is_named(tmp_path):
    folder = job_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model\.safetensors cannot be read: No such file"):
        load_job(folder)


@pytest.mark.parametrize(
    "model", [b"", b"PK\x03\x04" * 100, encode(ARRAYS)[:-1], encode({"w": np.array([np.nan], np.float32)})]
)
def test_model_that_is_not_whole_and_finite_safetensors_is_refused(tmp_path, model):
    with pytest.raises(UsageError, match="the initial model"):
        load_job(job_folder(tmp_path, model=model))


def test_folder_without_a_job_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"job\.toml: cannot be read"):
        load_job(tmp_path)


@pytest.mark.parametrize(
    ("text", "micros"), [("4.0", 4_000_000), ("12", 12_000_000), ("0.5", 500_000), ("999999.999999", 10**12 - 1)]
)
def test_clip_is_read_exactly(text, micros):
    assert Aggregation(clip=text).clip_micros == micros
