from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import rich_click as click

from policies import command
from policies.command import cloister, configure_logging, main
from policies.errors import CloisterError, DeniedError, UsageError

IMPORTED = """
import sys
from policies.command import main
status = main({arguments!r})
print(status, *sorted(sys.modules), file=sys.stderr)
"""


def modules_after(*arguments: str) -> set[str]:
    script = IMPORTED.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let `cloister` have these commands and no others."""

    def install(**callbacks: Callable[[], object]) -> None:
        points = {
            name: Point(click.RichCommand(name=name, callback=callback, help=f"The {name} command."))
            for name, callback in callbacks.items()
        }
        monkeypatch.setitem(vars(cloister), "_entry_points", points)

    return install


class Point:
    """An entry point that is already in memory, or that fails to load."""

    value = "somewhere:something"

    def __init__(self, loads: object) -> None:
        self.loads = loads

    def load(self) -> object:
        if isinstance(self.loads, Exception):
            raise self.loads
        return self.loads


def raising(error: BaseException) -> Callable[[], None]:
    def callback() -> None:
        raise error

    return callback


def test_help_imports_nothing_heavy():
    assert modules_after("--help").isdisjoint({"torch", "grpc", "numpy", "cryptography", "pydantic"})


def test_a_command_is_imported_only_when_it_is_called(monkeypatch, commands):
    commands(one=lambda: None)
    other = Point(ImportError("must not be loaded"))
    other.load = raising(AssertionError("loaded"))  # type: ignore[method-assign]
    vars(cloister)["_entry_points"]["other"] = other
    assert main(["one"]) == 0


def test_every_entry_point_is_listed_in_help(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(point.name in out for point in importlib.metadata.entry_points(group=command.COMMANDS))


def test_help_shows_what_each_command_is_for(commands, capsys):
    commands(one=lambda: None)
    main(["--help"])
    assert "The one command." in capsys.readouterr().out


def test_a_command_that_cannot_be_imported_leaves_help_and_the_others_working(commands, capsys):
    commands(one=lambda: None)
    vars(cloister)["_entry_points"]["broken"] = Point(ModuleNotFoundError("No module named 'torch'"))
    assert main(["--help"]) == 0
    assert "(cannot be loaded)" in capsys.readouterr().out
    assert main(["one"]) == 0
    assert main(["broken"]) == 64
    assert "error: the command 'broken' cannot be loaded: No module named 'torch'" in capsys.readouterr().err


def test_an_entry_point_that_is_no_command_says_so_when_it_is_run(commands, capsys):
    commands()
    vars(cloister)["_entry_points"]["odd"] = Point(object())
    assert main(["odd"]) == 64
    assert "somewhere:something is a object, expected a command" in capsys.readouterr().err


def test_an_unknown_command_is_refused_with_the_nearest_name(commands, capsys):
    commands(server=lambda: None)
    assert main(["serer"]) == 64
    assert capsys.readouterr().err == "error: there is no command 'serer'\nhint: did you mean 'cloister server'?\n"


def test_an_unknown_command_like_no_other_points_to_the_help(commands, capsys):
    commands(server=lambda: None)
    assert main(["xyzzy"]) == 64
    assert "hint: 'cloister --help' lists the commands" in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error_that_points_to_the_help_of_its_command(commands, capsys):
    commands(server=lambda: None)
    assert main(["server", "--prot"]) == 64
    assert capsys.readouterr().err.endswith("hint: see 'cloister server --help'\n")


def test_no_command_at_all_shows_the_help_and_is_a_usage_error(commands, capsys):
    commands(server=lambda: None)
    assert main([]) == 64
    assert "server" in "".join(capsys.readouterr())


def test_the_version_is_that_of_the_distribution(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cloister {importlib.metadata.version('cloister')}\n"


def test_what_a_command_returns_is_not_its_exit_status(commands):
    commands(count=lambda: 7)
    assert main(["count"]) == 0


def test_a_command_may_choose_its_exit_status(commands):
    commands(three=raising(click.exceptions.Exit(3)))
    assert main(["three"]) == 3


@pytest.mark.parametrize(
    ("error", "status"),
    [(UsageError("a", hint="b"), 64), (DeniedError("a", hint="b"), 5), (CloisterError("a", hint="b"), 1)],
)
def test_an_error_is_told_in_words_and_ends_with_its_own_status(commands, capsys, error, status):
    commands(fail=raising(error))
    assert main(["fail"]) == status
    assert capsys.readouterr() == ("", "error: a\nhint: b\n")


def test_an_error_without_a_hint_prints_none(commands, capsys):
    commands(fail=raising(CloisterError("a")))
    main(["fail"])
    assert capsys.readouterr().err == "error: a\n"


def test_a_message_is_never_read_as_markup_and_cannot_steer_the_terminal(commands, capsys):
    commands(fail=raising(CloisterError("[bold]x[/] \x1b[2J\r\u202ey")))
    main(["fail"])
    assert capsys.readouterr().err == "error: [bold]x[/] \\x1b[2J\\r\\u202ey\n"


def test_a_long_message_stays_on_one_line(commands, capsys):
    commands(fail=raising(CloisterError("word " * 100)))
    main(["fail"])
    assert capsys.readouterr().err.count("\n") == 1


def test_our_own_error_is_found_in_a_group_of_errors(commands, capsys):
    inner = ExceptionGroup("inner", [ValueError("x"), DeniedError("the reason")])
    commands(fail=raising(ExceptionGroup("outer", [OSError("y"), inner])))
    assert main(["fail"]) == 5
    assert capsys.readouterr().err == "error: the reason\n"


def test_a_group_of_unexpected_errors_is_told_by_its_first(commands, capsys):
    commands(fail=raising(ExceptionGroup("outer", [ValueError("x"), OSError("y")])))
    assert main(["fail"]) == 1
    assert "error: internal: ValueError: x" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), click.Abort(), BaseExceptionGroup("group", [ValueError(), KeyboardInterrupt()])]
)
def test_an_interrupt_ends_quietly_with_130(commands, capsys, error):
    commands(wait=raising(error))
    assert main(["wait"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_unexpected_error_is_one_line_with_its_place_and_a_way_to_see_more(commands, capsys, monkeypatch):
    monkeypatch.delenv("CLOISTER_TRACEBACK", raising=False)
    commands(fail=raising(ZeroDivisionError("by\nzero")))
    assert main(["fail"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: internal: ZeroDivisionError: by zero (")
    assert "test_command.py:" in first
    assert second == "hint: run it again with CLOISTER_TRACEBACK=1 for the whole trace"


def test_the_whole_trace_is_shown_on_request(commands, capsys, monkeypatch):
    monkeypatch.setenv("CLOISTER_TRACEBACK", "1")
    commands(fail=raising(CloisterError("a")))
    assert main(["fail"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("error: a\n")


def test_a_reader_that_has_gone_ends_the_program_without_a_word():
    read, write = os.pipe()
    os.close(read)
    script = "import sys; from policies.command import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_program_without_stdout_ends_well():
    script = "import sys; sys.stdout = None; from policies.command import main; sys.exit(main(['audit', '--x']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert b"internal" not in done.stderr


def test_a_broken_socket_is_not_taken_for_a_reader_that_has_gone(commands, capfd):
    commands(send=raising(BrokenPipeError(32, "Broken pipe")))
    assert main(["send"]) == 1
    assert "error: internal: BrokenPipeError" in capfd.readouterr().err


@pytest.fixture
def root_logger(monkeypatch):
    """Give the logging configuration of the test run back afterwards."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])
    yield root
    root.setLevel(level)


def test_a_log_line_for_people_carries_the_fields_of_the_event(root_logger, capsys):
    configure_logging("info")
    logging.getLogger("fl.test").info("update accepted", extra={"round": 3, "site": "hospital-a"})
    assert capsys.readouterr().err.endswith(" INFO fl.test: update accepted round=3 site=hospital-a\n")


def test_a_newline_in_a_field_cannot_forge_a_log_line(root_logger, capsys):
    configure_logging("info")
    logging.getLogger("fl.test").info("event", extra={"site": "a\n2026 INFO forged"})
    assert capsys.readouterr().err.count("\n") == 1


def test_a_json_log_line_is_one_object_whose_own_keys_cannot_be_overwritten(root_logger, capsys):
    configure_logging("debug", json=True)
    logging.getLogger("fl.test").debug("event\n%s", "x", extra={"level": "forged", "path": os.environ})
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"], line["event"]) == ("debug", "fl.test", "event\nx")


def test_an_exception_is_logged_with_its_trace(root_logger, capsys):
    configure_logging("info", json=True)
    try:
        int("x")
    except ValueError:
        logging.getLogger("fl.test").exception("failed")
    assert "ValueError: invalid literal" in json.loads(capsys.readouterr().err)["trace"]


def test_events_below_the_level_are_left_out(root_logger, capsys):
    configure_logging("warning")
    logging.getLogger("fl.test").info("event")
    assert capsys.readouterr().err == ""


def test_an_unknown_log_level_is_refused(root_logger):
    with pytest.raises(UsageError, match="log level 'loud'"):
        configure_logging("loud")
