"""The threat model and the tests hold each other: every threat names tests that are there, and every number cited exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
THREATS = {section.split(" ", 1)[0]: section for section in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]}
PARTS = ("Who", "Tries", "Stopped by", "Remains", "Shown by")
CODE = ("attestation", "cvm_build", "fl_runtime", "policies", "provisioning")


def test_threats_are_numbered_without_gaps():
    assert list(THREATS) == [f"T{number}" for number in range(1, len(THREATS) + 1)]


@pytest.mark.parametrize("threat", THREATS)
def test_threat_says_who_tries_what_what_stops_it_what_remains_and_what_shows_it(threat):
    assert [part for part in PARTS if f"- **{part}:** " not in THREATS[threat]] == []


@pytest.mark.parametrize("threat", THREATS)
def test_tests_that_show_a_threat_are_there(threat):
    named = re.findall(r"`(tests/[a-z_/]+\.py)`", THREATS[threat])
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("threat", THREATS)
def test_modules_that_stop_a_threat_are_there(threat):
    stopped = THREATS[threat].partition("**Stopped by:**")[2].partition("- **Remains:**")[0]
    named = [name for name in re.findall(r"`([a-z_.]+)`", stopped) if name.split(".")[0] in CODE]
    assert named
    places = [ROOT.joinpath(*name.split(".")) for name in named]
    assert [str(place) for place in places if not (place.is_dir() or place.with_suffix(".py").is_file())] == []


def test_threats_that_code_and_tests_cite_exist():
    cited = {
        number
        for folder in (*CODE, "tests/security")
        for path in (ROOT / folder).rglob("*.py")
        for number in re.findall(r"\bthreat (T\d+)\b|^\"\"\"(T\d+)", path.read_text(), flags=re.MULTILINE)
        for number in number
        if number
    }
    assert cited
    assert cited <= THREATS.keys()
