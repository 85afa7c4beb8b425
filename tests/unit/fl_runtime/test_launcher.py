"""Trainers in real processes: a script gets tasks and answers them, what goes wrong says where, nothing is left behind."""

import json
import os
import signal
import socket
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fl_runtime.client.context import FD_VARIABLE, JOB_VARIABLE, JobView
from fl_runtime.errors import ArraysError, FederationError, TrainerError, TrainerLostError
from fl_runtime.site.trainer import Trainer, TrainerLauncher
from fl_runtime.site.trainer_seccomp import MACHINES, build_filter
from fl_runtime.site.trainer_spec import TrainerSpec

PARAMS = {"w": np.zeros((2, 2), np.float32), "n": np.array([3])}
ECHO = """
    import fl_runtime.client as flare
    import numpy as np

    flare.init()
    while flare.is_running():
        received = flare.receive()
        answer = {name: value + 1 for name, value in received.params.items()}
        flare.send(flare.FLModel(params=answer, metrics={"accuracy": 0.5}, meta={"NUM_STEPS_CURRENT_ROUND": 7}))
"""
BEFORE = "import os, sys, time, socket\nimport numpy as np\nimport fl_runtime.client as flare\nflare.init()\n"
TELL = 'flare.log("found", found)\n'


@pytest.fixture(scope="module")
def launcher():
    # pkgutil, which runs scripts, too: a test's trainer may become a user who cannot read this Python's files.
    with TrainerLauncher.start(preload=("numpy", "pkgutil")) as started:
        yield started


@pytest.fixture
def start(launcher, tmp_path):
    """Start a trainer with a script's text; it is stopped when the test ends."""
    trainers: list[Trainer] = []
    (tmp_path / "scratch").mkdir()

    def start(text, *, progress_seconds=20.0, on_log=None, by=launcher, **fields) -> Trainer:
        script = tmp_path / "train.py"
        script.write_text(textwrap.dedent(text))
        where = {"script": script, "workdir": tmp_path, "scratch": tmp_path / "scratch"}
        spec = TrainerSpec(job="digits", site="hospital-a", **{**where, **fields})
        trainers.append(by.start_trainer(spec, progress_seconds=progress_seconds, on_log=on_log))
        return trainers[-1]

    yield start
    for trainer in trainers:
        trainer.stop(grace_seconds=0)


def train(trainer: Trainer, round_number: int = 0, name: str = "train", **meta):
    return trainer.train(name, PARAMS, round_number=round_number, total_rounds=3, meta=meta)


def ask(start, text: str, **fields) -> object:
    """Return what `text`, run inside a trainer, left in `found`."""
    told = []
    trainer = start(BEFORE + textwrap.dedent(text) + TELL, on_log=told.append, **fields)
    with pytest.raises((TrainerLostError, TrainerError)) as caught:
        train(trainer)
    assert told, f"the script did not get that far: {caught.value}"
    return json.loads(told[0].value)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one whose parent died may wait for init to bury it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_script_answers_every_round_of_one_process(start):
    with start(ECHO) as trainer:
        for number in range(3):
            result = train(trainer, number)
            assert result.params["w"].tolist() == [[1, 1], [1, 1]]
            assert (result.metrics, result.sample_count, result.params_type) == ({"accuracy": 0.5}, 7, "FULL")
            assert not result.params["w"].flags.writeable
    assert is_gone(trainer.pid)


def test_script_knows_its_job_site_config_arguments_and_task(start):
    found = ask(
        start,
        """
        is_task = flare.is_running()
        model = flare.receive()
        found = [flare.system_info(), flare.get_config(), sys.argv[1:], flare.get_task_name(), flare.is_train(),
                 flare.is_evaluate(), flare.is_submit_model(), model.current_round, model.total_rounds, model.meta,
                 type(model.params["w"]).__name__, os.getcwd()]
        """,
        config={"data": "/data/site.npz", "args": {"lr": 0.1}},
        args=("--fast",),
    )
    meta = {"job_id": "digits", "site_name": "hospital-a", "current_round": 0, "total_rounds": 3}
    assert found[:-1] == [
        {"site_name": "hospital-a", "job_id": "digits"},
        {"data": "/data/site.npz", "args": {"lr": 0.1}},
        ["--fast"],
        *("train", True, False, False, 0, 3, meta, "ndarray"),
    ]


def test_task_meta_reaches_the_script_and_its_meta_comes_back(start):
    script = ECHO.replace('{"NUM_STEPS_CURRENT_ROUND": 7}', '{**received.meta, "NUM_STEPS_CURRENT_ROUND": 7}')
    meta = train(start(script), validate_type="best", threshold=0.25).meta
    assert (meta["validate_type"], meta["threshold"]) == ("best", 0.25)


def test_evaluation_needs_neither_params_nor_a_weight(start):
    trainer = start(BEFORE + 'flare.receive()\nflare.send(flare.FLModel(metrics={"accuracy": np.float32(0.5)}))\n')
    result = train(trainer, name="validate")
    assert (result.params, result.sample_count, result.metrics) == (None, None, {"accuracy": 0.5})


def test_own_model_is_submitted_without_one_being_sent(start):
    script = ECHO.replace("received.params.items()", "(received.params or kept).items()").replace(
        "flare.send", "kept = answer; flare.send"
    )
    trainer = start(script)
    train(trainer)
    result = trainer.train("submit_model", None, round_number=3, total_rounds=3)
    assert result.params["w"].tolist() == [[2, 2], [2, 2]]


def test_difference_is_marked_as_one(start):
    assert train(start(ECHO.replace("params=answer", 'params=answer, params_type="DIFF"'))).params_type == "DIFF"


def test_other_ranks_do_not_talk_to_the_runtime(start):
    text = "flare.shutdown(); flare.init(rank=1)\nother = [flare.is_running(), flare.receive()]\n"
    assert ask(start, text + "flare.shutdown(); flare.init()\nflare.receive(); found = other\n") == [False, None]


def test_torch_script_receives_tensors_and_its_threads_are_set(tmp_path, start):
    pytest.importorskip("torch")
    script = """
        import torch
        import fl_runtime.client as flare

        flare.init()
        while flare.is_running():
            params = flare.receive().params
            answer = {name: value + torch.get_num_threads() for name, value in params.items()}
            flare.send(flare.FLModel(params=answer, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
    """
    with TrainerLauncher.start(preload=("torch",)) as launcher:
        trainer = start(script, by=launcher, torch_threads=2)
        assert "fork from a single thread" not in " ".join(trainer.isolation.missing)
        assert train(trainer).params["w"].tolist() == [[2, 2], [2, 2]]


def test_trainers_of_one_launcher_draw_different_random_numbers(start):
    script = "found = [np.random.random(), __import__('random').random()]\nflare.receive()\n"
    first, second = ask(start, script), ask(start, script)
    assert first[0] != second[0]
    assert first[1] != second[1]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_script_that_raises_says_file_and_line_once(start):
    trainer = start(ECHO.replace("answer =", "answer = 1 / 0  #"))
    with pytest.raises(TrainerError) as caught:
        train(trainer, 3)
    assert str(caught.value) == "train.py:8 ZeroDivisionError: division by zero (site hospital-a, round 4)"
    assert "received = flare.receive()" not in caught.value.traceback
    assert "1 / 0" in caught.value.traceback


def test_error_inside_a_library_is_placed_in_the_users_own_file(start, tmp_path):
    (tmp_path / "helper.py").write_text("import json\n\n\ndef read():\n    return json.loads('{')\n")
    trainer = start(BEFORE + "import helper\nflare.receive()\nhelper.read()\n")
    with pytest.raises(TrainerError, match=r"^helper.py:5 JSONDecodeError: .* \(site hospital-a, round 1\)$"):
        train(trainer)


def test_script_that_does_not_parse_says_where(start):
    with pytest.raises(TrainerError, match=r"^train.py:2 SyntaxError"):
        train(start("x = 1\ny = = 2\n"))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (("value + 1", "value[:1]"), "ArraysError", r"params\['w'\] has shape \[1, 2\], expected \[2, 2\]"),
        (("value + 1", "value * np.nan if name == 'w' else value"), "ArraysError", "tensor w holds NaN"),
        (('"NUM_STEPS_CURRENT_ROUND": 7', ""), "ValueError", "NUM_STEPS_CURRENT_ROUND"),
        (("0.5", "float('nan')"), "ValueError", r"metrics\['accuracy'\] is nan"),
        (("0.5", "'high'"), "TypeError", r"metrics\['accuracy'\] is a str"),
        (("flare.FLModel(params=answer", "dict(params=answer"), "TypeError", "takes an FLModel, found dict"),
        (("params=answer, ", ""), "RuntimeError", "answered with params, found none"),
        (("flare.send(", "print("), "RuntimeError", "call flare.send first"),
        (("received = flare.receive()", "flare.shutdown(); flare.receive()"), "RuntimeError", r"call flare.init\(\)"),
    ],
)
def test_mistake_is_raised_at_the_line_that_makes_it(start, change, error, said):
    assert change[0] in ECHO
    with pytest.raises(TrainerError, match=rf"^train.py:\d+ {error}: .*{said}"):
        train(start(ECHO.replace(*change)))


# A script may bypass the Client API: the site checks again.
RAW = """
import json, os, socket
import fl_runtime.client as flare
import numpy as np
from fl_runtime.arrays import Layout
from fl_runtime.client.wire import seal

flare.init()
params = flare.receive().params
{change}
fd = seal(params, Layout.of(params))
answer = dict(kind="result", params_type="FULL", metrics={{}}, meta={{"NUM_STEPS_CURRENT_ROUND": 7}}, numbers={{}})
{answer}
runtime = socket.socket(fileno=int(os.environ["CLOISTER_RUNTIME_FD"]))
socket.send_fds(runtime, [json.dumps(answer).encode()], [fd] if fd else [])
flare.receive()
"""


@pytest.mark.parametrize(
    ("change", "answer", "error", "said"),
    [
        ("params['w'][0] = np.inf", "", ArraysError, "tensor w holds NaN or infinity"),
        ("params['w'] = np.zeros(4, np.float32)", "", ArraysError, r"expected w F32\[2, 2\]"),
        ("params['x'] = np.zeros(4)", "", ArraysError, "tensor x is not part"),
        ("", "answer['meta'] = {}", FederationError, "NUM_STEPS_CURRENT_ROUND"),
        ("", "answer['params_type'] = None", FederationError, "params without their type"),
        ("", "answer['params_type'] = fd = None", FederationError, "without params"),
        ("", "answer['more'] = 1", FederationError, "does not follow the protocol"),
        ("", "answer['metrics'] = {'a': 'nan'}", FederationError, "does not follow the protocol"),
        ("", "fd = os.open(__file__, os.O_RDONLY)", ArraysError, "not sealed memory"),
        ("", "answer = dict(kind='exited', status=-99999)", TrainerLostError, "killed by signal 99999"),
    ],
)
def test_site_does_not_believe_a_trainers_answer(start, change, answer, error, said):
    with pytest.raises(error, match=said):
        train(start(RAW.format(change=change, answer=answer)))


def test_killed_trainer_is_lost_and_says_the_signal(start):
    trainer = start(BEFORE + "flare.receive()\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(TrainerLostError, match=r"round 1.* killed by SIGKILL"):
        train(trainer)
    with pytest.raises(TrainerLostError):
        train(trainer)


def test_script_that_leaves_early_is_lost_with_its_status(start):
    with pytest.raises(TrainerLostError, match="exited with status 0"):
        train(start(BEFORE + "flare.receive()\nsys.exit(0)\n"))
    with pytest.raises(TrainerError, match="SystemExit: no data"):
        train(start(BEFORE + "flare.receive()\nsys.exit('no data')\n"))


def test_silence_beyond_the_progress_deadline_is_lost_and_logging_is_progress(start):
    script = (
        BEFORE + "flare.receive()\nfor _ in range(4):\n    time.sleep(0.15); flare.log('loss', 0.5)\ntime.sleep(60)\n"
    )
    told = []
    trainer = start(script, progress_seconds=0.4, on_log=told.append)
    with pytest.raises(TrainerLostError, match=r"said nothing for 0.4 s"):
        train(trainer)
    assert [(record.key, record.value, record.data_type) for record in told] == [("loss", "0.5", "SCALAR")] * 4


def test_trainer_stopped_from_another_thread_ends_its_task(start):
    trainer = start(BEFORE + "flare.receive()\ntime.sleep(60)\n")
    timer = threading.Timer(0.2, trainer.stop)
    timer.start()
    with pytest.raises(TrainerLostError, match="SIGKILL"):
        train(trainer)
    timer.join()
    assert is_gone(trainer.pid)


def test_launcher_that_cannot_import_is_lost(tmp_path, capfd):
    spec = TrainerSpec(job="j", site="s", script=tmp_path / "x.py", workdir=tmp_path, scratch=tmp_path)
    with TrainerLauncher.start(preload=("no_such_module",)) as launcher, pytest.raises(TrainerLostError, match="ended"):
        launcher.start_trainer(spec)
    assert "no_such_module" in capfd.readouterr().err


def test_trainer_that_cannot_be_isolated_as_asked_does_not_run(start, tmp_path):
    outside = tmp_path / "elsewhere.log"
    (tmp_path / "trainer.log").symlink_to(outside)
    with pytest.raises(TrainerLostError, match="exited with status 70"):
        start(ECHO)
    assert not outside.exists()


def test_script_without_a_runtime_says_how_to_start_it():
    with pytest.raises(Exception, match="not started by a runtime"):
        JobView.load({})


# --- nothing is left --------------------------------------------------------------------------------------------------


def test_stopping_leaves_no_process_even_in_sessions_of_their_own(start):
    script = """
        flare.receive()
        pids = []
        for daemon in (False, True):
            pid = os.fork()
            if pid == 0:
                if daemon:
                    os.setsid()
                time.sleep(60)
            pids.append(pid)
        flare.log("found", pids)
        time.sleep(60)
    """
    told = threading.Event()
    pids = []
    trainer = start(
        BEFORE + textwrap.dedent(script), on_log=lambda record: (pids.extend(json.loads(record.value)), told.set())
    )

    def work():
        with pytest.raises(TrainerLostError):
            train(trainer)

    running = threading.Thread(target=work)
    running.start()
    assert told.wait(10)
    trainer.stop(grace_seconds=0)
    running.join()
    assert len(pids) == 2
    assert all(map(is_gone, [trainer.pid, *pids]))


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_launcher_takes_its_trainers_with_it(start, how):
    launcher = TrainerLauncher.start(preload=())
    trainer = start(BEFORE + "time.sleep(60)\n", by=launcher)
    if how == "killed":
        os.kill(launcher.pid, signal.SIGKILL)
    launcher.close()
    deadline = time.monotonic() + 5
    while not is_gone(trainer.pid) and time.monotonic() < deadline:  # its new parent buries it
        time.sleep(0.01)
    assert is_gone(trainer.pid)
    assert is_gone(launcher.pid)


def test_interrupt_from_the_terminal_reaches_neither_launcher_nor_trainer(start):
    launcher = TrainerLauncher.start(preload=())
    with launcher:
        trainer = start(ECHO, by=launcher)
        train(trainer)
        for pid in (launcher.pid, trainer.pid):
            os.kill(pid, signal.SIGINT)
        assert train(trainer, 1).sample_count == 7


# --- isolation, tried from inside a trainer ---------------------------------------------------------------------------


def require(start, measure: str) -> None:
    """Skip, naming what is not proven, where the host cannot offer `measure`."""
    trainer = start(ECHO)
    if not any(measure in name for name in trainer.isolation.applied):
        pytest.skip(f"not proven here: {trainer.isolation.missing}")


def attempt(call: str) -> str:
    return f"""
        flare.receive()
        try:
            {call}
            found = "allowed"
        except OSError as error:
            found = "refused"
    """


def test_every_measure_is_reported_as_applied_or_missing(start):
    report = start(ECHO).isolation
    text = " ".join((*report.applied, *report.missing))
    assert "no capabilities" in report.applied
    for measure in ("network", "own user", "Landlock", "seccomp", "ptrace", "descriptors"):
        assert measure in text


def test_trainer_cannot_reach_the_tee_device_socket(start, tmp_path):
    require(start, "seccomp")
    path = str(tmp_path / "scratch" / "tee.sock")
    with socket.socket(socket.AF_UNIX) as device:
        device.bind(path)
        device.listen()
        call = f"socket.socket(socket.AF_UNIX).connect({path!r})"
        assert ask(start, attempt(call)) == "refused"
        assert ask(start, attempt(call), data_workers=True) == "allowed"  # the socket itself would have let it in


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_VSOCK"])
def test_trainer_makes_no_network_socket(start, family):
    require(start, "seccomp")
    assert (
        ask(
            start,
            attempt(
                f"socket.socket(socket.{family}, socket.SOCK_STREAM if {family != 'AF_NETLINK'} else socket.SOCK_RAW)"
            ),
            data_workers=True,
        )
        == "refused"
    )


def test_trainer_sees_no_network_interface_but_a_loopback_of_its_own(start):
    require(start, "namespace")
    text = "found = [line.split(':')[0].strip() for line in open('/proc/self/net/dev').readlines()[2:]]\n"
    assert set(ask(start, "flare.receive()\n" + text)) <= {
        "lo",
        "sit0",
        "tunl0",
        "ip6tnl0",
    }  # what every new namespace has


def test_trainer_has_no_descriptor_but_its_log_and_its_socket(start):
    found = ask(
        start,
        """
        import stat
        flare.receive()
        found = []
        for fd in range(3, 4096):
            try:
                found.append(stat.S_ISSOCK(os.fstat(fd).st_mode))
            except OSError:
                pass
        """,
    )
    # The socket as it was inherited and as the context opened it again; the received model's map keeps its memfd.
    assert found.count(True) == 2
    assert found.count(False) == 1


def test_trainer_has_no_capabilities_and_cannot_gain_any(start):
    found = ask(start, "flare.receive()\nfound = open('/proc/self/status').read()\n")
    status = dict(line.split(":\t") for line in found.splitlines() if ":\t" in line)
    assert (status["CapEff"], status["CapPrm"], status["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")


@pytest.mark.parametrize(
    "call", ["os.listdir('/root')", "open({outside!r})", "open({own!r}, 'w')", "os.remove({own!r})"]
)
def test_trainer_opens_no_file_it_was_not_given(start, tmp_path_factory, tmp_path, call):
    require(start, "Landlock")
    outside = tmp_path_factory.mktemp("other-site") / "data.npz"
    outside.write_bytes(b"x")
    assert ask(start, attempt(call.format(outside=str(outside), own=str(tmp_path / "train.py")))) == "refused"


def test_trainer_reads_its_data_and_writes_its_scratch(start, tmp_path_factory, tmp_path):
    data = tmp_path_factory.mktemp("own") / "data.npz"
    data.write_bytes(b"x")
    text = f"flare.receive()\nimport tempfile\nfound = [open({str(data)!r}).read(), tempfile.mkdtemp()]\n"
    content, folder = ask(start, text, readable=(data,))
    assert content == "x"
    assert Path(folder).parent == tmp_path / "scratch"


def test_trainer_cannot_look_into_or_signal_its_launcher(start):
    require(start, "Landlock")
    assert ask(start, attempt("open(f'/proc/{os.getppid()}/mem', 'rb')")) == "refused"
    assert ask(start, attempt("os.kill(os.getppid(), 15)")) == "refused"


@pytest.mark.parametrize("call", ["unshare(0x10000000)", "mount(b'x', b'/', b'tmpfs', 0, None)", "ptrace(0, 0, 0, 0)"])
def test_trainer_is_refused_calls_that_reach_beyond_it(start, call):
    require(start, "seccomp")
    assert ask(
        start,
        f"flare.receive()\nimport ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"found = [libc.{call}, ctypes.get_errno()]\n",
    ) == [-1, 1]


@pytest.mark.root
def test_trainer_becomes_the_user_it_is_given(start):
    if os.getuid() != 0:
        pytest.skip("not proven: needs root")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "scratch").mkdir()
        os.chown(folder / "scratch", 65534, 65534)
        (folder / "train.py").write_text(
            BEFORE + "flare.receive()\nfound = [os.getuid(), os.getgid(), os.getgroups()]\n"
            "open(os.environ['TMPDIR'] + '/mine', 'w')\n" + TELL
        )
        where = {"script": folder / "train.py", "workdir": folder, "scratch": folder / "scratch"}
        assert ask(start, "", uid=65534, gid=65534, **where) == [65534, 65534, []]


def test_filter_is_well_formed_for_every_known_machine():
    for machine in MACHINES.values():
        code = build_filter(machine, unix_sockets=False)
        assert len(code) % 8 == 0
        assert len(set(machine.denied)) == len(machine.denied)


def test_environment_of_a_trainer_holds_nothing_of_the_sites_secrets(start):
    os.environ["SITE_TOKEN"] = "secret"
    try:
        with TrainerLauncher.start(preload=()) as launcher:
            found = ask(start, "flare.receive()\nfound = dict(os.environ)\n", by=launcher)
    finally:
        del os.environ["SITE_TOKEN"]
    assert "SITE_TOKEN" not in found
    assert {FD_VARIABLE, JOB_VARIABLE} <= found.keys()
