"""What leaves a site of an error that its script raised."""

from __future__ import annotations

import pytest

from fl_runtime.errors import TrainerError


def raised(**changes):
    fields = {
        "site": "hospital-a",
        "round_number": 2,
        "file": "/jobs/digits/code/train.py",
        "line": 41,
        "exception": "ValueError",
        "detail": "patient 4711",
    }
    return TrainerError(**{**fields, **changes})


def test_the_sites_own_operator_reads_all_of_it():
    assert raised().message == "train.py:41 ValueError: patient 4711 (site hospital-a, round 3)"


def test_what_a_script_says_is_withheld_and_its_place_is_not():
    error = raised().withheld(script="train.py")
    assert error.message == "train.py:41 ValueError (site hospital-a, round 3)"
    assert "script_errors" in (error.hint or "")


@pytest.mark.parametrize("name", ["Patient4711", "print", "__name__"])
def test_a_type_that_is_not_pythons_own_is_withheld(name):
    assert raised(exception=name).withheld(script="train.py").message == (
        "train.py:41 an exception of its own (site hospital-a, round 3)"
    )


def test_a_file_that_the_script_may_have_named_is_withheld():
    assert "patient" not in raised(file="/jobs/digits/scratch/patient-4711.py").withheld(script="train.py").message
