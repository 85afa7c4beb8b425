"""One conversation, with the test as the runtime."""

import json
import os
import socket

import numpy as np
import pytest

from fl_runtime import client as flare
from fl_runtime.arrays import Layout
from fl_runtime.client import api
from fl_runtime.client.context import FD_VARIABLE, JOB_VARIABLE, APIContext, JobView
from fl_runtime.client.wire import Channel, End, Log, Result, Task, seal
from fl_runtime.errors import TrainerLostError
from policies.errors import UsageError

ARRAYS = {"w": np.ones(3, np.float32)}
META = {"NUM_STEPS_CURRENT_ROUND": 5}


@pytest.fixture
def runtime(monkeypatch):
    """The runtime's end of the socket; the environment is a trainer's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        monkeypatch.setenv(FD_VARIABLE, str(theirs.fileno()))
        monkeypatch.setenv(JOB_VARIABLE, JobView(job="digits", site="hospital-a", config={"lr": 0.5}).encode())
        monkeypatch.delenv("RANK", raising=False)
        yield Channel(ours)
        flare.shutdown()


def give(runtime: Channel, name: str = "train", *, params: bool = True) -> None:
    fd = seal(ARRAYS, Layout.of(ARRAYS)) if params else None
    runtime.send(Task(name=name, round_number=2, total_rounds=5, meta={}, numbers={}), fd=fd)
    if fd is not None:
        os.close(fd)


def test_calls_before_init_say_so(runtime):
    with pytest.raises(RuntimeError, match=r"flare.init\(\)"):
        flare.is_running()


def test_second_init_returns_the_first_context_and_warns(runtime, caplog):
    first = flare.init()
    assert flare.init(rank="0") is first
    assert "called again" in caplog.text
    with pytest.raises(ValueError, match="already initialised"):
        flare.init(rank=1)


def test_init_outside_a_runtime_says_how_to_start(monkeypatch):
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="not started by a runtime") as caught:
        flare.init()
    assert "recipe.execute" in caught.value.hint
    assert api._Current.context is None


def test_init_without_an_open_socket_says_so(runtime, monkeypatch):
    monkeypatch.setenv(FD_VARIABLE, "99999")
    with pytest.raises(UsageError, match=FD_VARIABLE):
        flare.init()


def test_config_file_gives_defaults_that_the_job_overrides(runtime, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"lr": 0.1, "more": 1}))
    flare.init(config_file=str(tmp_path / "c.json"))
    assert flare.get_config() == {"lr": 0.5, "more": 1}


def test_receive_without_a_task_gives_none_after_the_timeout(runtime):
    flare.init()
    assert flare.receive(timeout=0.01) is None
    give(runtime)
    assert flare.receive(timeout=1).current_round == 2


def test_is_running_twice_and_receive_twice_are_the_same_task(runtime):
    flare.init()
    give(runtime)
    assert flare.is_running()
    assert flare.is_running()
    assert flare.receive() is flare.receive()
    assert flare.get_task_name() == "train"


def test_end_ends_the_loop_for_good(runtime):
    flare.init()
    runtime.send(End())
    assert not flare.is_running()
    assert flare.receive() is None
    assert not flare.log("loss", 1)


def test_runtime_that_went_away_ends_the_loop(runtime):
    flare.init()
    runtime.close()
    assert not flare.is_running()


def test_answer_closes_the_task(runtime):
    flare.init()
    give(runtime)
    model = flare.receive()
    flare.send(flare.FLModel(params=model.params, meta=META))
    result, fd = runtime.receive(Result)
    os.close(fd)
    assert (result.params_type, result.meta) == ("FULL", META)
    assert flare.get_task_name() == ""
    with pytest.raises(RuntimeError, match="no task to answer"):
        flare.send(model)


def test_cache_is_cleared_unless_it_is_to_stay(runtime):
    context = flare.init()
    for clear_cache in (False, True):
        give(runtime, "validate")
        flare.receive()
        flare.send(flare.FLModel(metrics={"a": 1}), clear_cache=clear_cache)
        assert (context._model is None) == clear_cache


def test_own_model_that_nothing_was_received_for_is_refused(runtime):
    flare.init()
    give(runtime, "submit_model", params=False)
    assert flare.receive().params is None
    assert flare.is_submit_model()
    with pytest.raises(RuntimeError, match="no model was received before"):
        flare.send(flare.FLModel(params=ARRAYS))


def test_log_sends_its_value_as_json(runtime):
    flare.init()
    assert flare.log("loss", np.float32(0.5), "SCALAR", global_step=3)
    assert runtime.receive(Log)[0] == Log(key="loss", value="0.5", data_type="SCALAR", step=3)


def test_contexts_can_be_passed_around(runtime):
    context = APIContext(rank="0", config_file=None, environment=os.environ)
    assert flare.get_job_id(context) == "digits"
    assert flare.system_info(context) == {"site_name": "hospital-a", "job_id": "digits"}
    flare.shutdown(context)
    with pytest.raises(TrainerLostError):
        context._channel.send(End())
